"""Labels for unlabelled pixels: by nearest category anchor, and by the classifier's confidence.

Pure functions of distances and logits. The threshold of confidence is one for all classes
(`by_confidence`) or one for each (`by_class_balance`). `intersection` and `union` make one label
map of two; methods that train on both take the mean of two cross entropies (the released code).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cag_uda.adaptation.margins import (
    AbsoluteMargin,
    Margin,
    check_share,
    sum_from_each_bin,
    two_nearest,
)
from cag_uda.adaptation.tensors import at_least_float32
from cag_uda.errors import ShapeError
from cag_uda.types import IGNORE, PseudoLabels

_LOWEST, _HIGHEST = -8.0, 18.0
"""Log-odds that the bins span: of 1/3000, below any highest of K ≤ 254 probabilities, and beyond
the largest float32 below 1."""


@torch.no_grad()
def by_anchor(distances: Tensor, margin: float | Tensor | Margin) -> PseudoLabels:
    """Assign each pixel to its nearest category anchor, if it is nearest by a clear margin.

    A pixel is active iff the gap to the second nearest anchor is at least the margin (the paper
    has >, the released code ≥: they differ on exact ties). Where only one class has an anchor,
    every pixel gets that class; where none has one, or a distance is NaN, the pixel is ignored.

    Args:
        distances: (B, K, h, w) float, Euclidean distance of each pixel's feature to each anchor,
            +inf for a class without an anchor.
        margin: least gap in feature units, a number or (K,) by nearest class; or a margin of
            `adaptation.margins`, for example `RelativeMargin(0.2)`.

    Returns:
        Labels (B, h, w) int64 with IGNORE, and weights (B, h, w), 1 where assigned, else 0.

    Raises:
        ShapeError: if there are fewer than two classes, or a margin of another class count.
        UserError: for a margin below 0.

    Source:
        Zhang et al., NeurIPS 2019, active target identification and pseudo-label assignment;
        released code models/adaptation_model.py, CustomMetrics.update.
    """
    rule = AbsoluteMargin(margin) if isinstance(margin, int | float | Tensor) else margin
    d1, d2, label = two_nearest(distances)
    return _where(rule.gap(d1, d2) >= _of_class(rule.value, label, distances, "margin"), label)


@torch.no_grad()
def by_confidence(logits: Tensor, threshold: float | Tensor) -> PseudoLabels:
    """Assign each pixel to its most probable class, if its probability exceeds a threshold.

    Args:
        logits: (B, K, h, w), any floating type, before the softmax.
        threshold: probability in [0, 1] to exceed, a number or (K,) by the most probable class.
            0.95 in the paper.

    Returns:
        Labels and weights as `by_anchor`; IGNORE also where a logit is NaN.

    Raises:
        ShapeError: if the shapes do not fit.

    Source:
        Zhang et al., NeurIPS 2019; released code models/adaptation_model.py, which has > too.
    """
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ShapeError(
            f"by_confidence wants logits (B, K, h, w) with K of at least 2, got "
            f"{tuple(logits.shape)}"
        )
    confidence, label = at_least_float32(logits).softmax(dim=1).max(dim=1)
    return _where(confidence > _of_class(threshold, label, logits, "threshold"), label)


def intersection(first: PseudoLabels, second: PseudoLabels) -> PseudoLabels:
    """Keep the labels (B, h, w) that both give, fewer and more often right; else IGNORE, 0.

    The smaller weight counts. Raises ShapeError if the two are not on one grid.
    """
    _check_same_grid(first, second)
    agreed = first.label == second.label
    return PseudoLabels(
        torch.where(agreed, first.label, IGNORE),
        torch.where(agreed, torch.minimum(first.weight, second.weight), 0.0),
    )


def union(first: PseudoLabels, second: PseudoLabels) -> PseudoLabels:
    """Take the labels (B, h, w) that either gives; IGNORE, 0 where the two contradict each other.

    The larger weight counts where both assign one. Raises ShapeError if the two are not on one
    grid.
    """
    _check_same_grid(first, second)
    label = torch.where(first.label == IGNORE, second.label, first.label)
    contradicted = (second.label != IGNORE) & (second.label != label)
    return PseudoLabels(
        torch.where(contradicted, IGNORE, label),
        torch.where(contradicted, 0.0, torch.maximum(first.weight, second.weight)),
    )


def _where(assigned: Tensor, label: Tensor) -> PseudoLabels:
    return PseudoLabels(torch.where(assigned, label, IGNORE), assigned.float())


def _of_class(value: float | Tensor, label: Tensor, like: Tensor, name: str) -> float | Tensor:
    """Look numbers (K,) up by each pixel's class (B, h, w); one for all classes stays as it is.

    K is that of `like` (B, K, h, w); `name` is how a ShapeError calls the numbers.
    """
    if not isinstance(value, Tensor) or value.shape == ():
        return value
    if value.shape != (like.shape[1],):
        raise ShapeError(
            f"a {name} per class wants {like.shape[1]} numbers, one for each class, got a tensor "
            f"of shape {tuple(value.shape)}"
        )
    return value.to(label.device, non_blocking=True)[label]


def _check_same_grid(first: PseudoLabels, second: PseudoLabels) -> None:
    if first.label.shape != second.label.shape:
        raise ShapeError(
            f"pseudo-labels of one grid are wanted, got {tuple(first.label.shape)} and "
            f"{tuple(second.label.shape)}"
        )


class ConfidenceStatistics(nn.Module):
    """Histograms of the confidence of the pixels predicted as each class.

    Bins are equal in log-odds, so that a class of which most pixels are above 0.9999 is still told
    apart. A threshold is a bin's lower edge: exact to (_HIGHEST − _LOWEST) / bins in log-odds, with
    the default bins to 0.0016 in probability at most.

    Args:
        num_classes: K.
        bins: of the log-odds.
    """

    pixels: Tensor
    """(K, bins) int64: pixels by predicted class and confidence."""

    def __init__(self, num_classes: int, bins: int = 4096) -> None:
        super().__init__()
        self.num_classes, self.bins = num_classes, bins
        self.register_buffer("pixels", torch.zeros(num_classes, bins, dtype=torch.int64))

    @torch.no_grad()
    def update(self, logits: Tensor) -> None:
        """Count the logits (B, K, h, w) of a batch in. Raises ShapeError for another K."""
        _check_logits(logits, self.num_classes)
        probability = at_least_float32(logits).softmax(dim=1)
        confidence, label = probability.max(dim=1)
        odds = torch.logit(confidence).clamp_(_LOWEST, _HIGHEST)
        position = ((odds - _LOWEST) * (self.bins / (_HIGHEST - _LOWEST))).long()
        cell = label * self.bins + position.clamp_(max=self.bins - 1)
        counted = torch.bincount(cell.flatten(), minlength=self.pixels.numel())
        self.pixels += counted.view_as(self.pixels)

    @torch.no_grad()
    def reduce(self, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """Sum over processes that each saw a part of the images; once, at the end of a sweep."""
        self.pixels.copy_(all_reduce(self.pixels))

    @torch.no_grad()
    def thresholds(self, portion: float) -> Tensor:
        """Find the confidence k_c (K,), float32, that a portion of each class's pixels reaches.

        The portion is of the pixels predicted as the class; outside (0, 1] it raises UserError. A
        class that was predicted nowhere gets inf: it is never assigned.
        """
        check_share("portion", portion)
        at_least = sum_from_each_bin(self.pixels)
        total = at_least[:, 0]
        # The slack undoes the rounding of, say, 0.1 × 30 to a little more than 3.
        enough = at_least >= total[:, None] * (portion * (1 - 1e-12))
        edge = (enough.sum(dim=1) - 1).double() / self.bins * (_HIGHEST - _LOWEST) + _LOWEST
        return torch.where(total > 0, edge.sigmoid(), torch.inf).float()


@torch.no_grad()
def by_class_balance(logits: Tensor, thresholds: Tensor) -> PseudoLabels:
    """Assign each pixel to the class whose own threshold its probability exceeds the most.

    Args:
        logits: (B, K, h, w), any floating type, before the softmax.
        thresholds: (K,) k_c above 0, for example of `ConfidenceStatistics.thresholds`; inf never.

    Returns:
        Labels (B, h, w) int64: argmax_c p_c / k_c where that ratio is at least 1, else IGNORE; and
        weights as `by_anchor`.

    Raises:
        ShapeError: if the shapes do not fit.

    Source: Zou et al., *Domain Adaptation for Semantic Segmentation via Class-Balanced
    Self-Training* (CBST), ECCV 2018, equations 6 and 7.
    """
    _check_logits(logits, len(thresholds))
    probability = at_least_float32(logits).softmax(dim=1)
    ratio, label = (probability / thresholds[:, None, None]).max(dim=1)
    return _where(ratio >= 1, label)


def _check_logits(logits: Tensor, num_classes: int) -> None:
    if logits.ndim != 4 or logits.shape[1] != num_classes:
        raise ShapeError(
            f"class balance wants logits (B, {num_classes}, h, w), got {tuple(logits.shape)}"
        )
