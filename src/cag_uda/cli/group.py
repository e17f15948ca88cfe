"""A group of commands over built-in files, and options that both groups share."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cag_uda.errors import UserError

Out = Annotated[Path | None, typer.Option(help="The file; default: a name of its own here.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]


class ShowsByName(TyperGroup):
    """A group in which a name that is no command is shown: `domains camvid`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put `show` before a name."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


def group(name: str, text: str) -> typer.Typer:
    """Make a group: without a command it lists, with a name it shows.

    Args:
        name: of the group on the command line.
        text: its help.
    """
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
