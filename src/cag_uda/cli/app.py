"""The command line: all commands, and how it ends.

Each command is a file beside this one. Heavy imports live inside commands, so that --help answers
at once.
"""

import io
import os
import sys
from typing import Any

import typer

from cag_uda.cli.adapt import adapt, demo
from cag_uda.cli.bench import bench
from cag_uda.cli.check import check
from cag_uda.cli.compare import compare
from cag_uda.cli.domains import domains
from cag_uda.cli.evaluate import evaluate
from cag_uda.cli.export import export
from cag_uda.cli.import_ import import_
from cag_uda.cli.plan import plan
from cag_uda.cli.predict import predict
from cag_uda.cli.pseudo_label import pseudo_label
from cag_uda.cli.recipes import recipes
from cag_uda.cli.report import report
from cag_uda.cli.select import select
from cag_uda.errors import UserError

app = typer.Typer(
    name="cag-uda",
    help="Adapt a semantic segmentation network to images that nobody has labelled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(adapt)
app.command()(compare)
app.command()(select)
app.command()(demo)
app.command()(bench)
app.command()(plan)
app.command()(evaluate)
app.command()(predict)
app.command("pseudo-label")(pseudo_label)
app.command()(export)
app.command()(check)
app.command("import")(import_)
app.add_typer(recipes)
app.add_typer(domains)
app.command()(report)

_UsageError: Any = typer.BadParameter.__mro__[1]
"""What typer raises for a command line that it cannot read; it has no public name for it."""


def main() -> None:
    """Run the command line; user errors end with code 2 and one line each."""
    # Loader and network share few cores: a thread that waits must not spin (libgomp reads it once).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _print_any_name()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except UserError as error:
        problems = error.problems
    except _UsageError as error:
        problems = _usage_problems(error)
    for problem in problems:
        sys.stderr.write(f"error: {problem}\n")
    sys.exit(2)


def _print_any_name() -> None:
    """Let names of files that are no UTF-8 be printed, with an escape for the byte."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _usage_problems(error: Any) -> list[str]:
    """What is wrong with a command line; nothing where the help that was shown says it all."""
    message = str(error.format_message()).strip().rstrip(".")
    command = "cag-uda" if error.ctx is None else error.ctx.command_path
    return [f"{message[0].lower()}{message[1:]}; see `{command} --help`"] if message else []
