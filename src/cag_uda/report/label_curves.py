"""Precision of pseudo-labels over their coverage, averaged over seeds. Knows no file."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cag_uda.report.charts import Points
from cag_uda.runs.records.stage import Curve


def mean_curve(seeds: Sequence[tuple[Curve, Curve]], intervals: int) -> Points:
    """Mean precision of several curves at evenly spaced coverages, between their points linearly.

    Args:
        seeds: precision and coverage (T,) of each; T may differ.
        intervals: into how many parts the coverages from 0 to 1 are cut.

    Returns:
        (coverage, precision) points, by coverage, where every one of the curves reaches.
    """
    grid = np.arange(1, intervals + 1) / intervals
    read = [_precision_at(grid, precision, coverage) for precision, coverage in seeds]
    if not read:
        return []
    mean = np.mean(read, axis=0)
    return [(float(x), float(y)) for x, y in zip(grid, mean, strict=True) if not np.isnan(y)]


def _precision_at(
    grid: NDArray[np.float64], precision: Curve, coverage: Curve
) -> NDArray[np.float64]:
    """Precision (G,) at coverages (G,); NaN where the curve does not reach."""
    points = sorted(
        (c, p) for c, p in zip(coverage, precision, strict=True) if c is not None and p is not None
    )
    if not points:
        return np.full(len(grid), np.nan)
    x, y = np.array(points).T
    found: NDArray[np.float64] = np.interp(grid, x, y, left=np.nan, right=np.nan)
    return found
