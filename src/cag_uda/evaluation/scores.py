"""From counts to IoU per class and mIoU."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat, TypeAlias

import numpy as np
import numpy.typing as npt

from cag_uda.errors import ShapeError
from cag_uda.evaluation.confusion import ConfusionMatrix
from cag_uda.evaluation.protocols import apply_protocol
from cag_uda.runs.records.run import SplitScores

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a segmenter, as shares of 1."""

    iou: Floats
    """(K,), NaN for a class that is in neither truth nor prediction."""
    miou: float
    """Mean over the classes that have an IoU; NaN if none has."""
    names: tuple[str, ...]
    protocol: str | None = None
    """Protocol that counted; None where every class of the label space counts."""

    def record(self) -> SplitScores:
        """Give the scores as they are written to files, in which an undefined IoU is null."""
        return SplitScores(
            protocol=self.protocol,
            miou=or_none(self.miou),
            classes=list(self.names),
            iou=or_nones(self.iou),
        )


def scores(
    confusion: ConfusionMatrix | npt.NDArray[Any],
    names: Sequence[str],
    protocol: str | None = None,
) -> Scores:
    """Score a confusion matrix.

    A class in neither truth nor prediction is undefined and left out of the mean; one that is
    predicted but absent from the truth scores 0.

    Args:
        confusion: a matrix, or its counts (K, K) or (K, K + 1).
        names: the K class names of the label space.
        protocol: a name among `protocols.PROTOCOLS`, or None for all classes.

    Returns:
        The scores, of the protocol's classes alone if one is named.

    Raises:
        UserError: for an unknown protocol.
        DataError: if the label space lacks a class that the protocol needs.
        ShapeError: if the matrix has not one row a name.

    Source: cityscapesscripts, evaluation/evalPixelLevelSemanticLabeling.py, equal to the last bit.
    """
    counts = confusion.counts if isinstance(confusion, ConfusionMatrix) else confusion
    if counts.ndim != 2 or len(counts) != len(names):
        raise ShapeError(f"{len(names)} class names, but counts of shape {counts.shape}")
    counted = apply_protocol(counts, names, protocol)
    iou = share(*intersection_and_union(counted.counts))[counted.averaged]
    return Scores(iou, float(mean_over_classes(iou)), counted.names, protocol)


def intersection_and_union(
    counts: npt.NDArray[Any],
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Compute intersections and unions (…, K) in pixels, whose ratio is the IoU.

    Counts are (…, K, K) or (…, K, K + 1), true classes × predicted ones and "no class"; else
    ShapeError is raised.
    """
    if counts.ndim < 2 or counts.shape[-1] - counts.shape[-2] not in (0, 1):
        raise ShapeError(f"counts should be (…, K, K) or (…, K, K + 1), got {counts.shape}")
    classes = counts.shape[-2]
    intersection = np.diagonal(counts, axis1=-2, axis2=-1)
    predicted = counts[..., :classes].sum(axis=-2)
    return intersection, counts.sum(axis=-1) + predicted - intersection


def share(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """Divide part by whole; NaN where the whole is 0."""
    result: Floats = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) > 0)
    return result


def mean_over_classes(values: Floats) -> Floats:
    """Average (…, K) over the last axis without NaN; NaN where no class has a value."""
    defined = ~np.isnan(values)
    # Added one after the other as the official evaluator does: numpy's pairwise sum differs from
    # it in the last bit.
    total = np.add.accumulate(np.where(defined, values, 0.0), axis=-1)[..., -1]
    return share(total, defined.sum(axis=-1))


def or_none(value: SupportsFloat) -> float | None:
    """Return a number, or None for NaN, which JSON does not have."""
    number = float(value)
    return None if math.isnan(number) else number


def or_nones(values: npt.NDArray[Any]) -> list[float | None]:
    """Return numbers (n,) as a list, with None for NaN."""
    return [or_none(value) for value in values]


def total_variation(one: Sequence[float], other: Sequence[float]) -> float:
    """Compute the total variation, in [0, 1], between two lists of shares, each adding up to 1."""
    return min(1.0, sum(abs(a - b) for a, b in zip(one, other, strict=True)) / 2)
