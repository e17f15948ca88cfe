"""Label-free criteria by checkpoint, beside the mIoU that they stand in for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cag_uda.report.run_folder import StageRecord

MEANINGS: dict[str, tuple[Literal["lower", "higher"], str]] = {
    "entropy": ("lower", "mean entropy of the predictions: how unsure the network is"),
    "infomax": ("higher", "entropy of the mean prediction − mean entropy: sure, of many classes"),
    "expected-iou": ("higher", "mIoU that the network expects, were its probabilities true"),
    "probe-iou": ("higher", "mIoU of its labels and those of a linear probe on initial features"),
    "snd": ("higher", "neighbourhood density: how many neighbours a pixel has in feature space"),
    "snd-outputs": ("higher", "the same among class probabilities"),
    "agreement": ("higher", "share of pixels whose nearest anchor is that of the predicted class"),
    "active-share": ("higher", "share of pixels whose nearest anchor is clearly the nearest"),
    "source-miou": ("higher", "mIoU on the labelled source"),
}
"""Criterion → which way is better, and what it measures."""
_FEWEST = 3
"""Scored checkpoints below which a rank correlation says nothing."""


@dataclass(frozen=True)
class Criterion:
    """One criterion over all checkpoints."""

    name: str
    values: list[float | None]
    """Value at each of `Criteria.checkpoints`, in their order."""
    correlation: float | None
    """Spearman's rank correlation with the mIoU, its sign turned where lower is better."""
    better: Literal["lower", "higher"] | None
    """None, as the meaning in words, for a criterion that is not known here."""
    meaning: str | None

    @property
    def decimals(self) -> int:
        """Number of decimals that tell the checkpoints apart."""
        largest = max((abs(value) for value in self.values if value is not None), default=1.0)
        return 3 if largest < 1 else 2

    @property
    def best(self) -> float | None:
        """The value of the checkpoint that it would choose."""
        known = [value for value in self.values if value is not None]
        if not known or self.better is None:
            return None
        return min(known) if self.better == "lower" else max(known)


@dataclass(frozen=True)
class Criteria:
    """All criteria of a run; empty where none was computed."""

    checkpoints: list[tuple[str, float | None]]
    """Stage and, within it, the steps taken, of each network; and its mIoU."""
    columns: list[Criterion]


def make_criteria(stages: Sequence[StageRecord]) -> Criteria:
    """Gather what the stages' `criteria.json` hold, in the order of training."""
    checkpoints, found = [], []
    for stage in stages:
        last = max(stage.criteria, default=0)
        for step, taken in sorted(stage.criteria.items()):
            at_end = stage.finished and step == last
            name = stage.scores.name if at_end else f"{stage.scores.name}, step {step}"
            miou = stage.scores.miou if at_end else dict(stage.metrics.miou).get(step)
            checkpoints.append((name, miou))
            found.append(taken)
    mious = [miou for _, miou in checkpoints]
    columns = []
    for name in dict.fromkeys(name for each in found for name in each):
        values = [each.get(name) for each in found]
        better, meaning = MEANINGS.get(name, (None, None))
        correlation = rank_correlation(values, mious)
        if correlation is not None and better == "lower":
            correlation = -correlation
        columns.append(Criterion(name, values, correlation, better, meaning))
    return Criteria(checkpoints, columns)


def rank_correlation(
    values: Sequence[float | None], others: Sequence[float | None]
) -> float | None:
    """Compute Spearman's rank correlation over the complete pairs; None if it says nothing."""
    pairs = [
        (one, other)
        for one, other in zip(values, others, strict=True)
        if one is not None and other is not None
    ]
    if len(pairs) < _FEWEST:
        return None
    one, other = (_ranks(np.array(column)) for column in zip(*pairs, strict=True))
    if one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank values from 1; equal ones share the mean of their ranks."""
    below = (values[:, None] > values).sum(axis=1)
    equal = (values[:, None] == values).sum(axis=1)
    return np.asarray(below + (equal + 1) / 2)
