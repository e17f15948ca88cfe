"""Maps of where each network puts the classes of both domains, turned so that they compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cag_uda.report.evidence import FeatureMap
from cag_uda.report.run_folder import StageRecord

_OUTSIDE = 0.005
"""Share of the cells on each side that may lie outside the maps, lest a few shrink all others."""


@dataclass(frozen=True)
class FeatureMaps:
    """Content of the section of feature maps; empty where no stage left one."""

    names: list[str]
    separations: list[float | None]
    """Separation of the classes in each stage; see `FeatureMap`."""
    shifts: list[float | None]
    by_truth: bool
    """True if the target's cells are coloured by the truth, else by the prediction."""
    data: dict[str, Any]
    """Data of the page's script: "extent" [left, right, bottom, top], and "maps", one a stage:
    "source" and "target" [[x, …], [y, …], [class, …]], "anchors" [[x, y] or null, …]."""


def make_feature_maps(found: Sequence[tuple[StageRecord, FeatureMap]]) -> FeatureMaps:
    """Draw the maps of all stages, each turned so that its anchors lie as in the one before."""
    drawn: list[dict[str, Any]] = []
    everything: list[NDArray[np.floating]] = []
    before: NDArray[np.floating] | None = None
    for _, one in found:
        turn = _turn(one.anchors_xy, before)
        source, target, anchors = (
            points @ turn for points in (one.source_xy, one.target_xy, one.anchors_xy)
        )
        before = anchors
        everything += [source, target]
        drawn.append(
            {
                "source": _columns(source, one.source_class),
                "target": _columns(target, one.target_class),
                "anchors": [
                    np.round(row.astype(float), 2).tolist() if np.isfinite(row).all() else None
                    for row in anchors
                ],
            }
        )
    return FeatureMaps(
        names=[stage.scores.name for stage, _ in found],
        separations=[one.separation for _, one in found],
        shifts=[one.domain_shift for _, one in found],
        by_truth=all(one.by_truth for _, one in found),
        data={"extent": _extent(everything), "maps": drawn},
    )


def _turn(
    anchors: NDArray[np.floating], before: NDArray[np.floating] | None
) -> NDArray[np.floating]:
    """Find the rotation or reflection (2, 2) that brings anchors closest to those before.

    Source: Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966.
    """
    if before is None:
        return np.eye(2)
    both = np.isfinite(anchors).all(axis=1) & np.isfinite(before).all(axis=1)
    left, _, right = np.linalg.svd(anchors[both].T @ before[both])
    turn: NDArray[np.floating] = left @ right
    return turn


def _columns(points: NDArray[np.floating], classes: NDArray[np.uint8]) -> list[list[float]]:
    finite = np.isfinite(points).all(axis=1)
    rounded = np.round(points[finite].astype(float), 2)
    return [*rounded.T.tolist(), classes[finite].tolist()]


def _extent(points: list[NDArray[np.floating]]) -> list[float]:
    """Find left, right, bottom and top of all maps together, with a margin."""
    together = np.concatenate([*points, np.zeros((0, 2))]).astype(float)
    together = together[np.isfinite(together).all(axis=1)]
    if not len(together):
        return [-1.0, 1.0, -1.0, 1.0]
    low, high = np.quantile(together, [_OUTSIDE, 1 - _OUTSIDE], axis=0)
    margin = np.maximum(0.06 * (high - low), 0.1)
    (left, bottom), (right, top) = low - margin, high + margin
    return [round(float(value), 2) for value in (left, right, bottom, top)]
