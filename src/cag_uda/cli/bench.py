"""`cag-uda bench`: the engine's costs on this device, in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cag_uda.cli.console import begin
from cag_uda.cli.options import Accelerator, JsonFile, Precision
from cag_uda.errors import UserError

if TYPE_CHECKING:
    from cag_uda.runs.bench.timing import Row

PARTS = ("step", "plus", "anchors", "growth", "cpu")


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="Some of step, plus, anchors, growth, cpu; default: all."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each comparison.")] = 15,
    accelerator: Accelerator = "auto",
    precision: Precision = "auto",
    json_file: JsonFile = None,
) -> None:
    """Measure what the engine costs on this device, as ratios within one run."""
    unknown = [part for part in parts or [] if part not in PARTS]
    if unknown:
        raise UserError(f"bench knows no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    console = begin("preparing")
    import torch

    from cag_uda.files import write_json
    from cag_uda.runs.bench import anchors, ladder, step
    from cag_uda.training.compute import resolve_accelerator, settle_arithmetic
    from cag_uda.training.settings import ComputeConfig

    settle_arithmetic()
    compute = ComputeConfig.model_validate({"accelerator": accelerator, "precision": precision})
    device = torch.device(resolve_accelerator(compute))
    work: dict[str, Callable[[], list[Row]]] = {
        "step": lambda: [step.overhead(size, compute, rounds) for size in step.SIZES],
        "plus": lambda: [
            row for size in step.SIZES for row in step.plus_over_dacs(size, compute, rounds)
        ],
        "anchors": lambda: [anchors.over_product(device, rounds)],
        "growth": lambda: anchors.growth(device, rounds),
        "cpu": lambda: ladder.ladder("resnet-18", max(1, rounds // 5)),
    }
    rows: list[Row] = []
    for part in parts or PARTS:
        begin(f"measuring {part}")
        rows += work[part]()
    title = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    console.print(_table(rows, title))
    if json_file is not None:
        write_json(json_file, [asdict(row) for row in rows])


def _table(rows: list[Row], title: str) -> Table:
    table = Table("part", "what", "figure", "wanted", "", title=title)
    for row in rows:
        wanted = f"≤ {row.at_most:g}" if row.at_most is not None else ""
        wanted = f"≥ {row.at_least:g}" if row.at_least is not None else wanted
        mark = {True: "met", False: "missed", None: ""}[row.is_met]
        table.add_row(row.part, row.what, f"{row.figure:.3g} {row.unit}", wanted, mark)
    return table
