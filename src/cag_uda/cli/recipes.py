"""`cag-uda recipes`: what is built in, and a recipe for two domains of one's own."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.table import Table

from cag_uda.cli.console import begin, make_console
from cag_uda.cli.group import Command, group, refuse_existing
from cag_uda.cli.options import DataRoot, Out, Overwrite

recipes = group("recipes", "List the built-in recipes; show one, or write one for two domains.")


@recipes.callback()
def list_recipes(context: typer.Context) -> None:
    """List the built-in recipes; show one, or write one for two domains."""
    if context.invoked_subcommand is not None:
        return
    from cag_uda.recipes import builtin_recipes, read_recipe_file

    table = Table("recipe", "what it does", box=None)
    for each, path in builtin_recipes().items():
        table.add_row(each, str(read_recipe_file(path).get("description", "")))
    make_console().print(table)


@recipes.command("show", cls=Command)
def show_recipe(
    name: Annotated[str, typer.Argument(help="A built-in recipe's name, or a file.")],
    complete: Annotated[
        bool, typer.Option("--complete", help="Name every setting, defaults too.")
    ] = False,
) -> None:
    """Print a recipe, to start your own from; `recipes NAME` does the same."""
    from cag_uda.data.files.toml import text_of
    from cag_uda.recipes import dump_recipe, find_recipe, load_recipe, read_recipe_file

    path = find_recipe(name)
    if complete:
        typer.echo(dump_recipe(load_recipe(name)), nl=False)
        return
    read_recipe_file(path)  # Raises for what is no recipe.
    typer.echo(text_of(path, "recipe"), nl=False)


@recipes.command("new", cls=Command)
def new_recipe(
    source: Annotated[
        str, typer.Argument(help="The labelled domain: built-in, or a file; or a pack.")
    ],
    target: Annotated[str, typer.Argument(help="The domain to adapt to: built-in, or a file.")],
    out: Out = None,
    machine: Annotated[str, typer.Option(help="small (no GPU) or gpu.")] = "small",
    method: Annotated[
        str | None,
        typer.Option(
            help="That it ends with: cag-plus (default), or cag in the paper's stages; of a pack, "
            "cag-plus-source-free (default: nothing that trains)."
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            help="Labelled images of the target in a domain of their own, to be scored: built-in, "
            "or a file."
        ),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(
            help="Labels of a few target images to train on: an annotation tool's file, or a "
            "folder of files."
        ),
    ] = None,
    data_root: DataRoot = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a whole recipe for two domains, with comments."""
    console = begin(f"reading {source} and {target}")
    from cag_uda.files import write_text
    from cag_uda.recipes.draft import draft_recipe
    from cag_uda.recipes.json_schema import schema_line

    if out is not None:
        refuse_existing(out, overwrite)
    folder = Path() if out is None else out.parent
    name, text, few = draft_recipe(
        source,
        target,
        folder,
        machine=machine,
        method=method,
        test_name=test,
        data_root=data_root,
        labelled=labelled,
    )
    file = out or Path(f"{name}.toml")
    refuse_existing(file, overwrite)
    if few is not None:
        beside = file.parent / few.file
        refuse_existing(beside, overwrite)
        write_text(beside, f"{schema_line('domain', file.parent)}\n{few.text}")
        console.print(
            f"{beside} lists the {few.images} images whose labels are trained on", soft_wrap=True
        )
    write_text(file, f"{schema_line('recipe', file.parent)}\n{text}")
    name = quote(str(file))
    console.print(
        f"{file} is written: read it, then run cag-uda check {name} and cag-uda adapt {name}",
        soft_wrap=True,
    )


@recipes.command("schema", cls=Command)
def recipe_schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from cag_uda.recipes.json_schema import json_schema

    typer.echo(json_schema("recipe"), nl=False)
