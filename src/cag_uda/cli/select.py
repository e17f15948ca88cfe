"""`cag-uda select`: ranks the networks of runs without a label of the target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.table import Table

from cag_uda.cli.console import begin, make_console

if TYPE_CHECKING:
    from cag_uda.runs.records.run import RankedNetwork
    from cag_uda.runs.selection import Checkpoint
    from cag_uda.types import CriterionName

_WIDE = 130
"""Columns of a terminal that has room for every criterion; all are in the JSON file."""


def select(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one pair of domains.")],
    by: Annotated[
        str | None, typer.Option(help="A criterion, or several with +: the mean of their ranks.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the ranking here too.")
    ] = None,
) -> None:
    """Rank the networks of runs without a label of the target."""
    console = make_console()
    begin(console, f"reading {', '.join(map(str, runs))}")
    from cag_uda.files import write_json
    from cag_uda.runs.criteria import record_missing
    from cag_uda.runs.records.run import Ranking
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
    console.print(f"the best that was kept: {chosen.network}", highlight=False)
    if json_file is not None:
        ranking = [_record(rank, each) for rank, each in by_rank]
        write_json(json_file, Ranking(criterion=criterion, ranking=ranking).plain())


def _table(
    by_rank: list[tuple[float, Checkpoint]],
    criterion: str,
    names: Sequence[CriterionName],
    is_wide: bool,
) -> Table:
    """One row a network, with the criteria that were asked for or, given room, all."""
    from cag_uda.types import CriterionName

    names = get_args(CriterionName) if is_wide else names
    table = Table("rank", "run", "stage", title=f"by {criterion}, without labels of the target")
    for heading in ("steps", *names):
        table.add_column(heading, justify="right")
    for rank, each in by_rank:
        values = [each.criteria.get(name) for name in names]
        shown = ["–" if value is None else f"{value:.3f}" for value in values]
        stage = each.stage if each.network else f"({each.stage}, not kept)"
        table.add_row(f"{rank:g}", each.run.name, stage, str(each.step), *shown)
    return table


def _record(rank: float, checkpoint: Checkpoint) -> RankedNetwork:
    from cag_uda.runs.records.run import RankedNetwork

    return RankedNetwork(
        rank=rank,
        run=str(checkpoint.run),
        stage=checkpoint.stage,
        step=checkpoint.step,
        network=None if checkpoint.network is None else str(checkpoint.network),
        criteria=checkpoint.criteria,
    )
