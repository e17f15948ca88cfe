"""Behaviour of commands and groups."""

import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from cag_uda.errors import UserError
from cag_uda.files import has_written

_INTERRUPTED = 130


class Command(TyperCommand):
    """A command whose help names no type of its flags, and which says what Ctrl-C has left."""

    def get_params(self, ctx: Any) -> Any:
        """List its options and arguments."""
        return _without_types_of_flags(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            left = "what was written is whole" if has_written() else "nothing was written"
            sys.stderr.write(f"\ninterrupted; {left}; give the same command again to go on\n")
            raise typer.Exit(_INTERRUPTED) from None


class Group(TyperGroup):
    """A group of commands, with the same help."""

    def get_params(self, ctx: Any) -> Any:
        """List its options."""
        return _without_types_of_flags(super().get_params(ctx))


class ShowsByName(Group):
    """A group in which a name that is no command is shown: `domains camvid`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put `show` before a name."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


def _without_types_of_flags(parameters: Any) -> Any:
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return parameters


def group(name: str, text: str) -> typer.Typer:
    """Make a group, `text` being its help: without a command it lists, with a name it shows."""
    return typer.Typer(
        name=name,
        help=text,
        cls=ShowsByName,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def refuse_existing(file: Path, overwrite: bool) -> None:
    """Raise UserError if a file is there already and may not be replaced."""
    if file.exists() and not overwrite:
        raise UserError(f"{file} exists already; choose another --out, or give --overwrite")
