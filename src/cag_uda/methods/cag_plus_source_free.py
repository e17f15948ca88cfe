"""CAG-plus where the source is not there: a trained network and the images of the target.

Labels are those of the EMA teacher, pooled with those of the network that the stage began with,
which stays as it is: without true labels in any step, it is what the teacher cannot drift away
from. Where anchors were pooled into that network's classifier (`anchor_classifier`, which a pack
has the figures for), they have half of the say in that half. docs/source-free.md tells what takes
the place of each other part of CAG-plus.

Sources, besides those of `cag_plus`: adaptation without source data is Liang, Hu, Feng, *SHOT*,
ICML 2020, and for segmentation Liu, Zhang, Wang, *Source-Free Domain Adaptation for Semantic
Segmentation*, CVPR 2021; the pull is L2-SP of Li, Grandvalet, Davoine, *Explicit Inductive Bias for
Transfer Learning with Convolutional Networks*, ICML 2018; mixing unlabelled images by their
pseudo-labels is Olsson et al., *ClassMix*, WACV 2021. The frozen network in the labels is this
project's (docs/LOG.md); its kin is learning without forgetting, Li & Hoiem, ECCV 2016.
"""

import copy
from collections.abc import Iterator
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cag_uda.adaptation.adapted_anchors import pool
from cag_uda.adaptation.mixing import Mixed
from cag_uda.adaptation.soft_labels import SoftLabels, soft_cross_entropy
from cag_uda.methods.base import Passes
from cag_uda.methods.cag_plus import CAGPlus
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.models.norm import carry_source_statistics
from cag_uda.models.pack import weights_of_features
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE, Batch, Labelled, Losses, Prediction, PseudoLabels


class CAGPlusSourceFreeConfig(CAGPlusConfig):
    """Settings of a stage: those of CAG-plus, but for the pieces that want source images."""

    name: Literal["cag-plus-source-free"] = "cag-plus-source-free"  # type: ignore[assignment]  # its own row
    colour_transfer: Literal[False] = False
    """No source image is there to be recoloured."""
    pull: float = Field(default=0.01, ge=0)
    """α of α/2 · ‖w − w₀‖², the pull of the features' weights towards those that the stage began
    with; 0 takes it out. L2-SP has 0.01 to 0.1 for stochastic gradient descent."""
    hold: float = Field(default=0.5, ge=0, le=1)
    """Weight, in the labels, of the network that the stage began with: 0 leaves them to the
    teacher, with 1 they never change."""

    @model_validator(mode="after")
    def _wants_no_source(self) -> Self:
        if self.initial.weight:
            raise ValueError(
                "initial.weight: wants features of source images, which are not there; set 0"
            )
        return self


class CAGPlusSourceFree(CAGPlus):
    """One stage: steps on the target alone that the teacher follows.

    Its batch norms stay in evaluation mode, with the statistics that the stage began with, those of
    both domains mixed, which its labels are normalised by, too. Delivered is the teacher, whose
    statistics are renewed at the end.
    """

    Config: ClassVar[type[CAGPlusSourceFreeConfig]] = CAGPlusSourceFreeConfig
    uses_source = False
    config: CAGPlusSourceFreeConfig

    def __init__(self, segmenter: Segmenter, config: CAGPlusSourceFreeConfig) -> None:
        super().__init__(segmenter, config)
        self.held = copy.deepcopy(segmenter).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; held network and batch norms are never in it."""
        super().train(mode)
        self.held.eval()
        for module in self.segmenter.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def prepare(self, passes: Passes) -> None:
        """Copy the student into the teacher and the held network.

        Where the target has batch-norm statistics of its own they are taken first: those of a
        packed network are of other images.
        """
        self.renew_target_statistics(passes)
        super().prepare(passes)
        self.held.load_state_dict(self.segmenter.state_dict())

    @torch.no_grad()
    def see_target(self, image: Tensor) -> Prediction:
        """Predict target images by the teacher, its logits pooled with the held network's."""
        seen = self.frozen(self.teacher, image, "target")
        if not self.config.hold:
            return seen
        held = self.frozen(self.held, image, "target").logits
        return seen._replace(logits=pool(seen.logits, held, self.config.hold))

    @torch.no_grad()
    def pseudo_labels(self, image: Tensor) -> dict[str, PseudoLabels]:
        """Label the pixels that both networks together are sure of, for reporting."""
        return self.sure_labels(self.see_target(image))

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {mixed/ce, source/pull}; the batch's source is not looked at."""
        mixed, soft = self.mix(batch, self.see_target(batch.target.plain).logits)
        student = self.student(mixed.image, "target")
        losses = {"mixed/ce": soft_cross_entropy(self.upsample(student.logits, mixed.image), soft)}
        if self.config.pull:
            losses["source/pull"] = self.config.pull / 2 * self._squared_distance()
        yield losses

    @torch.no_grad()
    def mix(self, batch: Batch, logits: Tensor) -> tuple[Mixed, SoftLabels]:
        """Make the student's images: classes of each target image pasted on the one after it.

        Arguments and results are those of `CAGPlus.mix`; the soft labels of pasted pixels are
        pasted too.
        """
        image = batch.target.image
        labels = self.soft_labels(logits, image)
        likeliest = labels.probability.argmax(dim=1)
        weight = labels.weight.expand(likeliest.shape)
        giving = Labelled(image.roll(1, dims=0), likeliest.roll(1, dims=0))
        mixed = self.disturbed(self.paste(giving, image, weight))
        is_pasted = mixed.label != IGNORE
        probability = labels.probability
        return mixed, SoftLabels(
            torch.where(is_pasted[:, None], probability.roll(1, dims=0), probability),
            torch.where(is_pasted, weight.roll(1, dims=0), weight),
        )

    def finish(self, passes: Passes) -> None:
        """Deliver the teacher, with statistics of its own weights for both domains."""
        super().finish(passes)
        carry_source_statistics(self.segmenter, self.held)
        self.teacher.load_state_dict(self.segmenter.state_dict())

    def _squared_distance(self) -> Tensor:
        """Measure ‖w − w₀‖² over the features' weights that learn."""
        before = weights_of_features(self.held)
        squares = [
            (each - before[name]).square().sum()
            for name, each in self.segmenter.named_parameters()
            if each.requires_grad and name in before
        ]
        return torch.stack(squares).sum() if squares else self.segmenter.mean.new_zeros(())
