"""Margins by which a pixel's nearest anchor must win before its label is trusted.

A pixel is active iff the gap between its nearest and second nearest distance is at least the
margin (`pseudo_labels.by_anchor`). The absolute margin is the paper's; its unit is the network's
feature scale, so 2.5 means nothing on another backbone. The relative margin has no unit, and
`MarginStatistics` fits it per class.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cag_uda.adaptation.tensors import check_grid
from cag_uda.errors import ShapeError, UserError
from cag_uda.types import IGNORE


class TwoNearest(NamedTuple):
    """The two anchors nearest to each pixel."""

    nearest: Tensor
    """(B, h, w) float, distance to the nearest anchor."""
    second: Tensor
    """(B, h, w) float, distance to the second nearest."""
    label: Tensor
    """(B, h, w) int64, class of the nearest; the lower id of equals."""


def two_nearest(distances: Tensor) -> TwoNearest:
    """Find the two anchors nearest to each pixel; a NaN among its distances gives a NaN.

    Args:
        distances: (B, K, h, w) float; +inf for a class that has no anchor.

    Raises:
        ShapeError: if the shape is another or there are fewer than two classes.
    """
    if distances.ndim != 4 or distances.shape[1] < 2:
        raise ShapeError(
            "the two nearest anchors want distances (B, K, h, w) with K of at least 2, got "
            f"{tuple(distances.shape)}"
        )
    nearest, label = distances.min(dim=1, keepdim=True)
    # Twice a minimum takes a third of the time of topk(2), measured at 2×19×128×224 on a CPU.
    second = distances.scatter(1, label, torch.inf).amin(dim=1)
    return TwoNearest(nearest.squeeze(1), second, label.squeeze(1))


def relative_gap(nearest: Tensor, second: Tensor) -> Tensor:
    """Compute (d₂ − d₁) / (d₁ + d₂) of distances (B, h, w), a gap in [0, 1] without a unit.

    It is 1 where only one anchor exists, and NaN where there is nothing to compare (no anchor, both
    distances 0, or a NaN).
    """
    gap = (second - nearest) / (nearest + second)
    return torch.where(second.isinf() & nearest.isfinite(), 1.0, gap)


class Margin(Protocol):
    """Rule for active pixels: those whose gap is at least the value.

    A class of your own with these two members will do.
    """

    @property
    def value(self) -> float | Tensor:
        """Threshold, for all classes or (K,) by nearest class; inf is never reached."""

    def gap(self, nearest: Tensor, second: Tensor) -> Tensor:
        """Measure by the two distances (B, h, w) how clearly the nearest anchor wins.

        The gap (B, h, w) is finite, or NaN where a distance is.
        """


@dataclass(frozen=True, eq=False)
class AbsoluteMargin:
    """Active iff d₂ − d₁ ≥ value. The paper has >, the released code ≥.

    Args:
        value: in feature units, at least 0, else UserError; or (K,) by nearest class.

    Source:
        Zhang et al., NeurIPS 2019 (Δ_d = 2.5); released code models/adaptation_model.py.
    """

    value: float | Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.value, Tensor) and not self.value >= 0:
            raise UserError(f"a margin is a distance of at least 0, got {self.value}")

    def gap(self, nearest: Tensor, second: Tensor) -> Tensor:
        """Compute d₂ − d₁; the largest finite number where there is one anchor alone."""
        gap = second - nearest
        return gap.clamp(max=torch.finfo(gap.dtype).max)


@dataclass(frozen=True, eq=False)
class RelativeMargin:
    """Active iff (d₂ − d₁) / (d₁ + d₂) ≥ value: no unit, the same on every backbone.

    A pixel at distance 0 of two anchors is not active.

    Args:
        value: in [0, 1], or inf for never, else UserError; or (K,) by nearest class.
    """

    value: float | Tensor

    def __post_init__(self) -> None:
        if isinstance(self.value, Tensor):
            return
        if not (0 <= self.value <= 1 or self.value == math.inf):
            raise UserError(
                f"a relative margin lies between 0 and 1 (or is inf: never), got {self.value}; "
                "a margin in feature units is an AbsoluteMargin"
            )

    def gap(self, nearest: Tensor, second: Tensor) -> Tensor:
        """Compute (d₂ − d₁) / (d₁ + d₂); see `relative_gap`."""
        return relative_gap(nearest, second)


class MarginStatistics(nn.Module):
    """Histograms of relative gaps, from which margins are fitted per class.

    The gaps of `update` fall into equal bins over [0, 1]; a fitted margin is a bin's lower edge,
    so it is exact to 1 / bins. With a power of two bins (as by default) the edge and the
    comparison agree to the last bit. Fewer than two classes or one bin raise UserError.
    """

    assigned: Tensor
    """(K, bins) int64: pixels by nearest class and gap."""
    labelled: Tensor
    """(K, bins) int64: those of them whose true label is known."""
    correct: Tensor
    """(K, bins) int64: those of them whose true label is the nearest class."""

    def __init__(self, num_classes: int, bins: int = 4096) -> None:
        super().__init__()
        if num_classes < 2 or bins < 1:
            raise UserError(
                "margin statistics want at least two classes and one bin, got "
                f"num_classes={num_classes}, bins={bins}"
            )
        self.num_classes = num_classes
        self.bins = bins
        for name in ("assigned", "labelled", "correct"):
            self.register_buffer(name, torch.zeros(num_classes, bins, dtype=torch.int64))

    @torch.no_grad()
    def update(self, distances: Tensor, true_label: Tensor | None = None) -> None:
        """Count one batch in.

        Args:
            distances: (B, K, h, w) float; pixels without a comparable gap are left out.
            true_label: (B, h, w) int64 with IGNORE, where it may be known: the source's.

        Raises:
            ShapeError: if the shapes do not fit.
        """
        if distances.ndim != 4 or distances.shape[1] != self.num_classes:
            raise ShapeError(
                f"margin statistics want distances (B, {self.num_classes}, h, w), "
                f"got {tuple(distances.shape)}"
            )
        nearest, second, label = two_nearest(distances)
        if true_label is not None:
            check_grid(true_label, distances, "distances")
        gap = relative_gap(nearest, second)
        comparable = ~gap.isnan()
        position = torch.where(comparable, gap, 0.0).mul_(self.bins).long()
        cell = (label * self.bins + position.clamp_(max=self.bins - 1)).flatten()
        _count(self.assigned, cell, comparable)
        if true_label is not None:
            _count(self.labelled, cell, comparable & (true_label != IGNORE))
            _count(self.correct, cell, comparable & (true_label == label))

    @torch.no_grad()
    def reduce(self, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """Sum over processes that each saw a part of the images; once, at the end of a sweep."""
        for histogram in self.buffers():
            histogram.copy_(all_reduce(histogram))

    def clearest(self, portion: float) -> RelativeMargin:
        """Fit the margin that labels the clearest portion of the pixels nearest to each class.

        It is the largest one with at least that portion active; inf (never) for a class that was
        nearest to no pixel. Raises UserError for a portion outside (0, 1].
        """
        check_share("portion", portion)
        at_least = sum_from_each_bin(self.assigned)
        total = at_least[:, :1]
        # The slack undoes the rounding of, say, 0.1 × 30 to a little more than 3.
        enough = at_least >= total * (portion * (1 - 1e-12))
        edge = (enough.sum(dim=1) - 1) / self.bins
        return RelativeMargin(torch.where(total.squeeze(1) > 0, edge, torch.inf))

    def within_prior(self, portion: float, share: Tensor) -> RelativeMargin:
        """Fit the margin that gives no class more labels than its share of the source allows.

        Distances to anchors know no prior: under a shift of domain the anchor of a rare class can
        flood the target, and each stage that trains on its labels makes it worse. So only the
        clearest pixels of each class are labelled, up to its share of the source.

        Args:
            portion: in (0, 1]; a class is given at most portion · share of the target's pixels.
            share: (K,) float, each class's share of the source's labelled pixels.

        Returns:
            Per class the smallest margin with at most portion · share of all pixels active; inf
            (never) where the share is 0 or too many pixels lie in the last bin.

        Raises:
            UserError: for a portion outside (0, 1].
        """
        check_share("portion", portion)
        at_least = sum_from_each_bin(self.assigned)
        # The slack undoes the rounding of a share that is not a binary fraction.
        allowed = portion * (1 + 1e-6) * share.to(torch.float64)[:, None] * self.assigned.sum()
        fits = (at_least <= allowed) & (share[:, None] > 0)
        edge = fits.int().argmax(dim=1) / self.bins
        return RelativeMargin(torch.where(fits.any(dim=1), edge, torch.inf))

    def calibrated(
        self,
        precision: float,
        min_pixels: int = 100,
        unreachable: Literal["never", "best"] = "never",
    ) -> RelativeMargin:
        """Fit the smallest margin at which labelled pixels reach a wanted precision.

        Feed `update` with held-out source images: on those that made the anchors, the precision
        is flattered.

        Args:
            precision: in (0, 1], wanted share of correct labels among the active pixels.
            min_pixels: least labelled active pixels to believe a precision from; without it the
                few clearest pixels of a class would reach any precision by luck.
            unreachable: what a class gets that reaches the precision at no margin: "never", no
                label at all, so that the precision holds for every label; or "best", the margin of
                its highest precision, so that it still gets labels.

        Returns:
            Per class the smallest such margin; inf (never) for a class with fewer than
            `min_pixels` labelled pixels, whatever `unreachable` is.

        Raises:
            UserError: for a precision outside (0, 1], or fewer than one pixel.
        """
        check_share("precision", precision)
        if min_pixels < 1:
            raise UserError(f"min_pixels wants at least 1, got {min_pixels}")
        labelled = sum_from_each_bin(self.labelled)
        correct = sum_from_each_bin(self.correct)
        believed = labelled >= min_pixels
        reached = believed & (correct >= labelled * (precision * (1 - 1e-12)))
        first = reached.int().argmax(dim=1)
        edge = torch.where(reached.any(dim=1), first / self.bins, torch.inf)
        if unreachable == "best":
            achieved = torch.where(believed, correct / labelled, -1.0)
            best = achieved.argmax(dim=1) / self.bins
            edge = torch.where(believed.any(dim=1) & edge.isinf(), best, edge)
        return RelativeMargin(edge)


def _count(histogram: Tensor, cell: Tensor, counted: Tensor) -> None:
    histogram.view(-1).index_add_(0, cell, counted.flatten().long())


def sum_from_each_bin(histogram: Tensor) -> Tensor:
    """Count, of a histogram (K, bins), the pixels in each bin and all above it."""
    return histogram.flip(1).cumsum(dim=1).flip(1)


def check_share(name: str, share: float) -> None:
    """Raise UserError unless 0 < share ≤ 1."""
    if not 0 < share <= 1:
        raise UserError(f"{name} wants a number above 0 and at most 1, got {share}")
