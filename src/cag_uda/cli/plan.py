"""`cag-uda plan`: memory and time of a run before it, in one table."""

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cag_uda.cli.console import OnConsole
from cag_uda.files import write_json
from cag_uda.recipes import load_recipe
from cag_uda.report.words import UNDEFINED, duration
from cag_uda.runs.planning import Forecast, Setting, StageForecast, plan

_WAITS = 0.9
"""Of a step's time, from which loading counts as what training waits for."""


def plan_recipe(
    console: Console,
    name: str,
    changes: list[str],
    data_root: Path | None,
    *,
    memory_gib: float | None,
    json_file: Path | None,
) -> bool:
    """Print what a recipe will need, and what to change where it does not fit.

    Args:
        console: where it goes.
        name: of the recipe, or its path.
        changes: of the recipe, `KEY=VALUE` each.
        data_root: folder below which built-in domains lie.
        memory_gib: of a device that is meant in place of this one.
        json_file: where the figures go too.

    Returns:
        Whether it fits.

    Raises:
        UserError: for anything wrong with recipe, data or device.
    """
    recipe = load_recipe(name, changes, data_root)
    memory_mib = None if memory_gib is None else memory_gib * 1024
    forecast = plan(recipe, memory_mib=memory_mib, progress=OnConsole(console))
    console.print(_table(forecast))
    for line in _conclusions(forecast, recipe.loading.workers, recipe.compute.devices):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, forecast.to_dict())
    return forecast.fits


def _table(forecast: Forecast) -> Table:
    """One row a stage."""
    table = Table("stage", "method", title=f"{forecast.recipe}: {forecast.computing}")
    for heading in ("steps", "s/step", "images/s", "training", "scoring", "GiB"):
        table.add_column(heading, justify="right")
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
    """What the table means."""
    has = f"{_gib(forecast.peak_memory_mib)} of {_gib(forecast.available_mib)} that are there"
    if not forecast.fits:
        if forecast.total_s is not None:
            advice = "steps alone take less, but sweeps and scores want whole images: set "
            return [f"it does not fit: {has}; {advice}loading.width_px lower"]
        if not forecast.settings:
            return [f"it does not fit: {has}; choose a smaller backbone, or a larger device"]
        return [f"it does not fit: {has}; what fits, tried out:", *map(_option, forecast.settings)]
    lines = [f"{duration(forecast.total_s)} in all; at most {has}"]
    waiting = [stage.name for stage in forecast.stages if _waits(stage, forecast.load_s)]
    if waiting:
        lines.append(
            f"{', '.join(waiting)}: training waits for the loader, which takes "
            f"{forecast.load_s:.3g} s for a batch in {workers} processes; more of them help while "
            f"cores are left (this machine has {os.cpu_count()}): --set loading.workers=N"
        )
    if devices > 1:
        lines.append(f"measured on one of {devices} devices: what they exchange comes on top")
    return lines


def _option(setting: Setting) -> str:
    """A setting as the command line takes it."""
    changes = " ".join(f"--set '{change}'" for change in setting.changes())
    return f"  {_gib(setting.peak_memory_mib)}: {changes}"


def _waits(stage: StageForecast, load_s: float | None) -> bool:
    return bool(stage.step_s and load_s and load_s >= _WAITS * stage.step_s)


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"
