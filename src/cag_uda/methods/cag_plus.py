"""CAG-plus: category anchors with what has been learnt since, one stage of it.

An EMA teacher labels the target softly: its classifier's probabilities pooled with those of the
category anchors, which EM has adapted to the target in the teacher's own features. The student
learns from the source and from source classes pasted on the target, a part of which is masked.
Off by default are anchors that correct labels by distance (ProDA), anchor contrast (SePiCo) and the
alignment of the labels' class shares with the source's (ReMixMatch).

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
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from cag_uda.adaptation.anchors import CategoryAnchors, follow, nearest_of
from cag_uda.adaptation.losses import anchor_contrast, feature_distance
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
from cag_uda.methods.adapted_labels import AdaptedLabels
from cag_uda.methods.base import Method, Passes
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.methods.labeller import LabellerPasses
from cag_uda.models.backbones import build_backbone
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.teacher import follow as follow_weights
from cag_uda.models.teacher import statistics_follow
from cag_uda.types import IGNORE, Batch, Labelled, Losses, Prediction, PseudoLabels


class CAGPlus(Method):
    """One stage: anchors and class shares by the incoming network, then steps that all follow.

    Delivered is the teacher, the mean of the latest students. What a setting turns off is not
    computed; the source's anchors are made in any case, since a run keeps them.
    """

    Config: ClassVar[type[CAGPlusConfig]] = CAGPlusConfig
    counted: Tensor
    """(K,) bool: the classes whose cells the distance to the initial features counts."""

    def __init__(self, segmenter: Segmenter, config: CAGPlusConfig) -> None:
        super().__init__(segmenter, config)
        self.config = config
        self.teacher = copy.deepcopy(segmenter).requires_grad_(False).eval()
        self.anchors, self.target_anchors = self._no_anchors(), self._no_anchors()
        self.adapted: AdaptedLabels | None = None
        if config.adapted_weight:
            self.adapted = AdaptedLabels(segmenter, config.anchor_confidence, config.adapted_weight)
        self.prior = ClassPrior(segmenter.num_classes)
        self.initial = _initial_backbone(segmenter, config)
        counted = torch.tensor([name in config.initial.classes for name in segmenter.classes.names])
        self.register_buffer("counted", counted, persistent=False)
        self.before_step()

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; teacher and initial backbone are never in it."""
        super().train(mode)
        self.teacher.eval()
        if self.initial is not None:
            self.initial.eval()
        return self

    def prepare(self, passes: Passes) -> None:
        """Copy the student into the teacher; by it, make anchors and class shares of both domains.

        The target's first anchors are means of pixels that the teacher is sure of; a class of which
        it is nowhere sure begins with the source's.
        """
        self.teacher.load_state_dict(self.segmenter.state_dict())
        self.refresh(passes)
        seen = self._teacher_passes(passes)
        self.anchors.reset()
        for prediction, label in seen.source():
            self.anchors.update(prediction.features, label)
        self.anchors.reduce(seen.all_reduce)
        self.target_anchors.load_state_dict(self.anchors.state_dict())
        if "target" in self.config.anchored_domains or self.config.prior_strength:
            self._sweep_target(seen)

    def refresh(self, passes: Passes) -> None:
        """Adapt the anchors to the target anew, by what the teacher has become."""
        if self.adapted is not None:
            self.adapted.prepare(self._teacher_passes(passes))

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {source/ce, source/contrast, …}, {mixed/ce, mixed/contrast}."""
        source, last_map = self._see_source(batch.source.image)
        label = self.segmenter.on_grid(batch.source.label, source.logits)
        if "source" in self._latest:
            self._latest["source"].update(source.features.detach(), label)
        yield {
            "source/ce": self.cross_entropy(source.logits, batch.source.label),
            **self._contrast("source", source.features, label),
            **self._feature_distance(batch.source, last_map),
        }

        logits = self.label_target(batch.target.plain)
        mixed, soft = self.mix(batch, logits)
        student = self.student(mixed.image, "target")
        yield {
            "mixed/ce": soft_cross_entropy(self.upsample(student.logits, mixed.image), soft),
            **self._contrast_of_mixed(student.features, logits, mixed, soft),
        }

    @torch.no_grad()
    def label_target(self, image: Tensor) -> Tensor:
        """Label target images (B, 3, H, W) by the teacher, as logits (B, K, h, w).

        Its batch norms take the images into their statistics first. Anchors and class shares count
        what it sees.
        """
        with statistics_follow(self.teacher):
            prediction = self.frozen(self.teacher, image, "target")
        rectified = self.rectified(prediction)
        self._share += _class_sums(rectified)
        logits = self.prior.align(rectified, self.config.prior_strength)
        if "target" in self._latest:
            sure = by_confidence(logits, self.config.anchor_confidence)
            self._latest["target"].update(prediction.features, sure.label)
        return logits

    def rectified(self, prediction: Prediction) -> Tensor:
        """Correct the teacher's logits (B, K, h, w) by what anchors say of its features."""
        if self.adapted is not None:
            prediction = prediction._replace(logits=self.adapted.pooled(prediction))
        if not self.config.anchor_weight:
            return prediction.logits
        anchors = {"source": self.anchors, "target": self.target_anchors}
        sets = [anchors[domain] for domain in self.config.label_anchors]
        distances = nearest_of(sets, prediction.features)
        return rectify(prediction.logits, distances, self.config.anchor_weight)

    @torch.no_grad()
    def mix(self, batch: Batch, logits: Tensor) -> tuple[Mixed, SoftLabels]:
        """Make the student's target images, and labels for all of their pixels.

        Args:
            batch: of the step.
            logits: (B, K, h, w) of the target's labels.

        Returns:
            Target images with source classes pasted on them, then jittered, blurred and partly
            hidden, with the labels of the pasted pixels, IGNORE elsewhere; and soft labels.
        """
        labels = self.soft_labels(logits, batch.target.image)
        mixed = self.disturbed(self.paste(batch.source, batch.target.image, labels.weight))
        return mixed, with_known(labels, mixed.label)

    def soft_labels(self, logits: Tensor, image: Tensor) -> SoftLabels:
        """Turn labels' logits (B, K, h, w) into soft labels of images (B, 3, H, W)."""
        labels = soften(self.upsample(logits, image), self.config.label_temperature)
        if not self.config.confidence:
            return labels
        return labels._replace(weight=confident_share(labels.weight, self.config.confidence))

    def paste(self, giving: Labelled, image: Tensor, weight: Tensor) -> Mixed:
        """Paste half of the classes of images on others (ClassMix).

        Args:
            giving: images and labels, whose classes are pasted.
            image: (B, 3, H, W), on which.
            weight: of their pixels.

        Returns:
            Images with the labels of pasted pixels, IGNORE elsewhere.
        """
        chosen = choose_half_of_classes(giving.label, self.segmenter.num_classes)
        is_mixed = torch.rand(len(chosen), 1) < self.config.mix.probability
        chosen &= is_mixed.to(chosen.device, non_blocking=True)
        unknown = torch.full_like(giving.label, IGNORE)
        return class_mix(giving, (image, unknown), weight, chosen)

    def disturbed(self, mixed: Mixed) -> Mixed:
        """Jitter, blur and partly hide mixed images; pasted pixels are not hidden."""
        config = self.config.mix
        image = colour_jitter(mixed.image, config.jitter, config.jitter_probability)
        image = gaussian_blur(image, config.blur_px, config.blur_probability)
        return mixed._replace(image=self._hide(image, mixed.label == IGNORE))

    def before_step(self) -> None:
        """Forget what the last step has counted."""
        self._latest = {each: self._no_anchors() for each in self.config.anchored_domains}
        self._share = torch.zeros_like(self.prior.target)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update teacher, anchors and class shares by moving averages."""
        momentum = min(1 - 1 / (step + 1), self.config.momentum)
        follow_weights(self.teacher, self.segmenter, momentum)
        anchors = {"source": self.anchors, "target": self.target_anchors}
        for domain, latest in self._latest.items():
            latest.reduce(over_processes)
            follow(anchors[domain], latest, self.config.anchor_momentum)
        if self.config.prior_strength:
            self.prior.follow(over_processes(self._share), self.config.prior_momentum)

    def finish(self, passes: Passes) -> None:
        """Deliver the teacher, with statistics of the target's whole images."""
        self.segmenter.load_state_dict(self.teacher.state_dict())
        super().finish(passes)
        self.teacher.load_state_dict(self.segmenter.state_dict())

    def predictor(self) -> Segmenter:
        """Give the teacher."""
        return self.teacher

    @torch.no_grad()
    def pseudo_labels(self, image: Tensor) -> dict[str, PseudoLabels]:
        """Label target images (B, 3, H, W) where corrected labels, or the teacher alone, are sure.

        For reporting: training weighs all of the corrected labels alike.
        """
        alone = self.frozen(self.teacher, image, "target")
        corrected = self.prior.align(self.rectified(alone), self.config.prior_strength)
        least = self.config.anchor_confidence
        return {
            "corrected": by_confidence(corrected, least),
            "confidence": by_confidence(alone.logits, least),
        }

    def _teacher_passes(self, passes: Passes) -> LabellerPasses:
        """Wrap sweeps over images such that they give the teacher's predictions."""
        return LabellerPasses(self.teacher, partial(self.frozen, self.teacher), passes)

    def _sweep_target(self, seen: LabellerPasses) -> None:
        """Make the target's anchors and class shares."""
        found, share = self._no_anchors(), torch.zeros_like(self.prior.target)
        for prediction in seen.target():
            logits = self.rectified(prediction)
            sure = by_confidence(logits, self.config.anchor_confidence)
            found.update(prediction.features, sure.label)
            share += _class_sums(logits)
        for prediction, label in seen.labelled():
            found.update(prediction.features, label)
        found.reduce(seen.all_reduce)
        follow(self.target_anchors, found, momentum=0.0)
        self.prior.begin(self.anchors.counts, seen.all_reduce(share))

    def _hide(self, image: Tensor, may_be: Tensor) -> Tensor:
        """Hide random blocks of the pixels (B, H, W) that may be hidden (masked consistency)."""
        mask, size = self.config.mask, (image.shape[-2], image.shape[-1])
        if not mask.ratio * mask.probability:
            return image
        hidden = hidden_blocks(len(image), size, mask.ratio, mask.block, mask.probability)
        hidden = hidden.to(image.device, non_blocking=True) & may_be
        return torch.where(hidden[:, None], self.segmenter.mean, image)

    def _contrast(
        self, images: str, features: Tensor, label: Tensor, weight: Tensor | None = None
    ) -> Losses:
        """Contrast features with the source's anchors; nothing where that is off."""
        contrast, anchors = self.config.contrast, self.anchors.vectors
        if not contrast.weight:
            return {}
        loss = anchor_contrast(features, anchors, label, weight, contrast.temperature)
        return {f"{images}/contrast": contrast.weight * loss}

    def _contrast_of_mixed(
        self, features: Tensor, logits: Tensor, mixed: Mixed, soft: SoftLabels
    ) -> Losses:
        """Contrast features of mixed images by the pasted labels and, elsewhere, by `logits`."""
        if not self.config.contrast.weight:
            return {}
        known = self.segmenter.on_grid(mixed.label, logits)
        label = torch.where(known == IGNORE, logits.argmax(dim=1), known)
        return self._contrast("mixed", features, label, self.segmenter.on_grid(soft.weight, logits))

    def _see_source(self, image: Tensor) -> tuple[Prediction, Tensor | None]:
        """Predict source images; give the backbone's last map where a loss is of it, else None."""
        if self.initial is None:
            return self.student(image, "source"), None
        return self.student_and_map(image, "source")

    def _feature_distance(self, source: Labelled, last_map: Tensor | None) -> Losses:
        """Measure the distance to the initial backbone's features; nothing where that is off."""
        if self.initial is None or last_map is None:
            return {}
        with torch.no_grad(), self._autocast():
            initial = self.initial(self.segmenter.backbone_input(source.image))[-1]
        distance = feature_distance(last_map, initial, source.label, self.counted)
        return {"source/initial": self.config.initial.weight * distance}

    def _no_anchors(self) -> CategoryAnchors:
        """Make anchors that have seen nothing, where the network is."""
        with self.segmenter.mean.device:
            return CategoryAnchors(self.segmenter.num_classes, self.segmenter.feature_channels)


def _initial_backbone(segmenter: Segmenter, config: CAGPlusConfig) -> nn.Module | None:
    """Load the backbone with its published weights, frozen; None where that piece is off."""
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
    """Sum the classes' probabilities over the pixels of logits (B, K, h, w); gives (K,)."""
    return logits.softmax(dim=1).sum(dim=(0, 2, 3))
