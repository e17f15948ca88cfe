"""Precision against coverage of pseudo-labels, over every threshold that could be set.

For the report alone: nothing in training may read it.
"""

import numpy as np
import torch
from torch import Tensor

from cag_uda.errors import ShapeError
from cag_uda.evaluation.scores import or_nones, share
from cag_uda.runs.records.stage import CurvesPerClass, LabelCurves


class PrecisionCurves:
    """Counts labelled pixels by how sure their label is.

    Args:
        num_classes: K.
        thresholds: (T,) ascending: a pixel is labelled at a threshold if its score reaches it.
    """

    def __init__(self, num_classes: int, thresholds: Tensor) -> None:
        self.thresholds = thresholds
        size = (num_classes, len(thresholds) + 1)
        self._given = torch.zeros(size, dtype=torch.int64)
        """(K, T + 1) pixels by label and bin of score; bin t holds scores from thresholds[t-1] to
        thresholds[t]."""
        self._right = torch.zeros(size, dtype=torch.int64)
        self._true = torch.zeros(size, dtype=torch.int64)
        """(K, T + 1) pixels by true class and bin of score."""

    def update(self, score: Tensor, label: Tensor, truth: Tensor) -> None:
        """Count one batch in.

        Args:
            score: (B, h, w) how sure each label is; NaN is never labelled.
            label: (B, h, w) train ids in 0 … K-1, what each pixel would be labelled.
            truth: (B, h, w) train ids; pixels whose truth is no class are left out.

        Raises:
            ShapeError: if the three are not on one grid.
        """
        if not score.shape == label.shape == truth.shape:
            raise ShapeError(
                "wanted score, label and truth on one grid, got "
                f"{tuple(score.shape)}, {tuple(label.shape)} and {tuple(truth.shape)}"
            )
        classes, bins = self._given.shape
        counted = (truth >= 0) & (truth < classes)
        score, label, truth = (each[counted].cpu() for each in (score, label, truth))
        sure = torch.where(score.isnan(), -torch.inf, score)
        place = torch.bucketize(sure, self.thresholds.to(sure.dtype), right=True)
        for table, ids, chosen in (
            (self._given, label, torch.ones_like(label, dtype=torch.bool)),
            (self._right, label, label == truth),
            (self._true, truth, torch.ones_like(label, dtype=torch.bool)),
        ):
            cell = ids[chosen].long() * bins + place[chosen]
            table += torch.bincount(cell, minlength=classes * bins).view(classes, bins)

    def curves(self) -> LabelCurves:
        """Give the curves over all classes (T,) and by class (K, T)."""
        given, right, true = (
            table.flip(1).cumsum(1).flip(1).numpy()
            for table in (self._given, self._right, self._true)
        )
        # Column 0 holds every pixel, whatever its score; column t + 1 those of threshold t.
        everything, all_true = (np.repeat(each[:, :1], each.shape[1], 1) for each in (given, true))
        return LabelCurves(
            thresholds=[float(value) for value in self.thresholds],
            precision=or_nones(share(right.sum(axis=0), given.sum(axis=0))[1:]),
            coverage=or_nones(share(given.sum(axis=0), everything.sum(axis=0))[1:]),
            per_class=CurvesPerClass(
                precision=[or_nones(row[1:]) for row in share(right, given)],
                coverage=[or_nones(row[1:]) for row in share(true, all_true)],
            ),
        )


def precision_at(curve: LabelCurves, coverage: float) -> float | None:
    """Find the precision, over all classes, where a curve labels that share of the pixels.

    It is linear between the curve's points; None where the curve does not reach so far.
    """
    points = curve.points(None)
    if not points or not points[0][0] <= coverage <= points[-1][0]:
        return None
    x, y = zip(*points, strict=True)
    return float(np.interp(coverage, x, y))
