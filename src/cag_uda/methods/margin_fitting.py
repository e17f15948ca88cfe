"""Margins of anchor-based labels: their settings, and how they are fitted to the domains.

The paper's margin is a number in feature units and needs no fitting. The others have no unit: they
are fitted per class to the target's pixels, or to labelled pixels of the source.
"""

import copy
from collections.abc import Iterator
from typing import Literal, Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.adaptation.margins import AbsoluteMargin, Margin, MarginStatistics, RelativeMargin
from cag_uda.methods.labeller import LabellerPasses
from cag_uda.types import Config, Prediction


class MarginConfig(Config):
    """The margin by which the nearest anchor must win for a target pixel to be active."""

    kind: Literal["absolute", "relative", "clearest", "calibrated"] = "absolute"
    """Meaning of `value`: a gap d2 − d1 in feature units (the paper); a gap (d2 − d1) / (d1 + d2),
    free of the features' scale; the share of each class's target pixels that is labelled, the
    clearest first; or the precision that each class shall have on labelled source images that are
    held out: those of a "val" or "test" split of the source; where there is none, each half of the
    training images by anchors of the other half."""
    value: float = Field(default=2.5, ge=0)
    """2.5 is the paper's Δ_d, for the features of its network."""
    unreachable: Literal["never", "best"] = "never"
    """Treatment of a class that reaches the precision of a calibrated margin nowhere: never, it
    gets no label; best, it gets the margin at which it is most precise."""
    prior_portion: float | None = Field(default=None, gt=0, le=1)
    """Bound on a class's share of the target's pixels, as a multiple of its share of the source's:
    only its clearest pixels up to that are labelled, so that a rare class cannot flood the target.
    None: no such bound (the paper)."""

    @model_validator(mode="after")
    def _shares_end_at_one(self) -> Self:
        if self.kind != "absolute" and self.value > 1:
            raise ValueError(f"a {self.kind} margin lies between 0 and 1, got {self.value}")
        if self.kind == "absolute" and self.prior_portion is not None:
            raise ValueError("prior_portion bounds a margin without a unit; choose another kind")
        return self

    @property
    def is_of_source(self) -> bool:
        """True if fitting the margin takes the labelled source."""
        return self.kind == "calibrated" or self.prior_portion is not None

    def of(self, threshold: Tensor) -> Margin:
        """Make the margin of this kind of thresholds (K,), by class of the nearest anchor."""
        kind = AbsoluteMargin if self.kind == "absolute" else RelativeMargin
        return kind(threshold)


class Anchored(Protocol):
    """Labels by anchor, `cag.AnchorLabels`, as far as margins are fitted to them."""

    anchors: CategoryAnchors

    def counted(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Choose the labelled source pixels (B, h, w) that anchors are means of."""

    def source_shares(self, seen: LabellerPasses) -> Tensor:
        """Give each class's share (K,) of the source's labelled pixels."""


def fit_margin(config: MarginConfig, anchored: Anchored, seen: LabellerPasses) -> Tensor:
    """Fit thresholds (K,), or one for all classes, to what the labeller sees of both domains."""
    threshold = torch.as_tensor(config.value)
    if config.kind == "calibrated":
        statistics = _source_gaps(anchored, seen)
        fitted = statistics.calibrated(config.value, unreachable=config.unreachable)
        threshold = torch.as_tensor(fitted.value)
    if config.kind == "clearest" or config.prior_portion is not None:
        statistics = _target_gaps(anchored.anchors, seen)
        if config.kind == "clearest":
            threshold = torch.as_tensor(statistics.clearest(config.value).value)
        if config.prior_portion is not None:
            share = anchored.source_shares(seen)
            bound = statistics.within_prior(config.prior_portion, share)
            threshold = torch.maximum(threshold, torch.as_tensor(bound.value))
    return threshold


def _target_gaps(anchors: CategoryAnchors, seen: LabellerPasses) -> MarginStatistics:
    """Collect the relative gaps of the target's pixels."""
    statistics = _no_statistics(anchors)
    for prediction in seen.target():
        statistics.update(anchors.distances(prediction.features))
    statistics.reduce(seen.all_reduce)
    return statistics


def _source_gaps(anchored: Anchored, seen: LabellerPasses) -> MarginStatistics:
    """Collect relative gaps of labelled source pixels to anchors that they are not part of."""
    statistics = _no_statistics(anchored.anchors)
    held_out = seen.held_out()
    if held_out is None:
        _judge_by_halves(anchored, seen, statistics)
    else:
        for prediction, label in held_out:
            statistics.update(anchored.anchors.distances(prediction.features), label)
    statistics.reduce(seen.all_reduce)
    return statistics


def _judge_by_halves(
    anchored: Anchored, seen: LabellerPasses, statistics: MarginStatistics
) -> None:
    """Collect gaps of each half of the source's images to anchors of the other half."""
    halves = (copy.deepcopy(anchored.anchors), copy.deepcopy(anchored.anchors))
    for half in halves:
        half.reset()
    for which, prediction, label in _in_halves(seen):
        halves[which].update(prediction.features, anchored.counted(prediction, label))
    for half in halves:
        half.reduce(seen.all_reduce)
    for which, prediction, label in _in_halves(seen):
        statistics.update(halves[1 - which].distances(prediction.features), label)


def _in_halves(seen: LabellerPasses) -> Iterator[tuple[int, Prediction, Tensor]]:
    """Yield 0 with every second image of this process's source, and 1 with the others."""
    count = 0
    for prediction, label in seen.source():
        for half in (0, 1):
            mine = slice((count + half) % 2, None, 2)
            if label[mine].numel():
                part = Prediction(prediction.features[mine], prediction.logits[mine])
                yield half, part, label[mine]
        count += len(label)


def _no_statistics(anchors: CategoryAnchors) -> MarginStatistics:
    return MarginStatistics(anchors.num_classes).to(anchors.sums.device)
