"""Anchors that follow the network: each step draws them a little towards those of its batch.

Knows anchors, not what they are of: source pixels with true labels, or target pixels with
pseudo-labels.

Source: Zhang et al., *ProDA*, CVPR 2021, section 3.2 (the target's prototypes by a moving average);
the released CAG-UDA code forgets in the same way once a class has been counted 3000 times.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.errors import ShapeError, UserError


@torch.no_grad()
def follow(anchors: CategoryAnchors, latest: CategoryAnchors, momentum: float) -> None:
    """Draw anchors towards those of the latest batch, in place.

    Args:
        anchors: a class that has none yet takes the latest as it is; the counts stay otherwise.
        latest: of one batch, over all processes; a class that is not in it leaves `anchors` alone.
        momentum: m of A ← m·A + (1 − m)·latest, in [0, 1]; 1 leaves the anchors where they are.

    Raises:
        ShapeError: if the two are of other classes or channels.
        UserError: for a momentum outside [0, 1].
    """
    if anchors.sums.shape != latest.sums.shape:
        raise ShapeError(
            "follow wants anchors of as many classes and channels, got "
            f"{tuple(anchors.sums.shape)} and {tuple(latest.sums.shape)}"
        )
    if not 0 <= momentum <= 1:
        raise UserError(f"a momentum lies between 0 and 1, got {momentum}")
    is_new = (anchors.counts == 0) & (latest.counts > 0)
    anchors.counts.copy_(torch.where(is_new, latest.counts, anchors.counts))
    anchors.sums.copy_(torch.where(is_new[:, None], latest.sums, anchors.sums))
    target = latest.sums / latest.counts[:, None] * anchors.counts[:, None]
    moved = torch.lerp(anchors.sums, target, 1 - momentum)
    seen = (latest.counts > 0)[:, None]
    anchors.sums.copy_(torch.where(seen, moved, anchors.sums))


def nearest_of(sets: Sequence[CategoryAnchors], features: Tensor) -> Tensor:
    """Measure how far each pixel is from each class that several sets of anchors describe.

    Args:
        sets: at least one, for example of both domains.
        features: (B, D, h, w).

    Returns:
        (B, K, h, w) the distance to the nearer of a class's anchors; +inf where no set has one.
    """
    nearest, *others = (anchors.distances(features) for anchors in sets)
    for other in others:
        nearest = torch.minimum(nearest, other)
    return nearest
