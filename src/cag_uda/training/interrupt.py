"""Signals that ask a run to stop: the step is finished, the state saved, the exit code kept."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """A run that stopped on the signal of a number, with everything saved."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}")

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int]]:
        """Give what another process needs to make it again."""
        return type(self), (self.number,)


@dataclass
class StopRequest:
    """Request to stop, made by a signal."""

    number: int | None = None

    def check(self) -> None:
        """Raise Interrupted if one has."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and Ctrl-C into a request; a second one has its usual effect at once."""
    request = StopRequest()
    previous: dict[int, Any] = {}

    def ask(number: int, _: FrameType | None) -> None:
        request.number = number
        for each, handler in previous.items():
            signal.signal(each, handler)

    with suppress(ValueError):  # Outside the main thread whoever started it handles signals.
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, ask)
    try:
        yield request
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
