"""Printing of commands: names as they are, and a word before anything that takes seconds."""

from rich.console import Console

from cag_uda.runs.console import OnConsole, make_console, printable

__all__ = ["OnConsole", "begin", "make_console", "printable"]


def begin(console: Console, what: str) -> None:
    """Say what comes, before imports and reading that take seconds."""
    console.print(printable(f"{what} …"), style="dim", soft_wrap=True)
