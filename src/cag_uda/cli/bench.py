"""`cag-uda bench`: the engine's costs on this device, in one table."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from cag_uda.errors import UserError
from cag_uda.files import write_json
from cag_uda.runs.bench import anchors, ladder, step
from cag_uda.runs.bench.timing import Row
from cag_uda.training.compute import ComputeConfig, prepare_process, resolve_accelerator

PARTS = ("step", "plus", "anchors", "growth", "cpu")


def run_bench(
    console: Console,
    parts: list[str],
    *,
    rounds: int,
    accelerator: str,
    precision: str,
    json_file: Path | None,
) -> None:
    """Measure the named parts (all, if none is named) and print their rows.

    Args:
        console: where the table goes.
        parts: of PARTS.
        rounds: of each comparison.
        accelerator: auto, cpu or cuda.
        precision: of the training steps: auto, 32, bf16 or 16.
        json_file: where the rows go too.

    Raises:
        UserError: for an unknown part, or a device that is not there.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise UserError(f"bench knows no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    prepare_process()
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
    rows = []
    for part in parts or PARTS:
        console.print(f"measuring {part} …", style="dim")
        rows += work[part]()
    console.print(
        _table(rows, f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    )
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
