"""The classifier pooled with category anchors that are adapted to the target; no training.

Given features, the anchors' log p(f | c) is linear in them, as the logits of a 1×1 convolution are.
So the pool of both (`adaptation.adapted_anchors.pool`) is one such convolution again: its weights
replace the classifier's, and the network stays what it was for prediction, export and training.

Features are the decoder's and behind them the backbone's middle maps, which training on one domain
has bent less. The pool is linear in these too, and the network holds it in its skip scores.

Sources: those of `adaptation.adapted_anchors`. Kin that average a trained classifier with one made
of prototypes: Iwasawa & Matsuo, *T3A*, NeurIPS 2021. Leaving anchors out where the source's labels
speak against them is this project's (docs/LOG.md).
"""

import logging
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cag_uda.adaptation.adapted_anchors import FeatureSample, SourceFigures, source_sample
from cag_uda.errors import UserError
from cag_uda.methods.adapted_labels import AdaptedLabels
from cag_uda.methods.base import MethodConfig, Passes, TrainingFree
from cag_uda.methods.labeller import LabellerPasses
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.decoders import DECODERS, Decoder
from cag_uda.models.pack import Pack
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
        labels: with anchors in the features of all levels.
        weight: of the anchors, in [0, 1].
    """
    segmenter.add_skip_scores()
    convolutions = _convolutions(segmenter)
    of_anchors, bias = labels.anchors.linear()
    of_maps = of_anchors.split([each.in_channels for each in convolutions], dim=1)
    for convolution, new in zip(convolutions, of_maps, strict=True):
        convolution.weight.lerp_(new[:, :, None, None], weight)
    assert convolutions[0].bias is not None
    convolutions[0].bias.lerp_(bias, weight)


def _convolutions(segmenter: Segmenter) -> list[nn.Conv2d]:
    """List the 1×1 convolutions whose sum the logits are: of the features, of the middle maps."""
    scores = segmenter.skip_scores
    of_maps = () if scores is None else tuple(scores.of_maps)
    return [cast(nn.Conv2d, each) for each in (segmenter.classifier, *of_maps)]


class AnchorClassifierConfig(MethodConfig):
    """Settings of the pooled classifier."""

    name: Literal["anchor-classifier"] = "anchor-classifier"
    weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of the anchors in the pooled classifier: 0 leaves the trained classifier as it is, 1
    replaces it by the anchors."""
    most_lost_points: float = Field(default=5.0, ge=0)
    """Most mIoU points that pooling may cost on labelled pixels of the source. Where it costs more,
    anchors describe these features badly, and the classifier stays as it is (docs/LOG.md)."""

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
        self.config = config
        self.adapted = AdaptedLabels.of_levels(segmenter, config.weight)

    def prepare(self, passes: Passes) -> None:
        """Fit anchors to the source, adapt them to the target, and pool them with the classifier.

        A sweep over the labelled source, if there is no pack, and one over the target's images.
        Raises UserError if the network is not that of the pack.
        """
        if not self.config.weight:
            return
        was_training = self.segmenter.training
        self.segmenter.eval()
        labels, sample = self.adapted, source_sample(self.adapted.anchors.vectors.shape[1])
        seen = LabellerPasses.of_levels(self, self.segmenter, passes)
        if passes.pack is None:
            labels.fit(seen, sample)
        else:
            labels.anchors.begin(self._figures_of(passes.pack))
        labels.adapt(seen)
        self.segmenter.train(was_training)
        lost = self._points_lost(labels, sample, seen)
        if lost > self.config.most_lost_points:
            logging.getLogger(__name__).warning(
                "anchors are left out of the classifier: pooled, it loses %.1f points of mIoU on "
                "the source's labels; most_lost_points = 100 pools them all the same",
                lost,
            )
            return
        merge(self.segmenter, labels, labels.weight)

    def _figures_of(self, pack: Pack) -> SourceFigures:
        """Take the figures of a pack of this network."""
        if not pack.is_of(self.segmenter):
            raise UserError(
                "the pack's anchors are of its own network's features, and this stage begins "
                "with a network that was trained since: put it before the stages that train, or "
                'set its start = "initial"'
            )
        return pack.figures

    @torch.no_grad()
    def _points_lost(
        self, labels: AdaptedLabels, sample: FeatureSample, seen: LabellerPasses
    ) -> float:
        """Find the mIoU points that pooling costs on labelled source pixels; 0 without any."""
        convolutions, vectors = _convolutions(self.segmenter), labels.anchors.source
        features, label = sample.rows(vectors.shape[1], vectors)
        weight = torch.cat([each.weight[:, :, 0, 0].float() for each in convolutions], dim=1)
        # Without skip scores the network says nothing of the middle maps.
        weight = F.pad(weight, (0, vectors.shape[1] - weight.shape[1]))
        own = F.linear(features, weight, convolutions[0].bias)
        pooled = own.lerp(F.linear(features, *labels.anchors.linear()), labels.weight)
        before, after = (
            _mean_iou(seen.all_reduce(_confusion(logits, label))) for logits in (own, pooled)
        )
        return 100 * (before - after)


def _confusion(logits: Tensor, label: Tensor) -> Tensor:
    """Count pixels by true and predicted class: (K, K) of logits (N, K) and ids (N,)."""
    classes = logits.shape[1]
    pairs = label * classes + logits.argmax(dim=1)
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def _mean_iou(confusion: Tensor) -> float:
    """Average the IoU in [0, 1] over the classes that have pixels; 0 if none has."""
    hits = confusion.diagonal().double()
    present = confusion.sum(dim=1) > 0
    union = confusion.sum(dim=0) + confusion.sum(dim=1) - hits
    return float((hits / union)[present].mean()) if bool(present.any()) else 0.0
