"""Labels by anchors that are adapted to the target, together with the classifier.

The confidence of a label is a probability, the same on every network: the logarithmic pool of the
classifier's p(c | x) and the anchors' p(f | c). The maths is `adaptation.adapted_anchors`.
"""

from typing import Self

import torch
from torch import Tensor

from cag_uda.adaptation.adapted_anchors import (
    AdaptedAnchors,
    FeatureSample,
    SourceFeatures,
    SourceFigures,
    most_pixels,
    pool,
)
from cag_uda.adaptation.pseudo_labels import by_confidence
from cag_uda.methods.label_kinds import LabelKind
from cag_uda.methods.labeller import LabellerPasses
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import Prediction, PseudoLabels


def features_and_logits(prediction: Prediction) -> Tensor:
    """Put features and logits into one tensor (B, D + K, h, w)."""
    return torch.cat([prediction.features, prediction.logits], dim=1)


class AdaptedLabels(LabelKind):
    """The class that classifier and adapted anchors together find most probable.

    Args:
        segmenter: for its numbers of classes K and of feature channels D.
        threshold: pooled probability that a label must exceed.
        weight: of the anchors in the pool, in [0, 1].
        feature_channels: D, where predictions come with other features than the segmenter's own.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        threshold: float,
        weight: float = 0.5,
        *,
        feature_channels: int | None = None,
    ) -> None:
        super().__init__()
        channels = feature_channels or segmenter.feature_channels
        self.anchors = AdaptedAnchors(segmenter.num_classes, channels)
        self.threshold, self.weight = threshold, weight

    @classmethod
    def of_levels(cls, segmenter: Segmenter, weight: float = 0.5) -> Self:
        """Make labels by anchors in the features of all levels (`Segmenter.predict_levels`)."""
        return cls(segmenter, 0.0, weight, feature_channels=sum(segmenter.level_channels))

    def prepare(self, seen: LabellerPasses) -> None:
        """Fit Gaussians to the source's features, then to both domains' by EM."""
        self.fit(seen)
        self.adapt(seen)

    def adapt(self, seen: LabellerPasses) -> None:
        """Fit the anchors to both domains by EM, with the target's pixels that are labelled."""
        target = FeatureSample(most_pixels(sum(self.anchors.vectors.shape)))
        for prediction in seen.target():
            target.update(features_and_logits(prediction))
        labelled = FeatureSample(most_pixels(self.anchors.vectors.shape[1]))
        for prediction, label in seen.labelled():
            labelled.update(prediction.features, label)
        self.anchors.adapt(target, seen.all_reduce, labelled=labelled)

    def fit(self, seen: LabellerPasses, sample: FeatureSample | None = None) -> SourceFigures:
        """Fit Gaussians to the source's features; return their figures.

        Args:
            seen: what the labeller sees of the source.
            sample: takes labelled pixels of the sweep, in place of a sample that is forgotten.
        """
        num_classes, channels = self.anchors.vectors.shape
        source = SourceFeatures(num_classes, channels, self.anchors.vectors.device, sample)
        for prediction, label in seen.source():
            source.update(prediction.features, label)
        source.reduce(seen.all_reduce)
        self.anchors.fit(source, seen.all_reduce)
        return self.anchors.figures(source.anchors.counts)

    def labels(self, prediction: Prediction) -> PseudoLabels:
        """Label each pixel by argmax of the pool, where its probability exceeds the threshold."""
        return by_confidence(self.pooled(prediction), self.threshold)

    def labels_everywhere(self, prediction: Prediction) -> PseudoLabels:
        """Label each pixel by argmax of the pool."""
        return by_confidence(self.pooled(prediction), 0.0)

    def pooled(self, prediction: Prediction) -> Tensor:
        """Pool classifier and anchors: logits (B, K, h, w)."""
        likelihood = self.anchors.log_likelihood(prediction.features)
        return pool(prediction.logits, likelihood, self.weight)
