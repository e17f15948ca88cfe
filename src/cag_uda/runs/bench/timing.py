"""Interleaved timing and the rows of the bench's table."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio, and the bound that it is held to."""

    part: str
    what: str
    figure: float
    unit: str
    """Base that the figure is a multiple of, or its unit."""
    at_most: float

    @property
    def is_met(self) -> bool:
        """True if the bound holds."""
        return self.figure <= self.at_most


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved_s(
    parts: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Time several pieces of work in turn, so that a noisy neighbour disturbs all of them alike.

    Each round runs every part once, in an order that turns; one more before them warms up. Returns
    the seconds of each part in each round.
    """
    times: dict[str, list[float]] = {name: [] for name in parts}
    names = list(parts)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wait_for(device)
            begun_s = time.perf_counter()
            parts[name]()
            wait_for(device)
            if turn:
                times[name].append(time.perf_counter() - begun_s)
    return times


def median_ratio(over: list[float], under: list[float]) -> float:
    """Compute the median over rounds of the ratio within each round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))
