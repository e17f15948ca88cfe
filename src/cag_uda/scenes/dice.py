"""Random numbers that depend on a key alone. Knows nothing of scenes."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

Option = TypeVar("Option")

_DRAWN_AT_ONCE = 1024


class Dice:
    """A stream of random choices, the same for the same key on every machine.

    A key is whole numbers from 0 on; different keys give independent streams. Scalars are handed
    out of a block drawn at once: NumPy's own scalar draws cost ten times more.
    """

    def __init__(self, *key: int) -> None:
        self.generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        self._block: Iterator[float] = iter(())

    def unit(self) -> float:
        """Draw a number, uniform in [0, 1)."""
        for value in self._block:
            return value
        self._block = iter(self.generator.random(_DRAWN_AT_ONCE).tolist())
        return next(self._block)

    def uniform(self, low: float, high: float) -> float:
        """Draw a number, uniform in [low, high)."""
        return low + (high - low) * self.unit()

    def integer(self, low: int, high: int) -> int:
        """Draw a whole number, uniform in low … high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Say yes with the given probability."""
        return self.unit() < probability

    def pick(self, options: Sequence[Option]) -> Option:
        """Draw one of several options, each as likely."""
        return options[int(self.unit() * len(options))]

    def sign(self) -> int:
        """Draw -1 or 1."""
        return 1 if self.unit() < 0.5 else -1

    def weighted(self, options: dict[Option, float]) -> Option:
        """Draw one of several options by their weights, which need not sum to one."""
        left = self.unit() * sum(options.values())
        for option, weight in options.items():
            left -= weight
            if left < 0:
                return option
        return next(reversed(options))
