"""Confidence intervals of differences between segmenters, by bootstrap over labelled frames."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cag_uda.errors import DataError, ShapeError
from cag_uda.evaluation.scores import intersection_and_union, mean_over_classes, share
from cag_uda.runs.records.run import Gain


class Interval(NamedTuple):
    """A difference in mIoU, as a share of 1, and where it lies with 95 % confidence."""

    difference: float
    low: float
    high: float

    def over(self, other: str) -> Gain:
        """Write it in points, as a gain over the network of that name."""
        points, low, high = (100 * value for value in self)
        return Gain(over=other, points=points, low=low, high=high)


def bootstrap_of_means(
    first: Sequence[npt.NDArray[np.int64]],
    second: Sequence[npt.NDArray[np.int64]],
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Estimate how far the mean mIoU of some segmenters is above that of others.

    Each resample draws N of the frames with replacement, the same for all segmenters, and adds up
    their confusion matrices. The interval is of these drives' kind of frame, not of other cities,
    and not of the training: the spread over seeds stands beside it.

    Args:
        first: for each seed (N, K, K) or (N, K, K + 1), confusion matrices of the same N frames in
            the same order.
        second: the same of the others; as many seeds or not.
        resamples: how often the frames are drawn.
        seed: of the draws.

    Returns:
        The difference of the means over seeds, and the 2.5 and 97.5 percentiles over the resamples.

    Raises:
        ShapeError: if there are none, or they are not of the same frames and classes.
        DataError: if there is no frame with a labelled pixel.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile
        interval).
    """
    shapes = {each.shape for each in (*first, *second)}
    if not first or not second or len(shapes) > 1 or first[0].ndim != 3:
        raise ShapeError(
            "wanted the same frames for all, (N, K, K) or (N, K, K + 1), got "
            f"{sorted(shapes) or 'none'}"
        )
    frames = len(first[0])
    if not first[0].any():
        raise DataError(
            f"no labelled pixel in {frames} frames: there is nothing to compare; evaluate on a "
            "split with labels"
        )
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(frames, np.full(frames, 1 / frames), size=resamples)
    draws = np.concatenate([np.ones((1, frames), dtype=np.int64), draws])
    means = [np.mean([_miou(draws, each) for each in group], axis=0) for group in (first, second)]
    difference = means[0] - means[1]
    # A resample of frames without any labelled pixel has no mIoU.
    low, high = np.nanpercentile(difference[1:], (2.5, 97.5))
    return Interval(float(difference[0]), float(low), float(high))


def _miou(draws: npt.NDArray[np.int64], counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Compute the mIoU (R,) of draws (R, N), how often each frame's counts (N, K, C) enter."""
    # Sums of float64 are exact up to 2^53 pixels and, unlike those of int64, a BLAS product.
    weights = draws.astype(np.float64)
    intersection, union = (weights @ part for part in intersection_and_union(counts))
    return mean_over_classes(share(intersection, union))
