"""CAG-plus: an EMA teacher on mixed images; category anchors in its answer.

The teacher labels the target softly. The student learns from the source and from source classes
pasted on the target. The built-in recipes then pool anchors, adapted to the target, into the
delivered classifier (`anchor_classifier`). Off by default are source images in the target's
colours, hidden blocks of the target (MIC), and features that stay near those of the published
weights (DAFormer). Pieces that were tried and taken out, anchors in the labels among them:
docs/LOG.md.

A step passes as many images through networks as one of DACS does: masked consistency, a third pass
of the student in MIC, here hides blocks of the target's part of the mixed images.

Sources: Zhang et al., *CAG-UDA*, NeurIPS 2019; Tarvainen & Valpola, *Mean teachers*, NeurIPS 2017;
Tranheden et al., *DACS*, WACV 2021; Hoyer et al., *DAFormer*, CVPR 2022, and *MIC*, CVPR 2023.
Each piece's file tells what is taken from whom.
"""

import copy
from collections.abc import Iterator
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from cag_uda.adaptation.losses import feature_distance
from cag_uda.adaptation.mixing import (
    Mixed,
    choose_half_of_classes,
    class_mix,
    colour_jitter,
    confident_share,
    gaussian_blur,
    hidden_blocks,
    smaller_half,
)
from cag_uda.adaptation.pseudo_labels import by_confidence
from cag_uda.adaptation.soft_labels import SoftLabels, soft_cross_entropy, soften, with_known
from cag_uda.errors import UserError
from cag_uda.methods.base import Method, Passes
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.models.backbones import build_backbone
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.teacher import follow, statistics_follow
from cag_uda.types import IGNORE, Batch, Labelled, Losses, Prediction, PseudoLabels


class CAGPlus(Method):
    """One stage: steps that the teacher follows, from a network of any kind, an initial one too.

    Delivered is the teacher, the mean of the latest students. What a setting turns off is not
    computed.
    """

    Config: ClassVar[type[CAGPlusConfig]] = CAGPlusConfig
    labels_follow = True
    counted: Tensor
    """(K,) bool: the classes whose cells the distance to the initial features counts."""

    def __init__(self, segmenter: Segmenter, config: CAGPlusConfig) -> None:
        super().__init__(segmenter, config)
        self.config = config
        self.teacher = copy.deepcopy(segmenter).requires_grad_(False).eval()
        self.initial = _initial_backbone(segmenter, config)
        counted = torch.tensor([name in config.initial.classes for name in segmenter.classes.names])
        self.register_buffer("counted", counted, persistent=False)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; teacher and initial backbone are never in it."""
        super().train(mode)
        self.teacher.eval()
        if self.initial is not None:
            self.initial.eval()
        return self

    def prepare(self, passes: Passes) -> None:
        """Copy the student into the teacher."""
        self.teacher.load_state_dict(self.segmenter.state_dict())

    def refresh(self, passes: Passes) -> None:
        """Do nothing: the teacher follows at every step."""

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {source/ce, source/initial}, {mixed/ce}."""
        batch = self.recoloured(batch)
        source, last_map = self._see_source(batch.source.image)
        yield {
            "source/ce": self.cross_entropy(source.logits, batch.source.label),
            **self._feature_distance(batch.source, last_map),
        }

        mixed, soft = self.mix(batch, self.see_target(batch.target.plain).logits)
        student = self.student(mixed.image, "target")
        yield {"mixed/ce": soft_cross_entropy(self.upsample(student.logits, mixed.image), soft)}

    @torch.no_grad()
    def see_target(self, image: Tensor) -> Prediction:
        """Predict target images (B, 3, H, W) by the teacher.

        Its batch norms take the images into their statistics first.
        """
        with statistics_follow(self.teacher):
            return self.frozen(self.teacher, image, "target")

    @torch.no_grad()
    def mix(self, batch: Batch, logits: Tensor) -> tuple[Mixed, SoftLabels]:
        """Make the student's target images, and labels for all of their pixels.

        Args:
            batch: images of the step.
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
        """Paste half of the classes of labelled images on others (B, 3, H, W) (ClassMix).

        `weight` is that of the others' pixels. The labels are IGNORE where nothing is pasted.
        """
        config = self.config.mix
        chosen = choose_half_of_classes(giving.label, self.segmenter.num_classes)
        if config.half == "smaller":
            chosen = smaller_half(chosen, giving.label)
        is_mixed = torch.rand(len(chosen), 1) < config.probability
        chosen &= is_mixed.to(chosen.device, non_blocking=True)
        unknown = torch.full_like(giving.label, IGNORE)
        return class_mix(giving, (image, unknown), weight, chosen)

    def disturbed(self, mixed: Mixed) -> Mixed:
        """Jitter, blur and partly hide mixed images; pasted pixels are not hidden."""
        config = self.config.mix
        image = colour_jitter(mixed.image, config.jitter, config.jitter_probability)
        image = gaussian_blur(image, config.blur_px, config.blur_probability)
        return mixed._replace(image=self._hide(image, mixed.label == IGNORE))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update the teacher by a moving average."""
        momentum = min(1 - 1 / (step + 1), self.config.momentum)
        follow(self.teacher, self.segmenter, momentum)

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
        """Label the pixels that the teacher is sure of, for reporting; training uses all labels."""
        return self.sure_labels(self.frozen(self.teacher, image, "target"))

    def sure_labels(self, prediction: Prediction) -> dict[str, PseudoLabels]:
        """Label the pixels of the teacher's prediction that are sure, by every kind."""
        return {"confidence": by_confidence(prediction.logits, self.config.confidence)}

    def _hide(self, image: Tensor, may_be: Tensor) -> Tensor:
        """Hide random blocks of the pixels (B, H, W) that may be hidden (masked consistency)."""
        mask, size = self.config.mask, (image.shape[-2], image.shape[-1])
        if not mask.ratio * mask.probability:
            return image
        hidden = hidden_blocks(len(image), size, mask.ratio, mask.block, mask.probability)
        hidden = hidden.to(image.device, non_blocking=True) & may_be
        return torch.where(hidden[:, None], self.segmenter.mean, image)

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
