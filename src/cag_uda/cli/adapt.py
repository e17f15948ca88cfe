"""`cag-uda adapt` and `demo`: a recipe run through all its stages."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cag_uda.cli import options
from cag_uda.cli.console import OnConsole, begin, make_table

if TYPE_CHECKING:
    from cag_uda.runs.records.run import Scores


def adapt(
    recipe: options.RecipeName,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/RECIPE.")] = None,
    data_root: options.DataRoot = None,
    change: options.Sets = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    resume: options.Resume = False,
    devices: Annotated[int | None, typer.Option(help="Processes, one device each.")] = None,
    track: options.Track = None,
    accelerator: options.Accelerator = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Adapt a network through every stage of a recipe, warm-up included."""
    changes = [*(change or []), *options.compute_changes(accelerator, precision)]
    changes += [] if seed is None else [f"seed={seed}"]
    changes += [] if devices is None else [f"compute.devices={devices}"]
    changes += [] if track is None else [f"tracking.loggers={options.names_in(track)}"]
    is_its_run = out in (None, Path(recipe)) and (Path(recipe) / "recipe.toml").is_file()
    if resume and is_its_run:
        out, recipe = Path(recipe), str(Path(recipe) / "recipe.toml")
    place = out or Path("runs") / Path(recipe).stem
    _adapt(recipe, place, changes, data_root, resume, steps)


def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("demo"),
    seed: options.Seed = None,
    steps: options.Steps = None,
    resume: options.Resume = False,
) -> None:
    """Render two small domains and adapt from one to the other: no download, no GPU, minutes."""
    changes = [] if seed is None else [f"seed={seed}"]
    _adapt("demo", out, changes, None, resume, steps)


def _adapt(
    name: str,
    out: Path,
    changes: list[str],
    data_root: Path | None,
    resume: bool,
    steps: int | None,
) -> None:
    """Run a recipe and print what its stages score."""
    console = begin(f"reading recipe {name}")
    from cag_uda.runs.runner import adapt
    from cag_uda.training.processes import speaks

    recipe = options.recipe_of(name, changes, data_root, steps)
    with interruptible("go on with --resume"):
        run = adapt(recipe, out, resume=resume, progress=OnConsole(console))
    if not speaks():
        return
    console.print(_stage_table(run.scores))
    if run.scores.target is None:
        console.print(
            "no mIoU: the target has no labelled split to score; the report shows pictures and "
            "label-free criteria",
            soft_wrap=True,
        )
    console.print(f"network: {run.model}\nreport:  {run.folder / 'report.html'}", soft_wrap=True)
    verdict = run.verdict
    if verdict is not None:
        safe = verdict.name_of(verdict.safe)
        delivered = f"; {safe} is delivered" if recipe.deliver == "safe" else ""
        console.print(f"verdict: {verdict.in_words()}{delivered}", soft_wrap=True)
    elif (reason := run.no_verdict_because) is not None:
        console.print(f"no verdict: {reason}", soft_wrap=True)


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """End with a signal's exit code, and with what to do, where one has stopped the work."""
    from cag_uda.training.interrupt import Interrupted

    try:
        yield
    except Interrupted as interruption:
        sys.stderr.write(f"{interruption}; {advice}\n")
        raise typer.Exit(interruption.exit_code) from interruption


def _stage_table(scores: "Scores") -> Table:
    """Make one row a stage: what it started from, its steps, its mIoU and what it gained."""
    scored = f": mIoU on {scores.target}" if scores.target else ""
    floors = {stage.gain.over for stage in scores.stages if stage.gain is not None}
    over = floors.pop() if len(floors) == 1 else "source-only"
    numbers = ("steps", "time", "mIoU", f"over {over}")
    table = make_table(("stage", "from"), numbers, title=f"{scores.recipe}{scored}")
    for stage in scores.stages:
        table.add_row(
            stage.in_words,
            stage.start,
            str(stage.steps),
            f"{stage.elapsed_s or 0:.0f} s",
            "–" if stage.miou is None else f"{100 * stage.miou:.1f}",
            "" if stage.gain is None else stage.gain.in_points(),
        )
    return table
