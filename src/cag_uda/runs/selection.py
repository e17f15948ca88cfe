"""Rank the networks of one or more runs by recorded criteria that need no label of the target.

An unknown criterion raises UserError everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from cag_uda.errors import RunError, UserError
from cag_uda.runs.records.run import INITIAL
from cag_uda.runs.records.stage import read_stage_criteria
from cag_uda.types import CriterionName

LOWER_IS_BETTER: frozenset[CriterionName] = frozenset({"entropy"})
EVIDENCE: tuple[CriterionName, ...] = ("expected-iou", "probe-iou")
"""Criteria whose mean the verdict compares networks by (docs/RESULTS.md)."""
DEFAULT_CRITERION = "+".join(EVIDENCE)
"""Criterion of `cag-uda select` unless told otherwise."""


@dataclass(frozen=True)
class Checkpoint:
    """One network of a run, as it was after some steps of a stage."""

    run: Path
    stage: str
    """Name of the stage."""
    step: int
    """Steps of the stage that it has taken."""
    network: Path | None
    """The model folder; None where it was not kept."""
    criteria: dict[str, float]
    shares: Sequence[float] | None = None
    """Share of each class in its predictions on the target; None: not recorded."""
    source_shares: Sequence[float] | None = None
    """Share of each class in the source's labels; None without a source."""


def checkpoints(run: Path) -> list[Checkpoint]:
    """List the networks of a run whose criteria were recorded, in the order of training."""
    root = run / "stages"
    if not root.is_dir():
        raise RunError(f"{run} is no run folder: it holds no stages; give what `adapt` wrote")
    stages = [(each, read_stage_criteria(each)) for each in sorted(root.iterdir(), key=_number)]
    return [
        Checkpoint(
            run=run,
            stage=folder.name.split("-", 1)[-1],
            step=record.step,
            network=None if record.network is None else folder / record.network,
            criteria=record.criteria,
            shares=record.shares,
            source_shares=stage.source_shares,
        )
        for folder, stage in stages
        for record in stage.records
    ]


def parts_of(criterion: str) -> tuple[CriterionName, ...]:
    """Split an ensemble of criteria, "a+b+…", into its parts."""
    known = get_args(CriterionName)
    parts = tuple(part.strip() for part in criterion.split("+"))
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise UserError(
            f"no criterion {', '.join(map(repr, unknown))}; there are {', '.join(known)}, and "
            "ensembles of their ranks, for example infomax+agreement"
        )
    return parts  # type: ignore[return-value] # each part is one of the names, as checked


def ranks(candidates: Sequence[Checkpoint], criterion: str) -> npt.NDArray[np.float64]:
    """Rank N candidates by a criterion, or by their mean rank over several, "a+b+…".

    Of the ranks (N,) 1 is the best; equals share the mean of theirs, and a candidate of which the
    criterion is not known comes after all others.
    """
    found = []
    for name in parts_of(criterion):
        sign = 1.0 if name in LOWER_IS_BETTER else -1.0
        values = [sign * each.criteria.get(name, sign * np.inf) for each in candidates]
        found.append(rank_of(np.array(values)))
    return np.asarray(np.mean(found, axis=0), dtype=np.float64)


def ordered(candidates: Sequence[Checkpoint], criterion: str) -> list[tuple[float, Checkpoint]]:
    """Sort candidates by rank, the best first; of equals the latest first. Returns both."""
    pairs = zip(ranks(candidates, criterion).tolist(), candidates, strict=True)
    return sorted(reversed(list(pairs)), key=lambda pair: pair[0])


def best(candidates: Sequence[Checkpoint], criterion: str) -> Checkpoint:
    """Return the best candidate. Raises UserError if there is none."""
    return _first([each for _, each in ordered(candidates, criterion)])


def best_kept(candidates: Sequence[Checkpoint], criterion: str) -> Checkpoint:
    """Return the best candidate whose network was kept. Raises UserError if none was."""
    return _first([each for _, each in ordered(candidates, criterion) if each.network])


def _first(found: list[Checkpoint]) -> Checkpoint:
    if not found:
        raise UserError("there is no network to choose from: no stage has recorded its criteria")
    return found[0]


def rank_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rank numbers: (N,), 1 for the smallest; equals share the mean of their ranks."""
    below = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    return np.asarray(below + (equal + 1) / 2, dtype=np.float64)


def _number(folder: Path) -> int:
    if folder.name == INITIAL:
        return -1
    head = folder.name.partition("-")[0]
    return int(head) if head.isdecimal() else 1 << 30
