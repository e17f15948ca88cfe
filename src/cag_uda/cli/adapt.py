"""`cag-uda adapt` and `demo`: a recipe run through all its stages."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from cag_uda.cli.console import OnConsole
from cag_uda.recipes import load_recipe
from cag_uda.runs.runner import adapt
from cag_uda.training.interrupt import Interrupted
from cag_uda.training.processes import speaks


def adapt_recipe(
    console: Console,
    name: str,
    out: Path,
    changes: list[str],
    data_root: Path | None,
    resume: bool,
) -> None:
    """Run a recipe and print what its stages score.

    Raises:
        UserError: for anything wrong with recipe, data, device or folder.
        typer.Exit: with a signal's exit code, where one has stopped the run.
    """
    recipe = load_recipe(name, changes, data_root)
    with interruptible("go on with --resume"):
        run = adapt(recipe, out, resume=resume, progress=OnConsole(console))
    if not speaks():
        return
    console.print(_stage_table(run.scores))
    console.print(f"network: {run.model}\nreport:  {run.folder / 'report.html'}", highlight=False)


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """End with a signal's exit code, and with what to do, where one has stopped the work."""
    try:
        yield
    except Interrupted as interruption:
        sys.stderr.write(f"{interruption}; {advice}\n")
        raise typer.Exit(interruption.exit_code) from interruption


def _stage_table(scores: dict[str, Any]) -> Table:
    """One row a stage: what it started from, its steps, its mIoU and what it gained."""
    scored = f": mIoU on {scores['target']}" if scores["target"] else ""
    table = Table("stage", "from", title=f"{scores['recipe']}{scored}")
    for heading in ("steps", "time", "mIoU", "over source-only"):
        table.add_column(heading, justify="right")
    for stage in scores["stages"]:
        miou = "–" if stage["miou"] is None else f"{100 * stage['miou']:.1f}"
        gain = stage.get("gain")
        gained = f"{gain['points']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]" if gain else ""
        table.add_row(
            stage["name"],
            stage["start"],
            str(stage["steps"]),
            f"{stage['elapsed_s']:.0f} s",
            miou,
            gained,
        )
    return table
