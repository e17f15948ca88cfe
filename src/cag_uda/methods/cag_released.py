"""CAG as its authors' released code has it, where that differs from the paper.

Anchors are means over images of each image's mean over the pixels that the network gets right, of
which later ones enter a running mean; labels by anchor and by confidence supervise together; and
the distance loss compares the mean features of an image's classes with their anchors.

Source: the code that Zhang et al. released with *CAG-UDA* (NeurIPS 2019): cac.py,
models/adaptation_model.py.
"""

from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.adaptation.losses import centroid_distance
from cag_uda.adaptation.tensors import one_hot
from cag_uda.methods.cag import CAG, AnchorLabels
from cag_uda.methods.cag_settings import CAGSettings
from cag_uda.methods.labeller import LabellerPasses
from cag_uda.methods.margin_fitting import MarginConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE, Prediction


class ReleasedSettings(CAGSettings):
    """Settings of the released form; each piece can be the paper's instead."""

    labels: tuple[Literal["anchor", "confidence", "intersection"], ...] = ("anchor", "confidence")
    average: Literal["image", "pixel"] = "image"
    """Anchors as means over the means of images, or over pixels (the paper)."""
    only_correct: bool = True
    """Leave out of the anchors pixels that the network gets wrong; the paper does not."""
    min_pixels: int = Field(default=10, ge=1)
    """Pixels of a class that an image needs to count; 1 in the paper."""
    max_count: int = Field(default=3000, ge=0)
    """Most images (or pixels) that an anchor is the mean of; later ones enter a running mean. 0:
    the mean of all (the paper)."""
    distance: Literal["centroid", "pixel"] = "centroid"
    """The distance loss by centroid of an image's class, or by pixel (the paper)."""


class CAGReleasedConfig(ReleasedSettings):
    """Settings of the released code's CAG."""

    name: Literal["cag-released"] = "cag-released"
    variant_of: ClassVar[str | None] = "cag"


class ReleasedAnchorLabels(AnchorLabels):
    """Labels by anchors of the released averaging.

    With `only_correct`, anchors leave out the pixels that the network gets wrong.
    """

    def __init__(self, anchors: CategoryAnchors, margin: MarginConfig, only_correct: bool) -> None:
        super().__init__(anchors, margin)
        self.only_correct = only_correct

    def counted(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Choose the source pixels that anchors are means of: those predicted correctly."""
        if not self.only_correct:
            return label
        return label.masked_fill(prediction.logits.argmax(dim=1) != label, IGNORE)

    def source_shares(self, seen: LabellerPasses) -> Tensor:
        """Give each class's share (K,) of the source's pixels, predicted correctly or not."""
        pixels = torch.zeros_like(self.anchors.counts)
        for _, label in seen.source():
            pixels += one_hot(label, len(pixels)).sum(dim=(0, 2)).long()
        pixels = seen.all_reduce(pixels)
        return pixels / pixels.sum()


class CAGReleased(CAG):
    """One stage with the released code's anchors and distance loss."""

    Config: ClassVar[type[CAGSettings]] = CAGReleasedConfig
    config: ReleasedSettings

    @classmethod
    def new_anchor_labels(cls, segmenter: Segmenter, config: CAGSettings) -> AnchorLabels:
        """Make the labels by anchor, with anchors that have seen nothing."""
        settings = cast(ReleasedSettings, config)
        anchors = CategoryAnchors(
            segmenter.num_classes,
            segmenter.feature_channels,
            average=settings.average,
            min_pixels=settings.min_pixels,
            max_count=settings.max_count or None,
        )
        return ReleasedAnchorLabels(anchors, settings.margin, settings.only_correct)

    def distance(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Compute the distance of an image's mean features by class to the anchors."""
        if self.config.distance == "pixel":
            return super().distance(prediction, label)
        features, anchors = prediction.features, self.anchors.vectors
        return centroid_distance(features, prediction.logits, anchors, label)
