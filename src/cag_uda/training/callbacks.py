"""Callbacks: what the loop calls at the points of a stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from cag_uda.methods.base import Method
from cag_uda.runs.records.stage import MetricsLine

ForLog: TypeAlias = Mapping[str, Any]
"""Measurements of a step, by the names of `MetricsLine`."""


class Callback:
    """Base of all callbacks; each method does nothing. Every process calls all but `on_log`."""

    def on_prepared(self, method: Method) -> None:
        """Called when a stage's anchors and thresholds stand, before its first step."""

    def on_start(self, folder: Path, step: int) -> None:
        """Called before the first step, or the first after a resumption, when `step` are taken."""

    def on_step(self, method: Method, step: int) -> ForLog:
        """Called after each step, when `step` are taken, before its checkpoint.

        Returns what the log shall have of it; nothing, if empty.
        """
        return {}

    def on_end(self, method: Method) -> None:
        """Called when a stage is trained and `Method.finish` is done."""

    def on_log(self, record: MetricsLine) -> None:
        """Called in the first process for each record, when it is written."""


Callbacks: TypeAlias = Sequence[Callback]


def is_due(step: int, every: int | None) -> bool:
    """Tell whether something that is done every so many steps is done after `step` steps."""
    return bool(every) and step % (every or 1) == 0
