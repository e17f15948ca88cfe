"""DACS: a slowly following teacher labels the target, the student trains on mixed images.

Source: Tranheden, Olsson, Pinto, Svensson, *DACS: Domain Adaptation via Cross-domain Mixed
Sampling*, WACV 2021, and the code that its authors released.
"""

import copy
from collections.abc import Iterator
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from cag_uda.adaptation.mixing import (
    Mixed,
    choose_half_of_classes,
    class_mix,
    colour_jitter,
    confident_share,
    gaussian_blur,
)
from cag_uda.adaptation.pseudo_labels import by_confidence
from cag_uda.methods.base import Method, MethodConfig, Passes
from cag_uda.models.inference import inference
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.teacher import follow
from cag_uda.types import Batch, Losses, PseudoLabels


class DACSConfig(MethodConfig):
    """Settings of DACS; the defaults are the released code's."""

    name: Literal["dacs"] = "dacs"
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """EMA decay of the teacher's weights; smaller in the first steps, 1 − 1 / (step + 1)."""
    confidence: float = Field(default=0.968, gt=0, lt=1)
    """Target pixels weigh the share of pixels of the batch with at least this probability."""
    jitter: float = Field(default=0.25, ge=0, lt=1)
    """Strength of the colour jitter of mixed images."""
    jitter_probability: float = Field(default=0.8, ge=0, le=1)
    """Probability that a mixed image is jittered."""
    blur_px: tuple[float, float] = (0.15, 1.15)
    """Range of the standard deviation of the blur of mixed images, in pixels."""
    blur_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that a mixed image is blurred."""


class DACS(Method):
    """Half of a source image's classes pasted on a target image that the teacher has labelled.

    Delivered is the student, as in the released code. (Its target statistics are taken anew at the
    end over plain target images: the running ones are of mixed images.)
    """

    Config = DACSConfig
    labels_follow = True

    def __init__(self, segmenter: Segmenter, config: DACSConfig) -> None:
        super().__init__(segmenter, config)
        self.config = config
        self.teacher = copy.deepcopy(segmenter).requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; the teacher has neither dropout nor stochastic depth.

        Its batch norms, as in the released code, normalise by the batch of plain target images.
        """
        super().train(mode)
        for module in self.teacher.modules():
            if not isinstance(module, nn.BatchNorm2d):
                module.training = False
        return self

    def prepare(self, passes: Passes) -> None:
        """Copy the student into the teacher."""
        self.teacher.load_state_dict(self.segmenter.state_dict())

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {source/ce}, {mixed/ce}."""
        source = self.student(batch.source.image, "source")
        yield {"source/ce": self.cross_entropy(source.logits, batch.source.label)}
        mixed = self.mix(batch)
        prediction = self.student(mixed.image, "target")
        yield {"mixed/ce": self.cross_entropy(prediction.logits, mixed.label, mixed.weight)}

    @torch.no_grad()
    def mix(self, batch: Batch) -> Mixed:
        """Make the mixed images of a step, jittered and blurred, with labels and weights."""
        logits = self.frozen(self.teacher, batch.target.plain, "target").logits
        logits = self.upsample(logits, batch.target.plain)
        confidence, label = logits.softmax(dim=1).max(dim=1)
        mixed = class_mix(
            source=batch.source,
            target=(batch.target.image, label),
            weight=confident_share(confidence, self.config.confidence),
            chosen=choose_half_of_classes(batch.source.label, self.segmenter.num_classes),
        )
        image = colour_jitter(mixed.image, self.config.jitter, self.config.jitter_probability)
        image = gaussian_blur(image, self.config.blur_px, self.config.blur_probability)
        return mixed._replace(image=image)

    def after_step(self, step: int) -> None:
        """Update the teacher's weights by the moving average (EMA)."""
        momentum = min(1 - 1 / (step + 1), self.config.momentum)
        follow(self.teacher, self.segmenter, momentum)

    @torch.no_grad()
    def pseudo_labels(self, image: Tensor) -> dict[str, PseudoLabels]:
        """Label the pixels that the teacher is sure of, for reporting; training uses all labels."""
        with inference(self.teacher):
            logits = self.frozen(self.teacher, image, "target").logits
        return {"confidence": by_confidence(logits, self.config.confidence)}
