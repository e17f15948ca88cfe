"""CAG: category anchor-guided adaptation, one stage of it.

Source: Zhang, Zhang, Liu, Tao, *Category Anchor-Guided Unsupervised Domain Adaptation for Semantic
Segmentation*, NeurIPS 2019 (arXiv 1910.13049), and the code that its authors released.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors, follow
from cag_uda.adaptation.losses import anchor_distance, centroid_distance, cross_entropy
from cag_uda.adaptation.margins import AbsoluteMargin, Margin, MarginStatistics, RelativeMargin
from cag_uda.adaptation.pseudo_labels import by_anchor, by_confidence, intersection
from cag_uda.adaptation.tensors import one_hot, over_processes
from cag_uda.methods.base import MethodConfig, Passes
from cag_uda.methods.labeller import FrozenLabeller
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE, Batch, Config, Labelled, Losses, Prediction, PseudoLabels

LabelKind = Literal["anchor", "confidence", "intersection"]


class MarginConfig(Config):
    """How clearly the nearest anchor must win for a target pixel to be active."""

    kind: Literal["absolute", "relative", "clearest", "calibrated"] = "absolute"
    """What `value` means: a gap d2 − d1 in feature units (the paper); a gap (d2 − d1) / (d1 + d2),
    free of the features' scale; the share of each class's target pixels that is labelled, the
    clearest first; or the precision that each class shall have on labelled source images that are
    held out: those of a "val" or "test" split of the source; where there is none, each half of the
    training images by anchors of the other half."""
    value: float = Field(default=2.5, ge=0)
    """2.5 is the paper's Δ_d, for the features of its network."""
    unreachable: Literal["never", "best"] = "never"
    """What a class gets that reaches a calibrated margin's precision nowhere: no label at all, or
    the margin at which it is most precise."""
    prior_portion: float | None = Field(default=None, gt=0, le=1)
    """Where given, no class labels more of the target than this times its share of the source:
    only its clearest pixels, so that a rare class cannot flood the target. None: no such bound (the
    paper)."""

    @model_validator(mode="after")
    def _shares_end_at_one(self) -> Self:
        if self.kind != "absolute" and self.value > 1:
            raise ValueError(f"a {self.kind} margin lies between 0 and 1, got {self.value}")
        if self.kind == "absolute" and self.prior_portion is not None:
            raise ValueError("prior_portion bounds a margin without a unit; choose another kind")
        return self

    @property
    def is_of_source(self) -> bool:
        """Whether fitting the margin takes the labelled source."""
        return self.kind == "calibrated" or self.prior_portion is not None


class CAGConfig(MethodConfig):
    """Settings of a stage; the defaults are the paper's."""

    name: Literal["cag"] = "cag"
    labels: tuple[LabelKind, ...] = ("anchor",)
    """Pseudo-labels that supervise the target, each by a cross entropy; the mean of them is used.
    The released code has ("anchor", "confidence")."""
    margin: MarginConfig = MarginConfig()
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Least softmax probability of a probability-based label (the paper and the released code)."""
    average: Literal["pixel", "image"] = "pixel"
    """Anchors as means over pixels (the paper) or over the means of images (the released code)."""
    only_correct: bool = False
    """Whether anchors leave out pixels that the network gets wrong (the released code does)."""
    min_pixels: int = Field(default=1, ge=1)
    """Pixels of a class that an image needs to count in an image average; released code: 10."""
    max_count: int | None = Field(default=None, ge=1)
    """Most pixels (or images) that an anchor is the mean of; later ones enter a running mean. None:
    the mean of all (the paper); released code: 3000 images."""
    anchors: Literal["refreshed", "fixed", "moving"] = "refreshed"
    """Within a stage: made anew whenever the labeller is (`refresh_every`), as between stages; kept
    as the stage's first; or drawn in each step towards the student's features of the source."""
    anchor_momentum: float = Field(default=0.99, ge=0, le=1)
    """Of moving anchors: A ← m·A + (1 − m)·mean of the step's images."""
    distance: Literal["pixel", "centroid"] = "pixel"
    """The distance loss by pixel (the paper) or by centroid of an image's class (released code)."""
    distance_weight: float = Field(default=0.7, ge=0)
    """λ of the distance losses of source and target; 0.7 in the released code."""
    target_weight: float = Field(default=1.0, ge=0)
    """Of the target's cross entropy."""

    @model_validator(mode="after")
    def _some_labels(self) -> Self:
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must name at least one kind, each once, got {self.labels}")
        return self


class CAG(FrozenLabeller):
    """One stage: anchors and pseudo-labels from the frozen incoming network, then training."""

    Config = CAGConfig
    threshold: Tensor

    def __init__(self, segmenter: Segmenter, config: CAGConfig) -> None:
        super().__init__(segmenter, config)
        self.config = config
        self.anchors = self._no_anchors()
        self._seen: tuple[CategoryAnchors] | None = None
        self.register_buffer("threshold", torch.full((segmenter.num_classes,), config.margin.value))

    def prepare(self, passes: Passes) -> None:
        """Freeze the network as the labeller; take anchors and margins with it."""
        is_first = not bool(self.anchors.counts.any())
        if not is_first and self.segmenter.config.norm == "per-domain":
            # As at the end of a stage: the labeller's statistics are not of random crops.
            self.estimate_target_statistics(passes)
        self.freeze_labeller()
        found, pixels = self._no_anchors(), torch.zeros_like(self.threshold)
        for prediction, label in self._by_labeller(passes.source()):
            pixels += one_hot(label, len(pixels)).sum(dim=(0, 2))
            found.update(prediction.features, self._anchored(prediction, label))
        found.reduce(passes.all_reduce)
        made_anew = is_first or self.config.anchors == "refreshed"
        if made_anew:
            self.anchors.load_state_dict(found.state_dict())
        pixels = passes.all_reduce(pixels)
        self._fit_margin(passes, pixels / pixels.sum(), made_anew)

    def before_step(self) -> None:
        """Forget what a step that was left out has seen."""
        self._seen = None

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yields {source/ce, source/distance}, {target/<kind>, …, target/distance}."""
        source = self.student(batch.source.image, "source")
        label = self.on_grid(batch.source.label, source.logits)
        if self.config.anchors == "moving":
            self._seen = self._seen or (self._no_anchors(),)
            self._seen[0].update(source.features.detach(), label)
        yield {
            "source/ce": cross_entropy(
                source.logits,
                batch.source.label,
                align_corners=self.segmenter.config.align_corners,
            ),
            "source/distance": self.config.distance_weight * self._distance(source, label),
        }
        pseudo = self._labels(batch.target.plain, self.config.labels)
        target = self.student(batch.target.image, "target")
        weight = self.config.target_weight / len(self.config.labels)
        yield {
            **{
                f"target/{kind}": weight * cross_entropy(target.logits, pseudo[kind].label)
                for kind in self.config.labels
            },
            "target/distance": self.config.distance_weight
            * self._distance(target, pseudo[self.config.labels[0]].label),
        }

    def after_step(self, step: int) -> None:
        """Moving anchors follow the student's features of the step's source images."""
        for seen in self._seen or ():
            seen.reduce(over_processes)
            follow(self.anchors, seen, self.config.anchor_momentum)

    @torch.no_grad()
    def pseudo_labels(self, image: Tensor) -> dict[str, PseudoLabels]:
        """Active target identification and pseudo-label assignment by the frozen labeller.

        Args:
            image: (B, 3, H, W) target images in [0, 1].

        Returns:
            Labels on the feature grid by kind: "anchor", "confidence", and where both agree.
        """
        return self._labels(image, ("anchor", "confidence", "intersection"))

    @torch.no_grad()
    def _labels(self, image: Tensor, kinds: Iterable[LabelKind]) -> dict[str, PseudoLabels]:
        """The wanted kinds of label, and no work for the others."""
        prediction = self.frozen(self.labeller, image, "target")

        def anchor() -> PseudoLabels:
            return by_anchor(self.anchors.distances(prediction.features), self.margin)

        def confidence() -> PseudoLabels:
            return by_confidence(prediction.logits, self.config.confidence)

        make: dict[LabelKind, Callable[[], PseudoLabels]] = {
            "anchor": anchor,
            "confidence": confidence,
            "intersection": lambda: intersection(anchor(), confidence()),
        }
        return {kind: make[kind]() for kind in kinds}

    @property
    def margin(self) -> Margin:
        """The margin in force: the configured value, or the thresholds fitted to the domains."""
        if self.config.margin.kind == "absolute":
            return AbsoluteMargin(self.threshold)
        return RelativeMargin(self.threshold)

    def _no_anchors(self) -> CategoryAnchors:
        """Anchors that have seen nothing, averaged as configured, on the network's device."""
        config, network = self.config, self.segmenter
        return CategoryAnchors(
            network.num_classes,
            network.feature_channels,
            average=config.average,
            min_pixels=config.min_pixels,
            max_count=config.max_count,
        ).to(network.mean.device)

    def _anchored(self, prediction: Prediction, label: Tensor) -> Tensor:
        """The source label (on the feature grid) without the pixels that anchors leave out."""
        if not self.config.only_correct:
            return label
        return label.masked_fill(prediction.logits.argmax(1) != label, IGNORE)

    def _fit_margin(self, passes: Passes, share: Tensor, made_anew: bool) -> None:
        """Set each class's threshold; `share` (K,) is the classes' shares of the source.

        `made_anew` tells whether the anchors are of the features that they judge.
        """
        margin = self.config.margin
        fitted: float | Tensor = margin.value
        if margin.kind == "calibrated":
            statistics = self._held_out_statistics(passes, made_anew)
            fitted = statistics.calibrated(margin.value, unreachable=margin.unreachable).value
        if margin.kind == "clearest" or margin.prior_portion is not None:
            statistics = self._target_statistics(passes)
            if margin.kind == "clearest":
                fitted = statistics.clearest(margin.value).value
            if margin.prior_portion is not None:
                bound = statistics.within_prior(margin.prior_portion, share)
                fitted = torch.maximum(torch.as_tensor(fitted), torch.as_tensor(bound.value))
        self.threshold.copy_(torch.as_tensor(fitted))

    def _held_out_statistics(self, passes: Passes, made_anew: bool) -> MarginStatistics:
        """Gaps of labelled source pixels that no anchor which judges them was made of.

        Anchors that were kept (fixed or moving ones) are of other features than these, and judge
        the source's own images too.
        """
        statistics = MarginStatistics(self.segmenter.num_classes).to(self.threshold.device)
        held_out = passes.held_out()
        if held_out is None and made_anew:
            self._judge_by_halves(passes, statistics)
        else:
            judged = passes.source() if held_out is None else held_out
            for prediction, label in self._by_labeller(judged):
                statistics.update(self.anchors.distances(prediction.features), label)
        statistics.reduce(passes.all_reduce)
        return statistics

    def _judge_by_halves(self, passes: Passes, statistics: MarginStatistics) -> None:
        """Every second image of the source makes the anchors that judge the others' pixels."""
        halves = (self._no_anchors(), self._no_anchors())
        for half, prediction, label in self._in_halves(passes):
            halves[half].update(prediction.features, self._anchored(prediction, label))
        for anchors in halves:
            anchors.reduce(passes.all_reduce)
        for half, prediction, label in self._in_halves(passes):
            statistics.update(halves[1 - half].distances(prediction.features), label)

    def _in_halves(self, passes: Passes) -> Iterator[tuple[int, Prediction, Tensor]]:
        """What the labeller sees in every second image of this process, and in the others."""
        seen = 0
        for prediction, label in self._by_labeller(passes.source()):
            for half in (0, 1):
                mine = slice((seen + half) % 2, None, 2)
                if label[mine].numel():
                    yield half, Prediction(*(maps[mine] for maps in prediction)), label[mine]
            seen += len(label)

    def _by_labeller(self, batches: Iterable[Labelled]) -> Iterator[tuple[Prediction, Tensor]]:
        """What the labeller sees in source images, and their labels on its grid."""
        for source in batches:
            prediction = self.frozen(self.labeller, source.image, "source")
            yield prediction, self.on_grid(source.label, prediction.logits)

    def _target_statistics(self, passes: Passes) -> MarginStatistics:
        statistics = MarginStatistics(self.segmenter.num_classes).to(self.threshold.device)
        for target in passes.target():
            prediction = self.frozen(self.labeller, target.plain, "target")
            statistics.update(self.anchors.distances(prediction.features))
        statistics.reduce(passes.all_reduce)
        return statistics

    def _distance(self, prediction: Prediction, label: Tensor) -> Tensor:
        if self.config.distance == "pixel":
            return anchor_distance(prediction.features, self.anchors.vectors, label)
        return centroid_distance(*prediction, self.anchors.vectors, label)
