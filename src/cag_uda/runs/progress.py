"""Report the progress of long work to whoever watches."""

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """The interface by which a run reports its progress."""

    def note(self, text: str) -> None:
        """Say one thing."""

    def update(self, label: str, done: int, total: int, values: Mapping[str, float] = {}) -> None:
        """Say how far a piece of work is; `done == total` ends it."""


class Silent:
    """Tells nobody."""

    def note(self, text: str) -> None:
        """Nothing."""

    def update(self, label: str, done: int, total: int, values: Mapping[str, float] = {}) -> None:
        """Nothing."""
