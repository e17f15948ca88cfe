"""Coverage and precision of pseudo-labels, for the report alone: no training may read them."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from cag_uda.errors import ShapeError
from cag_uda.evaluation.confusion import ConfusionMatrix
from cag_uda.evaluation.scores import or_none, or_nones, share
from cag_uda.runs.records.stage import PerClass, PseudoLabelScores
from cag_uda.types import PseudoLabels


class PseudoLabelTally:
    """Counts pseudo-labels against the truth, on the feature grid that they are made on.

    Enlarged to the image, they would be charged with outlines of objects that are finer than a
    cell, which no label of the grid can follow.
    """

    def __init__(self, num_classes: int) -> None:
        self._compared = ConfusionMatrix(num_classes)
        # The same form for images without truth, of which only columns mean anything.
        self._unchecked = ConfusionMatrix(num_classes)

    def update(self, pseudo: PseudoLabels, truth: Tensor | None = None) -> None:
        """Count one batch.

        Args:
            pseudo: labels (B, h, w) int64, IGNORE where not assigned; the weight is not looked at.
            truth: (B, h, w) integer train ids at the same cells, IGNORE where unlabelled, or None.

        Raises:
            ShapeError: if the two are not on one grid.
            DataError: if the truth holds an id that is neither a class nor IGNORE.
        """
        label = pseudo.label
        if truth is None:
            self._unchecked.update(label.new_zeros(label.shape), label)
            return
        if label.ndim != 3 or truth.shape != label.shape:
            raise ShapeError(
                f"wanted pseudo-labels and truth (B, h, w) on one grid, got {tuple(label.shape)} "
                f"and {tuple(truth.shape)}"
            )
        self._compared.update(truth, label)

    def reduced(self, add_up: Callable[[Tensor], Tensor]) -> "PseudoLabelTally":
        """Sum over all processes as `ConfusionMatrix.reduced` does."""
        total = PseudoLabelTally(self._compared.num_classes)
        total._compared = self._compared.reduced(add_up)
        total._unchecked = self._unchecked.reduced(add_up)
        return total

    def scores(self) -> PseudoLabelScores:
        """Make the record of one kind of label.

        Precision is the share of right labels among those on pixels with truth; coverage that of
        labelled pixels among those with truth and all of images without it, 0 if there are none.
        Lists by class (K,) are of precision by pseudo-label and of coverage by true class.
        """
        compared = self._compared.counts
        assigned, right = compared[:, :-1], np.diagonal(compared)
        everything = compared.sum(axis=0) + self._unchecked.counts.sum(axis=0)
        return PseudoLabelScores(
            precision=or_none(share(right.sum(), assigned.sum())),
            coverage=or_none(share(everything[:-1].sum(), everything.sum())) or 0.0,
            per_class=PerClass(
                precision=or_nones(share(right, assigned.sum(axis=0))),
                coverage=or_nones(share(assigned.sum(axis=1), compared.sum(axis=1))),
            ),
        )
