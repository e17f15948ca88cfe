"""Coverage and precision of pseudo-labels.

Knows pseudo-labels and, where there is one, the truth; knows neither networks nor how labels were
chosen. The scores are for the report alone: nothing in training may read them.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from cag_uda.errors import ShapeError
from cag_uda.evaluation.confusion import ConfusionMatrix
from cag_uda.evaluation.scores import or_none, or_nones, share
from cag_uda.runs.records.stage import PerClass, PseudoLabelScores
from cag_uda.types import PseudoLabels


class PseudoLabelTally:
    """Counts pseudo-labels against the truth, on the grid that they are made on.

    The truth is brought to the feature grid (`methods.base.on_grid`). The other way, enlarging the
    pseudo-labels, would count each of them stride² times and charge them with the outlines of
    objects finer than a cell, which no label of the grid can follow.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self._compared = ConfusionMatrix(num_classes)
        # The same form for images without truth, of which only columns mean anything.
        self._unchecked = ConfusionMatrix(num_classes)

    def update(self, pseudo: PseudoLabels, truth: Tensor | None = None) -> None:
        """Count one batch.

        Args:
            pseudo: labels (B, h, w) int64, IGNORE where not assigned; the weight is not looked at.
            truth: (B, h, w) integer train ids at the same cells, IGNORE where unlabelled; None
                where there is none.

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
        """The sum over all processes, on every process, as that of `ConfusionMatrix`."""
        total = PseudoLabelTally(self._compared.num_classes)
        total._compared = self._compared.reduced(add_up)
        total._unchecked = self._unchecked.reduced(add_up)
        return total

    def scores(self) -> PseudoLabelScores:
        """Give what `pseudo_labels.json` holds for one kind of label.

        Returns:
            `precision`: share of right labels among those on pixels with truth, None if there are
            none. `coverage`: share of pixels that got a label, among those with truth and those of
            images without; 0 if there are none. `per_class`: lists (K,), None where undefined, of
            `precision` by pseudo-label and `coverage` by true class.
        """
        compared = self._compared.counts
        assigned, right = compared[:, :-1], np.diagonal(compared)
        everything = compared.sum(axis=0) + self._unchecked.counts.sum(axis=0)
        coverage = share(everything[:-1].sum(), everything.sum())
        per_class = PerClass(
            precision=or_nones(share(right, assigned.sum(axis=0))),
            coverage=or_nones(share(assigned.sum(axis=1), compared.sum(axis=1))),
        )
        return PseudoLabelScores(
            precision=or_none(share(right.sum(), assigned.sum())),
            coverage=or_none(coverage) or 0.0,
            per_class=per_class,
        )
