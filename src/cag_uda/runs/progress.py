"""Interface by which long work reports its progress."""

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Receiver of a run's progress."""

    def note(self, text: str) -> None:
        """Show a message."""

    def update(self, label: str, done: int, total: int, values: Mapping[str, float] = {}) -> None:
        """Show that `done` of `total` steps of some work are done; `done == total` ends it."""


class Silent:
    """Progress that shows nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def update(self, label: str, done: int, total: int, values: Mapping[str, float] = {}) -> None:
        """Do nothing."""
