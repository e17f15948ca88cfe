"""`cag-uda domains`: what is built in, and a domain file for a folder of one's own."""

from __future__ import annotations

import tomllib
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cag_uda.cli.console import begin, make_console
from cag_uda.cli.group import Command, group, refuse_existing
from cag_uda.cli.options import Out, Overwrite
from cag_uda.errors import UserError

if TYPE_CHECKING:
    from cag_uda.data.inspection.draft import Draft

domains = group("domains", "List the built-in domains; show one, or write one for your folder.")


@domains.callback()
def list_domains(context: typer.Context) -> None:
    """List the built-in domains; show one, or write one for your folder."""
    if context.invoked_subcommand is not None:
        return
    from cag_uda.data.domains.builtin import domain_files

    table = Table("domain", "label space", "splits", box=None)
    for each, file in domain_files().items():
        entry = tomllib.loads(file.read_text(encoding="utf-8"))
        table.add_row(each, str(entry.get("label_space", "")), ", ".join(entry.get("splits", {})))
    make_console().print(table)


@domains.command("show", cls=Command)
def show_domain(name: Annotated[str, typer.Argument(help="Name of a built-in domain.")]) -> None:
    """Print the file of a built-in domain, to start your own from; `domains NAME` does the same."""
    from cag_uda.data.domains.builtin import domain_files
    from cag_uda.data.domains.schema_errors import did_you_mean

    known = domain_files()
    if name not in known:
        raise UserError(
            f"no built-in domain {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
        )
    typer.echo(known[name].read_text(encoding="utf-8"), nl=False)


@domains.command("new", cls=Command)
def new_domain(
    folder: Annotated[Path, typer.Argument(help="With the images, and labels if there are any.")],
    out: Out = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the domain; default: the folder's.")
    ] = None,
    label_space: Annotated[
        str | None, typer.Option(help="Built-in label space of the labels; default: guessed.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Look into a folder and write a domain file for it, with its guesses explained."""
    console = begin(f"looking into {folder}")
    from cag_uda.data.inspection.draft import draft_domain, name_of
    from cag_uda.files import write_text
    from cag_uda.recipes.json_schema import schema_line

    name = name or name_of(folder)
    file = out or Path(f"{name}.toml")
    refuse_existing(file, overwrite)
    draft = draft_domain(folder, file, name, label_space)
    write_text(file, f"{schema_line('domain', file.parent)}\n{draft.text}")
    _describe(console, draft, file)


@domains.command("spaces", cls=Command)
def list_spaces() -> None:
    """List the built-in label spaces with their classes."""
    from cag_uda.data.domains.builtin import label_space_files
    from cag_uda.data.domains.label_space import LabelSpace

    for name in label_space_files():
        space = LabelSpace.load(name)
        listed = ", ".join(f"{train_id} {each}" for train_id, each in enumerate(space.names))
        make_console().print(Text(f"{name}:", "bold"), listed, soft_wrap=True)


@domains.command("schema", cls=Command)
def domain_schema() -> None:
    """Print the JSON schema of domain files, for editors."""
    from cag_uda.recipes.json_schema import json_schema

    typer.echo(json_schema("domain"), nl=False)


def _describe(console: Console, draft: Draft, file: Path) -> None:
    """Print what was seen, and what comes next."""
    inspection, meaning = draft.inspection, draft.meaning
    table = Table("split", "images", "labels", "number", box=None)
    for split in inspection.splits:
        labels = "\n".join(split.labels) or "–"
        table.add_row(split.name, "\n".join(split.images), labels, str(split.count))
    console.print(table)
    look, drawn = inspection.labels, inspection.annotations
    if drawn is not None:
        names = ", ".join(f"{name} ({count})" for name, count in drawn.names.items())
        console.print(f"labels: {drawn.encoding}, shapes: {names}")
    if look is not None:
        channel = "" if look.channel is None else f" {look.channel}"
        console.print(
            f"labels: {look.encoding}{channel}, {len(look.codes)} different values in "
            f"{look.images} images; {meaning.why}",
            soft_wrap=True,
        )
    for note in (*inspection.notes, *draft.problems):
        console.print(f"note: {note}", soft_wrap=True)
    is_to_name = bool(meaning.classes) and not meaning.is_named
    advice = "give the classes their names in it, then " if is_to_name else ""
    console.print(
        f"{file} is written: {advice}run cag-uda check {quote(str(file))}", soft_wrap=True
    )
