"""The command line: all commands, and how it ends.

Each command is a file beside this one. Heavy imports live inside commands, so that --help answers
at once.
"""

import io
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cag_uda import __version__
from cag_uda.cli.adapt import adapt, demo
from cag_uda.cli.bench import bench
from cag_uda.cli.check import check
from cag_uda.cli.compare import compare
from cag_uda.cli.console import printable
from cag_uda.cli.domains import domains
from cag_uda.cli.evaluate import evaluate
from cag_uda.cli.export import export
from cag_uda.cli.group import Command, Group
from cag_uda.cli.import_ import import_
from cag_uda.cli.pack import pack
from cag_uda.cli.plan import plan
from cag_uda.cli.predict import predict
from cag_uda.cli.pseudo_label import pseudo_label
from cag_uda.cli.recipes import recipes
from cag_uda.cli.report import report
from cag_uda.cli.select import select
from cag_uda.cli.suggest import suggest
from cag_uda.errors import UserError
from cag_uda.training.process import prepare_process

app = typer.Typer(
    name="cag-uda",
    help="Adapt a semantic segmentation network to images that nobody has labelled.",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

commands: list[Callable[..., None]] = [adapt, compare, select, suggest, demo, bench, plan]
commands += [evaluate, predict, pseudo_label, export, pack, check]
for command in commands:
    app.command(cls=Command)(command)
app.command("import", cls=Command)(import_)
app.add_typer(recipes)
app.add_typer(domains)
app.command(cls=Command)(report)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cag-uda {__version__}")
        raise typer.Exit()


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Adapt a semantic segmentation network to images that nobody has labelled."""


_UsageError: Any = typer.BadParameter.__mro__[1]
"""Exception of typer for a command line that it cannot read; it has no public name."""


def main() -> None:
    """Run the command line; user errors end with code 2 and one line each."""
    prepare_process()
    _print_any_name()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except UserError as error:
        problems = error.problems
    except _UsageError as error:
        problems = _usage_problems(error)
    for problem in problems:
        sys.stderr.write(f"error: {printable(problem)}\n")
    sys.exit(UserError.exit_code)


def _print_any_name() -> None:
    """Let names of files that are no UTF-8 be printed, with an escape for the byte."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _usage_problems(error: Any) -> list[str]:
    """Say what is wrong with a command line; nothing where the help that was shown says it all."""
    message = str(error.format_message()).strip().rstrip(".").replace("Value error, ", "")
    command = "cag-uda" if error.ctx is None else error.ctx.command_path
    return [f"{message[0].lower()}{message[1:]}; see `{command} --help`"] if message else []
