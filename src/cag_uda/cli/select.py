"""`cag-uda select`: ranks the networks of runs without a label of the target."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from cag_uda.files import write_json
from cag_uda.runs.criteria import record_missing
from cag_uda.runs.selection import Checkpoint, best_kept, checkpoints, ordered, parts_of
from cag_uda.types import CriterionName

_WIDE = 130
"""Columns of a terminal that has room for every criterion; all are in the JSON file."""


def select_networks(
    console: Console, runs: list[Path], criterion: str, json_file: Path | None
) -> None:
    """Print every network of one or more runs, the best by a criterion first.

    Args:
        console: where to print.
        runs: run folders of one pair of domains.
        criterion: a criterion, or several joined by "+": the mean of the ranks by each.
        json_file: where the ranking is written too.

    Raises:
        UserError: for an unknown criterion, or a folder that is no run.
    """
    parts_of(criterion)
    found: list[Checkpoint] = []
    for run in runs:
        if (run / "recipe.toml").is_file():
            record_missing(run)
        found += checkpoints(run)
    chosen, by_rank = best_kept(found, criterion), ordered(found, criterion)
    is_wide = console.width >= _WIDE
    shown = get_args(CriterionName) if is_wide else parts_of(criterion)
    console.print(_table(by_rank, criterion, shown))
    console.print(f"the best that was kept: {chosen.network}", highlight=False)
    if json_file is not None:
        ranking = [{"rank": rank, **_plain(each)} for rank, each in by_rank]
        write_json(json_file, {"criterion": criterion, "ranking": ranking})


def _table(
    by_rank: list[tuple[float, Checkpoint]], criterion: str, names: Sequence[CriterionName]
) -> Table:
    table = Table("rank", "run", "stage", title=f"by {criterion}, without labels of the target")
    for heading in ("steps", *names):
        table.add_column(heading, justify="right")
    for rank, each in by_rank:
        values = [each.criteria.get(name) for name in names]
        shown = ["–" if value is None else f"{value:.3f}" for value in values]
        stage = each.stage if each.network else f"({each.stage}, not kept)"
        table.add_row(f"{rank:g}", each.run.name, stage, str(each.step), *shown)
    return table


def _plain(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "run": str(checkpoint.run),
        "stage": checkpoint.stage,
        "step": checkpoint.step,
        "network": None if checkpoint.network is None else str(checkpoint.network),
        "criteria": checkpoint.criteria,
    }
