"""Kinds of pseudo-label: how a frozen network's predictions become labels of the target.

A kind is prepared by what the network sees of both domains, and then labels predictions, for a
stage of CAG and for `cag-uda pseudo-label`. The paper's own kind, by category anchors, is
`cag.AnchorLabels`; a new one is a class here, or in a file of its own, and a row in
`CAG.label_kinds`.
"""

from abc import ABC, abstractmethod

from torch import nn

from cag_uda.adaptation.pseudo_labels import by_confidence, intersection
from cag_uda.methods.labeller import LabellerPasses
from cag_uda.types import Prediction, PseudoLabels


class LabelKind(nn.Module, ABC):
    """One way to label the target; what it is prepared with is held in buffers."""

    def prepare(self, seen: LabellerPasses) -> None:
        """Fit the kind to what the labeller sees of both domains. Nothing by default."""
        return

    @abstractmethod
    def labels(self, prediction: Prediction) -> PseudoLabels:
        """Label the pixels (B, h, w) that are sure enough; IGNORE and weight 0 elsewhere."""

    @abstractmethod
    def labels_everywhere(self, prediction: Prediction) -> PseudoLabels:
        """Label all pixels (B, h, w), sure or not."""


class ConfidenceLabels(LabelKind):
    """Probability-based labels: the most probable class where it exceeds a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def labels(self, prediction: Prediction) -> PseudoLabels:
        """See `LabelKind.labels`."""
        return by_confidence(prediction.logits, self.threshold)

    def labels_everywhere(self, prediction: Prediction) -> PseudoLabels:
        """See `LabelKind.labels_everywhere`."""
        return by_confidence(prediction.logits, 0.0)


class CommonLabels(LabelKind):
    """Labels that two other kinds, which their owner prepares, agree on."""

    def __init__(self, first: LabelKind, second: LabelKind) -> None:
        super().__init__()
        # In a tuple: they are their owner's submodules, not this one's.
        self._parts = (first, second)

    def labels(self, prediction: Prediction) -> PseudoLabels:
        """See `LabelKind.labels`."""
        first, second = self._parts
        return intersection(first.labels(prediction), second.labels(prediction))

    def labels_everywhere(self, prediction: Prediction) -> PseudoLabels:
        """See `LabelKind.labels_everywhere`; IGNORE where the two kinds differ."""
        first, second = (part.labels_everywhere(prediction) for part in self._parts)
        return intersection(first, second)
