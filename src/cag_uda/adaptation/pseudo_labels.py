"""Labels for unlabelled pixels: by nearest category anchor, and by the classifier's confidence.

Pure functions of distances and logits; what supplies them, and what trains on the labels, is
elsewhere. Methods that train on both kinds take the mean of two cross entropies (the released
code), which is a matter of losses; `intersection` and `union` make one label map of two.
"""

import torch
from torch import Tensor

from cag_uda.adaptation.labels import per_pixel
from cag_uda.adaptation.margins import AbsoluteMargin, Margin, two_nearest
from cag_uda.adaptation.precision import at_least_float32
from cag_uda.errors import ShapeError
from cag_uda.types import IGNORE, PseudoLabels


@torch.no_grad()
def by_anchor(distances: Tensor, margin: float | Tensor | Margin) -> PseudoLabels:
    """Assign each pixel to its nearest category anchor, if it is nearest by a clear margin.

    A pixel is active iff the gap to the second nearest anchor is at least the margin (the paper
    has >, the released code ≥: they differ on exact ties). Where only one class has an anchor the
    gap has no bound, and every pixel gets that class. Where no class has one, or a distance is
    NaN, the pixel is ignored.

    Args:
        distances: (B, K, h, w) float, Euclidean distance of each pixel's feature to each anchor,
            +inf for a class without an anchor.
        margin: least gap in feature units, a number or (K,) looked up by the nearest class; or a
            margin of `adaptation.margins`, for example `RelativeMargin(0.2)`.

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
    nearest, second, label = two_nearest(distances)
    _check_per_class("margin", rule.value, distances.shape[1])
    return _where(rule.is_active(nearest, second, label), label)


@torch.no_grad()
def by_confidence(logits: Tensor, threshold: float | Tensor) -> PseudoLabels:
    """Assign each pixel to its most probable class, if its probability exceeds a threshold.

    Args:
        logits: (B, K, h, w), any floating type, before the softmax.
        threshold: probability in [0, 1] to exceed, a number or (K,) looked up by the most
            probable class. 0.95 in the paper.

    Returns:
        Labels (B, h, w) int64 with IGNORE (also where a logit is NaN), and weights (B, h, w), 1
        where assigned, else 0.

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
    _check_per_class("threshold", threshold, logits.shape[1])
    confidence, label = at_least_float32(logits).softmax(dim=1).max(dim=1)
    return _where(confidence > per_pixel(threshold, label), label)


def intersection(first: PseudoLabels, second: PseudoLabels) -> PseudoLabels:
    """Keep the labels that both give: fewer, and more often right.

    Args:
        first: labels and weights (B, h, w).
        second: labels and weights (B, h, w).

    Returns:
        The common label where both assign the same one, with the smaller weight; else IGNORE, 0.

    Raises:
        ShapeError: if the two are not on one grid.
    """
    _check_same_grid(first, second)
    agreed = first.label == second.label
    return PseudoLabels(
        torch.where(agreed, first.label, IGNORE),
        torch.where(agreed, torch.minimum(first.weight, second.weight), 0.0),
    )


def union(first: PseudoLabels, second: PseudoLabels) -> PseudoLabels:
    """Take the labels that either gives, and none where the two contradict each other.

    Args:
        first: labels and weights (B, h, w).
        second: labels and weights (B, h, w).

    Returns:
        The label of whichever assigns one, with its weight (the larger where both do); IGNORE
        and 0 where neither does, or the two differ.

    Raises:
        ShapeError: if the two are not on one grid.
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


def _check_per_class(name: str, value: float | Tensor, num_classes: int) -> None:
    if isinstance(value, Tensor) and value.shape not in ((), (num_classes,)):
        raise ShapeError(
            f"a {name} per class wants {num_classes} numbers, one for each class, got a tensor "
            f"of shape {tuple(value.shape)}"
        )


def _check_same_grid(first: PseudoLabels, second: PseudoLabels) -> None:
    if first.label.shape != second.label.shape:
        raise ShapeError(
            f"pseudo-labels of one grid are wanted, got {tuple(first.label.shape)} and "
            f"{tuple(second.label.shape)}"
        )
