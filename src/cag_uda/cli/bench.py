"""`cag-uda bench`: what a step of the method costs on this device, in one table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

import typer
from rich.table import Table

from cag_uda.cli.console import begin
from cag_uda.cli.options import Accelerator, JsonFile, Precision


def bench(
    part: Annotated[
        Literal["step", "plus", "both"], typer.Argument(help="What to measure; default: both.")
    ] = "both",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each comparison.")] = 15,
    accelerator: Accelerator = "auto",
    precision: Precision = "auto",
    json_file: JsonFile = None,
) -> None:
    """Measure a step of CAG over the bare step, and one of CAG-plus over one of DACS."""
    console = begin("preparing")
    import torch

    from cag_uda.files import write_json
    from cag_uda.runs.bench.step import SIZES, overhead, plus_over_dacs
    from cag_uda.training.compute import resolve_accelerator, settle_arithmetic
    from cag_uda.training.settings import ComputeConfig

    settle_arithmetic()
    compute = ComputeConfig.model_validate({"accelerator": accelerator, "precision": precision})
    device = torch.device(resolve_accelerator(compute))
    rows = []
    for size in SIZES:
        begin(f"measuring {size.name}")
        rows += [overhead(size, compute, rounds)] if part != "plus" else []
        rows += plus_over_dacs(size, compute, rounds) if part != "step" else []
    title = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    table = Table("part", "what", "figure", "wanted", "", title=title)
    for row in rows:
        mark = "met" if row.is_met else "missed"
        figure = f"{row.figure:.3g} {row.unit}"
        table.add_row(row.part, row.what, figure, f"≤ {row.at_most:g}", mark)
    console.print(table)
    if json_file is not None:
        write_json(json_file, [asdict(row) for row in rows])
