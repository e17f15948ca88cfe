"""`cag-uda plan`: memory and time of a run before it, in one table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cag_uda.cli import options
from cag_uda.cli.console import OnConsole, begin, make_table

if TYPE_CHECKING:
    from cag_uda.runs.planning import Forecast, Setting

_WAITS = 0.9
"""Share of a step's time: where loading a batch takes this or more, training waits for it."""


def plan(
    recipe: options.RecipeName,
    data_root: options.DataRoot = None,
    change: options.Sets = None,
    steps: options.Steps = None,
    accelerator: options.Accelerator = "auto",
    precision: options.Precision = "auto",
    memory: Annotated[
        float | None, typer.Option(min=0.1, help="GiB of the device that is meant, if not this.")
    ] = None,
    json_file: options.JsonFile = None,
) -> None:
    """Tell before a run what memory and time its stages take here, and what would fit."""
    console = begin(f"reading recipe {recipe}")
    from cag_uda.files import write_json
    from cag_uda.runs.planning import plan

    changes = [*(change or []), *options.compute_changes(accelerator, precision)]
    loaded = options.recipe_of(recipe, changes, data_root, steps)
    memory_mib = None if memory is None else memory * 1024
    forecast = plan(loaded, memory_mib=memory_mib, progress=OnConsole(console))
    console.print(_table(forecast))
    for line in _conclusions(forecast, loaded.loading.workers, loaded.compute.devices):
        console.print(line, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, forecast.to_dict())
    if not forecast.fits:
        raise typer.Exit(2)


def _table(forecast: Forecast) -> Table:
    """Make one row a stage."""
    from cag_uda.report.words import UNDEFINED, duration

    numbers = ("steps", "s/step", "images/s", "training", "scoring", "GiB")
    title = f"{forecast.recipe}: {forecast.computing}"
    table = make_table(("stage", "method"), numbers, title=title)
    for stage in forecast.stages:
        table.add_row(
            stage.name,
            stage.method,
            str(stage.steps),
            UNDEFINED if stage.step_s is None else f"{stage.step_s:.3g}",
            UNDEFINED if not stage.step_s else f"{forecast.batch_size / stage.step_s:.3g}",
            duration(stage.training_s),
            duration(stage.scoring_s),
            f"{stage.most_memory_mib / 1024:.1f}",
        )
    return table


def _conclusions(forecast: Forecast, workers: int, devices: int) -> list[str]:
    """Draw conclusions from the table."""
    from cag_uda.report.words import duration

    has = f"{_gib(forecast.peak_memory_mib)} of the {_gib(forecast.available_mib)} available"
    if not forecast.fits:
        if forecast.total_s is not None:
            advice = "steps alone take less, but sweeps and scores need whole images: set "
            return [f"it does not fit: {has}; {advice}loading.width_px lower"]
        if not forecast.settings:
            return [f"it does not fit: {has}; choose a smaller backbone, or a larger device"]
        return [f"it does not fit: {has}; what fits, tried out:", *map(_option, forecast.settings)]
    lines = [f"{duration(forecast.total_s)} in all; at most {has}"]
    waiting = [
        stage.name
        for stage in forecast.stages
        if stage.step_s and forecast.load_s and forecast.load_s >= _WAITS * stage.step_s
    ]
    if waiting:
        lines.append(
            f"{', '.join(waiting)}: training waits for the loader, which takes "
            f"{forecast.load_s:.3g} s for a batch with {workers} workers; more of them help while "
            f"there are free cores (this machine has {os.cpu_count()}): --set loading.workers=N"
        )
    if devices > 1:
        lines.append(
            f"measured on one of {devices} devices: communication between them comes on top"
        )
    return lines


def _option(setting: Setting) -> str:
    """Write a setting as the command line takes it."""
    changes = " ".join(f"--set '{change}'" for change in setting.changes())
    return f"  {_gib(setting.peak_memory_mib)}: {changes}"


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"
