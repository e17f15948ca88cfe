"""Show the progress of long work on a console: bars on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from cag_uda.runs.progress import Progress, Silent

_LINE_EVERY_S = 15.0
_MOST_CHARACTERS = 2000
"""Most characters of a message that are printed: a file's content or name may make it very long."""


def make_console() -> Console:
    """Make a console that prints text as it is: no markup, no emoji, no guessed colours."""
    return Console(markup=False, emoji=False, highlight=False)


def shown(progress: Progress | bool | None) -> Progress:
    """Return the object that shows progress.

    Args:
        progress: that object itself; True: the console; False: one that shows nothing; None: the
            console in terminals and notebooks, else one that shows nothing.
    """
    if progress is None:
        progress = sys.stdout.isatty() or "ipykernel" in sys.modules
    if isinstance(progress, bool):
        return OnConsole(make_console()) if progress else Silent()
    return progress


def printable(text: str) -> str:
    """Escape control characters, which could steer a terminal, and cut a long message short."""
    shown = "".join(
        each if each in "\n\t" or each.isprintable() else ascii(each)[1:-1] for each in text
    )
    if len(shown) > _MOST_CHARACTERS:
        more = len(shown) - _MOST_CHARACTERS
        shown = f"{shown[:_MOST_CHARACTERS]} … ({more:,} more characters)"
    return shown


class OnConsole:
    """Bars with an estimate of what remains; without a terminal, a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._label = ""
        self._begun_s = 0.0
        self._spoken_s = 0.0
        self._first = 0

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, label: str, done: int, total: int, values: Mapping[str, float] = {}) -> None:
        """Move the bar, or print a line if the last is some seconds old."""
        now, losses = time.monotonic(), [f"{name} {value:.3f}" for name, value in values.items()]
        if label != self._label:
            self._close()
            self._label, self._begun_s, self._spoken_s, self._first = label, now, now, done
        if self._console.is_terminal:
            self._move_bar(label, done, total, " ".join(losses))
        elif done == total or now - self._spoken_s > _LINE_EVERY_S:
            self._spoken_s = now
            parts = [f"{label}: {done}/{total}"]
            if done < total:
                of_one_s = (now - self._begun_s) / max(1, done - self._first)
                parts.append(f"{of_one_s * (total - done):.0f} s left")
            self.note(printable(", ".join([*parts, *losses])))
        if done >= total:
            self._close()

    def _move_bar(self, label: str, done: int, total: int, losses: str) -> None:
        if self._bars is None:
            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[losses]}", markup=False),
                console=self._console,
                transient=True,
            )
            self._bars.start()
            self._bars.add_task(printable(label), total=total, losses="")
        self._bars.update(self._bars.task_ids[0], completed=done, losses=losses)

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._label = ""
