"""The sub-commands of `cag-uda domains` and `cag-uda recipes`: what is built in, and new files.

Heavy imports live inside commands, so that --help answers at once.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from cag_uda.cli.options import DataRoot


class ShowsByName(TyperGroup):
    """A group in which a name that is no command is shown: `domains camvid`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put `show` before a name."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


def _group(name: str, text: str) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=text,
        cls=ShowsByName,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


domains = _group("domains", "List the built-in domains; show one, or write one for your folder.")
recipes = _group("recipes", "List the built-in recipes; show one, or write one for two domains.")

Out = Annotated[Path | None, typer.Option(help="The file; default: a name of its own here.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]


@domains.callback()
def list_domains(context: typer.Context) -> None:
    """List the built-in domains; show one, or write one for your folder."""
    if context.invoked_subcommand is None:
        from cag_uda.cli.domains import list_domains as list_all

        list_all(Console())


@domains.command("show")
def show_domain(
    name: Annotated[str, typer.Argument(help="Of a built-in domain.")],
) -> None:
    """Print the file of a built-in domain, to start your own from; `domains NAME` does the same."""
    from cag_uda.cli.domains import domain_source

    typer.echo(domain_source(name), nl=False)


@domains.command("new")
def new_domain(
    folder: Annotated[Path, typer.Argument(help="With the images, and labels if there are any.")],
    out: Out = None,
    name: Annotated[str | None, typer.Option(help="Of the domain; default: the folder's.")] = None,
    label_space: Annotated[
        str | None, typer.Option(help="Built-in label space of the labels; default: guessed.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Look into a folder and write a domain file for it, with its guesses explained."""
    from cag_uda.cli.domains_new import new_domain as write_domain

    write_domain(Console(), folder, out, name, label_space, overwrite)


@domains.command("spaces")
def list_spaces() -> None:
    """List the built-in label spaces with their classes."""
    from cag_uda.cli.domains import list_spaces as list_all

    list_all(Console())


@domains.command("schema")
def domain_schema() -> None:
    """Print the JSON schema of domain files, for editors."""
    from cag_uda.cli.schemas import json_schema

    typer.echo(json_schema("domain"), nl=False)


@recipes.callback()
def list_recipes(context: typer.Context) -> None:
    """List the built-in recipes; show one, or write one for two domains."""
    if context.invoked_subcommand is None:
        from cag_uda.cli.recipes import list_recipes as list_all

        list_all(Console())


@recipes.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="A built-in recipe's name, or a file.")],
    complete: Annotated[
        bool, typer.Option("--complete", help="Name every setting, defaults too.")
    ] = False,
) -> None:
    """Print a recipe, to start your own from; `recipes NAME` does the same."""
    from cag_uda.cli.recipes import recipe_source

    typer.echo(recipe_source(name, complete), nl=False)


@recipes.command("new")
def new_recipe(
    source: Annotated[str, typer.Argument(help="The labelled domain: built-in, or a file.")],
    target: Annotated[str, typer.Argument(help="The domain to adapt to: built-in, or a file.")],
    out: Out = None,
    machine: Annotated[str, typer.Option(help="small (no GPU) or gpu.")] = "small",
    method: Annotated[
        str, typer.Option(help="That it ends with: cag-plus, or cag in the paper's stages.")
    ] = "cag-plus",
    data_root: DataRoot = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a whole recipe for two domains, with comments."""
    from cag_uda.cli.recipes import new_recipe as write_recipe

    write_recipe(Console(), source, target, out, machine, method, data_root, overwrite)


@recipes.command("schema")
def recipe_schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from cag_uda.cli.schemas import json_schema

    typer.echo(json_schema("recipe"), nl=False)
