"""Anchor contrast: each feature towards the anchor of its class and away from all the others.

The paper's distance loss only pulls; its cross entropies alone push classes apart. Here the anchors
do both. Directions are compared, so that no unit and no scale of the features matters.

Source: van den Oord et al., *Representation Learning with Contrastive Predictive Coding*, 2018
(InfoNCE), with a class's anchor as the positive and the others' as negatives, as Xie et al.,
*SePiCo*, TPAMI 2023 (centroid-aware form) has it for domain adaptation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.adaptation.losses import pixel_mean
from cag_uda.adaptation.precision import at_least_float32, without_autocast
from cag_uda.errors import ShapeError
from cag_uda.types import IGNORE


def anchor_contrast(
    features: Tensor,
    anchors: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    temperature: float = 0.1,
) -> Tensor:
    """InfoNCE of each pixel over all anchors, mean over labelled pixels.

    Args:
        features: (B, D, h, w).
        anchors: (K, D) as `CategoryAnchors.vectors`; constants. A class whose anchor is not finite
            repels nothing, and its pixels count as unlabelled.
        label: (B, h, w) int64 train ids with IGNORE, at feature resolution.
        weight: (B, h, w) factor of each pixel's loss; not part of the divisor.
        temperature: τ, above 0.

    Returns:
        Scalar mean of −log softmax_c(cos(f_j, A_c) / τ) at c = y_j, in nats; 0 with zero gradients
        where nothing is labelled.

    Raises:
        ShapeError: if the shapes do not fit.
    """
    grid = (features.shape[0], *features.shape[2:])
    if features.ndim != 4 or anchors.shape[1:] != features.shape[1:2] or label.shape != grid:
        raise ShapeError(
            "anchor_contrast wants features (B, D, h, w), anchors (K, D) and a label (B, h, w), "
            f"got {tuple(features.shape)}, {tuple(anchors.shape)} and {tuple(label.shape)}"
        )
    flat = at_least_float32(features).flatten(2)
    usable = anchors.isfinite().all(dim=1)
    directions = F.normalize(torch.where(usable[:, None], anchors, 0.0).to(flat.dtype), dim=1)
    with without_autocast(features):
        products = directions.detach().expand(len(flat), -1, -1) @ flat
    lengths = torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp(min=1e-6)
    similarity = products / (lengths * temperature)
    similarity = similarity.masked_fill(~usable[:, None], -torch.inf)
    table = torch.where(usable, torch.arange(len(anchors), device=label.device), IGNORE)
    is_class = (label >= 0) & (label < len(anchors))
    wanted = torch.where(is_class, table[torch.where(is_class, label, 0)], IGNORE).flatten(1)
    loss = F.cross_entropy(similarity, wanted, ignore_index=IGNORE, reduction="none")
    if weight is not None:
        loss = loss * weight.flatten(1)
    return pixel_mean(loss.sum(), (wanted != IGNORE).sum())
