"""Printing of commands: names as they are, and a word before anything that takes seconds."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cag_uda.runs.console import OnConsole, make_console, printable

__all__ = ["OnConsole", "begin", "make_console", "make_table", "printable"]


def begin(what: str) -> Console:
    """Say what comes, before imports and reading that take seconds; returns the console."""
    console = make_console()
    console.print(printable(f"{what} …"), style="dim", soft_wrap=True)
    return console


def make_table(words: Sequence[str], numbers: Sequence[str], **looks: Any) -> Table:
    """Make a table whose first columns hold words, and the others numbers, set right."""
    table = Table(*words, **looks)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table
