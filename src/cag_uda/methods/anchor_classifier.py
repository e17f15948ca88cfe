"""The classifier pooled with category anchors that are adapted to the target; no training.

Given features, the anchors' log p(f | c) is linear in them, as the logits of a 1×1 convolution are.
So the pool of both (`adaptation.adapted_anchors.pool`) is one such convolution again: its weights
replace the classifier's, and the network stays what it was for prediction, export and training.

Sources: those of `adaptation.adapted_anchors`. Kin that average a trained classifier with one made
of prototypes: Iwasawa & Matsuo, *T3A*, NeurIPS 2021.
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import nn

from cag_uda.methods.adapted_labels import AdaptedLabels
from cag_uda.methods.base import MethodConfig, Passes, TrainingFree
from cag_uda.methods.labeller import LabellerPasses
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.decoders import DECODERS, Decoder
from cag_uda.models.segmenter import Segmenter


def is_linear(segmenter: SegmenterConfig) -> bool:
    """Tell whether a network's logits are linear in the features of one cell."""
    classifier = getattr(DECODERS.get(segmenter.decoder, Decoder), "classifier", None)
    return classifier is Decoder.classifier and segmenter.detail is None


@torch.no_grad()
def merge(segmenter: Segmenter, labels: AdaptedLabels, weight: float) -> None:
    """Pool a network's classifier with adapted anchors, in place.

    Args:
        segmenter: whose logits are linear in its features.
        labels: with anchors in these features.
        weight: of the anchors, in [0, 1].
    """
    classifier = cast(nn.Conv2d, segmenter.classifier)
    of_anchors, bias = labels.anchors.linear()
    assert classifier.bias is not None
    classifier.weight.lerp_(of_anchors[:, :, None, None], weight)
    classifier.bias.lerp_(bias, weight)


class AnchorClassifierConfig(MethodConfig):
    """Settings of the pooled classifier."""

    name: Literal["anchor-classifier"] = "anchor-classifier"
    weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of the anchors in the pooled classifier: 0 leaves the trained classifier as it is, 1
    replaces it by the anchors."""

    def problem_with(self, segmenter: SegmenterConfig) -> str | None:
        """Refuse networks whose logits are not linear in the features of one cell."""
        if is_linear(segmenter):
            return None
        return (
            "anchor-classifier wants logits that are linear in a cell's features, as neither "
            "deeplab-v2 nor a network with segmenter.detail has; leave the stage out"
        )


class AnchorClassifier(TrainingFree):
    """Merge anchors adapted to the target into the classifier's weights."""

    Config = AnchorClassifierConfig
    uses_source = False

    def __init__(self, segmenter: Segmenter, config: AnchorClassifierConfig) -> None:
        super().__init__(segmenter, config)
        self.adapted = AdaptedLabels(segmenter, threshold=0.0, weight=config.weight)

    def prepare(self, passes: Passes) -> None:
        """Fit anchors to the source, adapt them to the target, and pool them with the classifier.

        A sweep over the labelled source, if there is no pack, and one over the target's images.
        """
        was_training = self.segmenter.training
        self.segmenter.eval()
        self.adapted.prepare(LabellerPasses.of(self, self.segmenter, passes))
        self.segmenter.train(was_training)
        merge(self.segmenter, self.adapted, self.adapted.weight)
