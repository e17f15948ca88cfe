"""`cag-uda compare`: methods, or variants of CAG, on one pair with one budget, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cag_uda.cli import options
from cag_uda.cli.adapt import interruptible
from cag_uda.cli.console import OnConsole, begin, make_table
from cag_uda.errors import RunError

if TYPE_CHECKING:
    from cag_uda.comparison.compare import Comparison
    from cag_uda.runs.records.comparison import ComparisonRecord, OverSeeds


def compare(
    recipe: options.RecipeName,
    methods: Annotated[
        str | None,
        typer.Option(help="Names with commas; default: all. source-only and oracle always run."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from the recipe's on.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder of all runs; default: runs/compare-RECIPE.")
    ] = None,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Variants of CAG, and the research questions.")
    ] = False,
    settings: Annotated[
        Path | None, typer.Option(help="Your own methods.toml, or ablation.toml.")
    ] = None,
    data_root: options.DataRoot = None,
    change: options.Sets = None,
    accelerator: options.Accelerator = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Compare methods, or CAG's variants, on one budget; runs what is missing in --out."""
    console = begin(f"reading recipe {recipe}")
    from cag_uda.comparison.compare import plan_comparison
    from cag_uda.report import write_comparison

    changes = [*(change or []), *options.compute_changes(accelerator, precision)]
    loaded = options.recipe_of(recipe, changes, data_root)
    progress = OnConsole(console)
    with interruptible("give the same command again to go on"):
        comparison = plan_comparison(
            loaded,
            out or Path("runs") / f"compare-{Path(recipe).stem}",
            rows=None if methods is None else options.names_in(methods),
            seeds=seeds,
            ablation=ablation,
            settings=settings,
            progress=progress,
        )
        console.print(_plan_table(comparison))
        problems = comparison.run(progress)
        console.print(_result_table(comparison.write()))
        page = write_comparison(comparison.stem.with_suffix(".json"))
        console.print(f"page: {page}\nbeside it the same as .md, .csv and .json")
    if problems:
        raise RunError(problems)


def _plan_table(comparison: Comparison) -> Table:
    """Make the table of the plan: the budget of every row, and how many of its cells are there."""
    from cag_uda.comparison.cells import cells_of
    from cag_uda.comparison.plan import budget_of

    steps = budget_of(comparison.recipe)["steps"]
    title = f"{comparison.recipe.name}: {steps} steps for each"
    table = make_table(("method", "stages"), ("steps", "runs done"), title=title)
    for entry in comparison.entries:
        cells = cells_of([entry], comparison.seeds, comparison.out)
        done = sum(cell.is_finished for cell in cells)
        stages = ", ".join(
            f"{stage.name} {stage.steps or ''}".strip() for stage in entry.recipe.stages
        )
        where = "" if entry.run == entry.name else f" (run of {entry.run})"
        table.add_row(entry.name, stages + where, str(entry.steps), f"{done} of {len(cells)}")
    return table


def _result_table(made: ComparisonRecord) -> Table:
    """Make one row a method: mIoU, share of the gap, time, memory."""
    numbers = ("mIoU", "share of the gap", "over source-only", "time", "peak memory")
    title = f"{made.name}: mIoU on {made.target}, in per cent"
    table = make_table(("method",), numbers, title=title)
    for row in made.methods:
        table.add_row(row.name, *(_figures(row.summary) if row.summary else ["–"] * 5))
    return table


def _figures(summary: OverSeeds) -> Sequence[str]:
    from cag_uda.comparison.pages import per_cent, with_deviation

    memory = summary.peak_memory_mib
    return [
        with_deviation(summary),
        per_cent(summary.gap_share, digits=0, unit=" %"),
        "" if summary.gain is None else summary.gain.in_points(),
        f"{summary.time_s or 0:.0f} s",
        "–" if memory is None else f"{memory:.0f} MiB",
    ]
