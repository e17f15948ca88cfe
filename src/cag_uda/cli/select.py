"""`cag-uda select`: ranks the networks of runs without a label of the target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.table import Table

from cag_uda.cli.console import begin, make_table
from cag_uda.cli.options import JsonFile

if TYPE_CHECKING:
    from cag_uda.runs.selection import Checkpoint
    from cag_uda.types import CriterionName

_WIDE = 130
"""Columns of a terminal that has room for every criterion; all are in the JSON file."""


def select(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one pair of domains.")],
    by: Annotated[
        str | None, typer.Option(help="A criterion, or several with +: the mean of their ranks.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Rank the networks of runs without a label of the target."""
    console = begin(f"reading {', '.join(map(str, runs))}")
    from cag_uda.files import write_json
    from cag_uda.runs.criteria import record_missing
    from cag_uda.runs.records.run import RankedNetwork, Ranking
    from cag_uda.runs.selection import DEFAULT_CRITERION, best_kept, checkpoints, ordered, parts_of

    criterion = by or DEFAULT_CRITERION
    names = parts_of(criterion)
    found: list[Checkpoint] = []
    for run in runs:
        if (run / "recipe.toml").is_file():
            record_missing(run)
        found += checkpoints(run)
    chosen, by_rank = best_kept(found, criterion), ordered(found, criterion)
    console.print(_table(by_rank, criterion, names, console.width >= _WIDE))
    console.print(f"the best that was kept: {chosen.network}")
    if json_file is not None:
        ranking = [
            RankedNetwork(
                rank=rank,
                run=str(each.run),
                stage=each.stage,
                step=each.step,
                network=None if each.network is None else str(each.network),
                criteria=each.criteria,
            )
            for rank, each in by_rank
        ]
        write_json(json_file, Ranking(criterion=criterion, ranking=ranking).plain())


def _table(
    by_rank: list[tuple[float, Checkpoint]],
    criterion: str,
    names: Sequence[CriterionName],
    is_wide: bool,
) -> Table:
    """Make one row a network, with the criteria that were asked for or, given room, all."""
    from cag_uda.types import CriterionName

    names = get_args(CriterionName) if is_wide else names
    title = f"by {criterion}, without labels of the target"
    table = make_table(("rank", "run", "stage"), ("steps", *names), title=title)
    for rank, each in by_rank:
        values = [each.criteria.get(name) for name in names]
        shown = ["–" if value is None else f"{value:.3f}" for value in values]
        stage = each.stage if each.network else f"({each.stage}, not kept)"
        table.add_row(f"{rank:g}", each.run.name, stage, str(each.step), *shown)
    return table
