"""CAG-plus: category anchors with what has been learnt since, one stage of it.

A teacher follows the student and labels the target softly: its probabilities, drawn towards the
source's class shares. The student learns from the source and from source classes pasted on the
target, a part of which is hidden from it. The anchors of both domains follow too, the target's by
the teacher's features and the source's by the student's: the teacher's would take another pass.
They can correct the labels and draw the student's features: two pieces to put in, off by default.

A step passes as many images through networks as one of DACS does: masked consistency, a third pass
of the student in MIC, here hides blocks of the target's part of the mixed images.

Sources: Zhang et al., *CAG-UDA*, NeurIPS 2019; Tarvainen & Valpola, *Mean teachers*, NeurIPS 2017;
Tranheden et al., *DACS*, WACV 2021; Zhang et al., *ProDA*, CVPR 2021; Xie et al., *SePiCo*, TPAMI
2023; Hoyer et al., *DAFormer*, CVPR 2022, and *MIC*, CVPR 2023; Berthelot et al., *ReMixMatch*,
ICLR 2020. Each piece's file tells what is taken from whom. (DAFormer's sampling of rare classes is
a matter of the loader: `loading.rare_class_temperature`.)
"""

import copy
from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from cag_uda.adaptation.anchors import CategoryAnchors, follow, nearest_of
from cag_uda.adaptation.losses import anchor_contrast, cross_entropy, feature_distance
from cag_uda.adaptation.mixing import (
    Mixed,
    choose_half_of_classes,
    class_mix,
    colour_jitter,
    confident_share,
    gaussian_blur,
    hidden_blocks,
)
from cag_uda.adaptation.pseudo_labels import by_confidence
from cag_uda.adaptation.soft_labels import (
    ClassPrior,
    SoftLabels,
    rectify,
    soft_cross_entropy,
    soften,
    with_known,
)
from cag_uda.adaptation.tensors import over_processes
from cag_uda.errors import UserError
from cag_uda.methods.base import Method, Passes
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.models.backbones import build_backbone
from cag_uda.models.inference import upsample
from cag_uda.models.last_map import WithLastMap
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.teacher import follow as follow_weights
from cag_uda.models.teacher import statistics_follow
from cag_uda.types import IGNORE, Batch, DomainName, Labelled, Losses, Prediction, PseudoLabels


class _Seen(NamedTuple):
    """What a step has seen that anchors and class shares follow after it."""

    source: CategoryAnchors
    """Of the student's features of the source."""
    target: CategoryAnchors
    """Of the teacher's features of the target, where its labels are sure."""
    share: Tensor
    """(K,) sums of the labels' probabilities, before their alignment."""


class CAGPlus(Method):
    """One stage: anchors and class shares by the incoming network, then steps that all follow.

    Delivered is the teacher, the mean of the latest students.
    """

    Config = CAGPlusConfig
    counted: Tensor
    """(K,) bool: the classes whose cells the distance to the initial features counts."""

    def __init__(self, segmenter: Segmenter, config: CAGPlusConfig) -> None:
        super().__init__(segmenter, config)
        self.config = config
        self.teacher = copy.deepcopy(segmenter).requires_grad_(False).eval()
        self.anchors, self.target_anchors = self._no_anchors(), self._no_anchors()
        self.prior = ClassPrior(segmenter.num_classes)
        self.initial = _initial_backbone(segmenter, config)
        counted = torch.tensor([name in config.initial.classes for name in segmenter.classes.names])
        self.register_buffer("counted", counted, persistent=False)
        self.before_step()

    def networks(self) -> dict[str, nn.Module]:
        """The segmenter, which gives its backbone's last map too."""
        return {"segmenter": WithLastMap(self.segmenter)}

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; teacher and initial backbone are never in it."""
        super().train(mode)
        self.teacher.eval()
        if self.initial is not None:
            self.initial.eval()
        return self

    def prepare(self, passes: Passes) -> None:
        """The teacher begins as the student; anchors and class shares of both domains with it.

        The target's first anchors are of what the source's make the teacher sure of; a class of
        which it is nowhere sure begins with the source's.
        """
        self.teacher.load_state_dict(self.segmenter.state_dict())
        self.anchors.reset()
        for source in passes.source():
            features, _ = self.frozen(self.teacher, source.image, "source")
            self.anchors.update(features, self.on_grid(source.label, features))
        self.anchors.reduce(passes.all_reduce)
        self.target_anchors.load_state_dict(self.anchors.state_dict())
        found, share = self._no_anchors(), torch.zeros_like(self.prior.target)
        for target in passes.target():
            features, logits = self._rectified(target.plain)
            found.update(features, by_confidence(logits, self.config.anchor_confidence).label)
            share += _class_sums(logits)
        found.reduce(passes.all_reduce)
        follow(self.target_anchors, found, momentum=0.0)
        self.prior.begin(self.anchors.counts, passes.all_reduce(share))

    def before_step(self) -> None:
        """Forget what the last step has seen."""
        unseen = torch.zeros_like(self.prior.target)
        self._seen = _Seen(self._no_anchors(), self._no_anchors(), unseen)

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yields {source/ce, source/contrast, …}, {mixed/ce, mixed/contrast}."""
        aligned = self.segmenter.config.align_corners
        anchors = self.anchors.vectors

        prediction, last_map = self._student(batch.source.image, "source")
        label = self.on_grid(batch.source.label, prediction.logits)
        seen = self._seen
        seen.source.update(prediction.features.detach(), label)
        yield {
            "source/ce": cross_entropy(
                prediction.logits, batch.source.label, align_corners=aligned
            ),
            **self._contrast("source", prediction, anchors, label),
            **self._feature_distance(batch.source, last_map),
        }

        with statistics_follow(self.teacher):
            features, rectified = self._rectified(batch.target.plain)
        logits = self.prior.align(rectified, self.config.prior_strength)
        seen.target.update(features, by_confidence(logits, self.config.anchor_confidence).label)

        mixed, soft = self.mix(batch, logits)
        prediction, _ = self._student(mixed.image, "target")
        known = self.on_grid(mixed.label, logits)
        label = torch.where(known == IGNORE, logits.argmax(dim=1), known)
        weight = self.on_grid(soft.weight, logits)
        yield {
            "mixed/ce": soft_cross_entropy(prediction.logits, soft, align_corners=aligned),
            **self._contrast("mixed", prediction, anchors, label, weight),
        }
        seen.share.add_(_class_sums(rectified))

    @torch.no_grad()
    def mix(self, batch: Batch, logits: Tensor) -> tuple[Mixed, SoftLabels]:
        """What the student sees of the target in a step, and what it is told about it.

        Args:
            batch: of the step.
            logits: (B, K, h, w) of the target's labels.

        Returns:
            Images with source classes pasted on them, jittered, blurred, and in the end partly
            hidden, with the labels of the pasted pixels, IGNORE elsewhere; and labels for all.
        """
        config = self.config
        image = batch.target.image
        count, size = len(image), (image.shape[-2], image.shape[-1])
        labels = soften(
            upsample(logits, size, self.segmenter.config.align_corners), config.label_temperature
        )
        if config.confidence:
            labels = labels._replace(weight=confident_share(labels.weight, config.confidence))
        chosen = choose_half_of_classes(batch.source.label, self.segmenter.num_classes)
        chosen &= (torch.rand(count, 1) < config.mix.probability).to(
            chosen.device, non_blocking=True
        )
        unknown = torch.full_like(batch.source.label, IGNORE)
        mixed = class_mix(batch.source, (image, unknown), labels.weight, chosen)
        image = colour_jitter(mixed.image, config.mix.jitter, config.mix.jitter_probability)
        image = gaussian_blur(image, config.mix.blur_px, config.mix.blur_probability)
        mask = config.mask
        hidden = hidden_blocks(count, size, mask.ratio, mask.block, mask.probability)
        hidden = hidden.to(image.device, non_blocking=True) & (mixed.label == IGNORE)
        image = torch.where(hidden[:, None], self.segmenter.mean, image)
        return mixed._replace(image=image), with_known(labels, mixed.label)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Teacher, anchors and class shares follow what the step has made and seen."""
        momentum = min(1 - 1 / (step + 1), self.config.momentum)
        follow_weights(self.teacher, self.segmenter, momentum)
        for anchors, latest in (
            (self.anchors, self._seen.source),
            (self.target_anchors, self._seen.target),
        ):
            latest.reduce(over_processes)
            follow(anchors, latest, self.config.anchor_momentum)
        self.prior.follow(over_processes(self._seen.share), self.config.prior_momentum)

    def finish(self, passes: Passes) -> None:
        """The teacher becomes what is delivered, with statistics of the target's whole images."""
        self.segmenter.load_state_dict(self.teacher.state_dict())
        super().finish(passes)
        self.teacher.load_state_dict(self.segmenter.state_dict())

    def predictor(self) -> Segmenter:
        """The teacher."""
        return self.teacher

    @torch.no_grad()
    def pseudo_labels(self, image: Tensor) -> dict[str, PseudoLabels]:
        """What the corrected labels are sure of, and the teacher alone; for reporting.

        Args:
            image: (B, 3, H, W) target images in [0, 1].
        """
        _, rectified = self._rectified(image)
        corrected = self.prior.align(rectified, self.config.prior_strength)
        alone = self.frozen(self.teacher, image, "target").logits
        least = self.config.anchor_confidence
        return {
            "corrected": by_confidence(corrected, least),
            "confidence": by_confidence(alone, least),
        }

    def _rectified(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's features (B, D, h, w) of the target and its corrected logits."""
        features, logits = self.frozen(self.teacher, image, "target")
        if not self.config.anchor_weight:
            return features, logits
        anchors = {"source": self.anchors, "target": self.target_anchors}
        sets = [anchors[domain] for domain in self.config.label_anchors]
        distances = nearest_of(sets, features)
        return features, rectify(logits, distances, self.config.anchor_weight)

    def _student(self, image: Tensor, domain: DomainName) -> tuple[Prediction, Tensor]:
        """The student's prediction and last map, through whatever wraps it."""
        network = self._calls.get("segmenter") or self.networks()["segmenter"]
        prediction, last_map = network(image, domain)
        return prediction, last_map

    def _contrast(
        self,
        images: str,
        prediction: Prediction,
        anchors: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
    ) -> Losses:
        """The contrast of features with the anchors; nothing where it is taken out."""
        contrast = self.config.contrast
        if not contrast.weight:
            return {}
        loss = anchor_contrast(prediction.features, anchors, label, weight, contrast.temperature)
        return {f"{images}/contrast": contrast.weight * loss}

    def _feature_distance(self, source: Labelled, last_map: Tensor) -> Losses:
        """The distance to the initial backbone's features; nothing where there is none."""
        if self.initial is None:
            return {}
        with torch.no_grad(), self._autocast():
            initial = self.initial(self.segmenter.backbone_input(source.image))[-1]
        distance = feature_distance(last_map, initial, source.label, self.counted)
        return {"source/initial": self.config.initial.weight * distance}

    def _no_anchors(self) -> CategoryAnchors:
        """Anchors that have seen nothing, where the network is."""
        with self.segmenter.mean.device:
            return CategoryAnchors(self.segmenter.num_classes, self.segmenter.feature_channels)


def _initial_backbone(segmenter: Segmenter, config: CAGPlusConfig) -> nn.Module | None:
    """The backbone with its published weights, frozen; None where they are not looked at."""
    if not config.initial.weight:
        return None
    made_of = segmenter.config
    problem = config.problem_with(made_of)
    if not set(config.initial.classes) & set(segmenter.classes.names):
        names = ", ".join(segmenter.classes.names)
        problem = problem or f"initial.classes names none of the classes; choose from {names}"
    if problem:
        raise UserError(problem)
    backbone = build_backbone(
        made_of.backbone, made_of.weights, made_of.output_stride, made_of.multi_grid
    )
    return backbone.requires_grad_(False).eval()


def _class_sums(logits: Tensor) -> Tensor:
    """Probabilities (K,) of the classes, summed over the pixels of logits (B, K, h, w)."""
    return logits.softmax(dim=1).sum(dim=(0, 2, 3))
