"""Kinds of pseudo-label: how a frozen network's predictions become labels of the target.

A kind is prepared once from what the network sees of both domains, and then labels predictions. It
knows features, logits and labels, but no image and no network, so that a stage of CAG and
`cag-uda pseudo-label` use the same ones. The paper's own kind, by category anchors, stands in
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
        """Fit the kind to both domains. Nothing by default.

        Args:
            seen: what the labeller sees of them.
        """
        return

    @abstractmethod
    def labels(self, prediction: Prediction) -> PseudoLabels:
        """Label the pixels that are sure enough.

        Args:
            prediction: of target images.

        Returns:
            Labels and weights (B, h, w) on the feature grid; IGNORE and 0 elsewhere.
        """

    @abstractmethod
    def labels_everywhere(self, prediction: Prediction) -> PseudoLabels:
        """Label all pixels, sure or not; arguments and result as those of `labels`."""


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
    """Labels that two other kinds agree on.

    Args:
        first: prepared by its owner.
        second: likewise.
    """

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
