"""CAG-plus where the source is not there: a packed network, the figures of its classes, the target.

docs/source-free.md tells what takes the place of each part of CAG-plus. Where a recipe has the
source all the same, the network that a stage begins with is packed for it in its preparation, and
no step sees a source image: as if `cag-uda pack` had been called in between.

Sources, besides those of `cag_plus`: adaptation without source data is Liang, Hu, Feng, *SHOT*,
ICML 2020, and for segmentation Liu, Zhang, Wang, *Source-Free Domain Adaptation for Semantic
Segmentation*, CVPR 2021; the pull is L2-SP of Li, Grandvalet, Davoine, *Explicit Inductive Bias for
Transfer Learning with Convolutional Networks*, ICML 2018; mixing unlabelled images by their
pseudo-labels is Olsson et al., *ClassMix*, WACV 2021.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from cag_uda.adaptation.adapted_anchors import FeatureSample, most_pixels, pool
from cag_uda.adaptation.carrying import carried
from cag_uda.adaptation.mixing import Mixed
from cag_uda.adaptation.soft_labels import SoftLabels, soft_cross_entropy
from cag_uda.methods.adapted_labels import AdaptedLabels, features_and_logits
from cag_uda.methods.anchor_classifier import is_linear, merge
from cag_uda.methods.base import Passes
from cag_uda.methods.cag_plus import CAGPlus
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.methods.labeller import LabellerPasses
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.norm import carry_source_statistics
from cag_uda.models.pack import weights_of_features
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.start import begin_with
from cag_uda.models.teacher import statistics_follow
from cag_uda.models.tuning import merged_state
from cag_uda.types import IGNORE, Batch, Labelled, Losses, Prediction, PseudoLabels

_PAIRS = 50_000
"""Most pixels by which figures are carried: a map of some hundred channels wants no more."""


class CAGPlusSourceFreeConfig(CAGPlusConfig):
    """Settings of a stage: those of CAG-plus, but for the pieces that want source images."""

    name: Literal["cag-plus-source-free"] = "cag-plus-source-free"  # type: ignore[assignment]  # its own row
    colour_transfer: Literal[False] = False
    """No source image is there to be recoloured."""
    pull: float = Field(default=0.01, ge=0)
    """α of α/2 · ‖w − w₀‖², the pull of the features' weights towards those of the packed network;
    0 takes it out. L2-SP has 0.01 to 0.1 for stochastic gradient descent."""

    anchors: float = Field(default=0.5, ge=0, lt=1)
    """Weight of the pack's anchors, adapted to the target, in pseudo-labels and in the delivered
    classifier, as `weight` of the method `anchor-classifier`, which would need the source after
    these steps; 0 leaves anchors out. A stage's `refresh_every` sets how often they are adapted
    anew to what the teacher has become."""

    def problem_with(self, segmenter: SegmenterConfig) -> str | None:
        """Refuse anchors in classifiers that are not linear."""
        if self.anchors and not is_linear(segmenter):
            return (
                "anchors are pooled with a classifier that is linear in a cell's features, as "
                "neither deeplab-v2 nor a network with segmenter.detail has; set anchors = 0"
            )
        return super().problem_with(segmenter)

    @model_validator(mode="after")
    def _wants_no_source(self) -> Self:
        if self.initial.weight:
            raise ValueError(
                "initial.weight: wants features of source images, which are not there; set 0"
            )
        return self


class CAGPlusSourceFree(CAGPlus):
    """One stage: anchors by the pack, then steps on the target alone that the teacher follows.

    Delivered is the teacher, with the anchors pooled into its classifier.
    """

    Config: ClassVar[type[CAGPlusSourceFreeConfig]] = CAGPlusSourceFreeConfig
    uses_source = False
    labels_follow = False  # At its end the classifier holds the anchors already.
    config: CAGPlusSourceFreeConfig
    counts: Tensor
    """(K,) int64: labelled cells of each class of the source, as in a pack."""

    def __init__(self, segmenter: Segmenter, config: CAGPlusSourceFreeConfig) -> None:
        made_of = segmenter.config.model_copy(update={"weights": None})
        if config.anchors:
            segmenter.add_skip_scores()
        super().__init__(segmenter, config)
        self.packed = Segmenter(made_of, segmenter.classes).requires_grad_(False).eval()
        self.of_pack: AdaptedLabels | None = None
        self.adapted: AdaptedLabels | None = None
        if config.anchors:
            # Labels nothing: it holds the pack's figures, as they are of the packed network.
            self.of_pack = AdaptedLabels.of_levels(segmenter)
            self.adapted = AdaptedLabels.of_levels(segmenter, config.anchors)
        self.register_buffer("counts", torch.zeros(segmenter.num_classes, dtype=torch.int64))

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; the packed network is never in it."""
        super().train(mode)
        self.packed.eval()
        return self

    def prepare(self, passes: Passes) -> None:
        """Take network and figures of the pack; adapt the anchors to the target.

        Where the target has batch-norm statistics of its own they are taken first: those of a
        packed network are of other images.
        """
        self.renew_target_statistics(passes)
        self.teacher.load_state_dict(self.segmenter.state_dict())
        self._unpack(passes)
        self.refresh(passes)

    @torch.no_grad()
    def refresh(self, passes: Passes) -> None:
        """Adapt the anchors to the target anew, by what the teacher has become.

        Where its features are no longer the pack's, the figures of the source are carried to them.
        """
        if self.of_pack is None or self.adapted is None:
            return
        figures = self.of_pack.anchors.figures(self.counts)
        channels, has_moved = len(figures.covariance), self._has_moved()
        target = FeatureSample(most_pixels(channels + len(self.counts)))
        pairs = FeatureSample(min(_PAIRS, most_pixels(2 * channels)))
        seen = LabellerPasses.of_levels(self, self.teacher, passes)
        for batch in seen.passes.target():
            now = seen.predict(batch.plain, "target")
            target.update(features_and_logits(now))
            if has_moved:
                before = self.frozen(self.packed, batch.plain, "target", levels=True)
                pairs.update(torch.cat([before.features, now.features], dim=1))
        if has_moved:
            figures = carried(figures, pairs, passes.all_reduce)
        self.adapted.anchors.begin(figures)
        self.adapted.adapt(seen, target)

    @torch.no_grad()
    def see_target(self, image: Tensor) -> Prediction:
        """Predict target images as CAG-plus does, by anchors and teacher together."""
        with statistics_follow(self.teacher):
            return self._pooled(image)

    @torch.no_grad()
    def pseudo_labels(self, image: Tensor) -> dict[str, PseudoLabels]:
        """Label the pixels that anchors and teacher together are sure of, for reporting."""
        return self.sure_labels(self._pooled(image))

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

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update the teacher, and the source's batch-norm statistics with it."""
        super().after_step(step)
        carry_source_statistics(self.teacher, self.packed)

    def finish(self, passes: Passes) -> None:
        """Deliver the teacher, with statistics of whole images, and its anchors, adapted anew."""
        super().finish(passes)
        carry_source_statistics(self.segmenter, self.packed)
        self.teacher.load_state_dict(self.segmenter.state_dict())
        if self.adapted is not None:
            self.refresh(passes)
            merge(self.segmenter, self.adapted, self.config.anchors)
            self.teacher.load_state_dict(self.segmenter.state_dict())

    def _pooled(self, image: Tensor) -> Prediction:
        """Predict target images by the teacher, its logits pooled with what the anchors say.

        They say p(c | f), class shares included: the student learns from these labels at every
        step, and by p(f | c) it would unlearn which classes are frequent.
        """
        seen = self.frozen(self.teacher, image, "target", levels=self.adapted is not None)
        if self.adapted is None:
            return seen
        of_anchors = self.adapted.anchors.log_posterior(seen.features)
        return seen._replace(logits=pool(seen.logits, of_anchors, self.config.anchors))

    def _unpack(self, passes: Passes) -> None:
        """Take packed network and figures; without a pack, of what the stage begins with."""
        if passes.pack is not None:
            begin_with(self.packed, passes.pack.segmenter(), "the pack's network")
        else:
            own = merged_state(self.segmenter)
            self.packed.load_state_dict({name: own[name] for name in self.packed.state_dict()})
        if self.of_pack is not None:
            figures = (
                self.of_pack.fit(LabellerPasses.of_levels(self, self.packed, passes))
                if passes.pack is None
                else passes.pack.figures
            )
            self.of_pack.anchors.begin(figures)
            self.counts.copy_(figures.counts)
        if self.packed.config.norm == "per-domain":
            self.estimate_target_statistics(passes, self.packed)

    def _has_moved(self) -> bool:
        """Tell whether the teacher's features are others than the packed network's."""
        packed = weights_of_features(self.packed)
        now = weights_of_features(self.teacher)
        return any(not each.equal(packed[name]) for name, each in now.items())

    def _squared_distance(self) -> Tensor:
        """Measure ‖w − w₀‖² over the features' weights that learn, where the pack has them."""
        packed = weights_of_features(self.packed)
        squares = [
            (each - packed[name]).square().sum()
            for name, each in self.segmenter.named_parameters()
            if each.requires_grad and name in packed
        ]
        return torch.stack(squares).sum() if squares else self.segmenter.mean.new_zeros(())
