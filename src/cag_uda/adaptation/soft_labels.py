"""Soft pseudo-labels: a probability of each class for every pixel, and the pixel's weight."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.adaptation.losses import pixel_mean
from cag_uda.adaptation.tensors import at_least_float32
from cag_uda.errors import ShapeError
from cag_uda.types import IGNORE


class SoftLabels(NamedTuple):
    """Class probabilities of each pixel, and its weight in the loss."""

    probability: Tensor
    """(B, K, H, W) float32, summing to 1 over the classes."""
    weight: Tensor
    """(B, H, W) float32 in [0, 1]."""


@torch.no_grad()
def soften(logits: Tensor, temperature: float) -> SoftLabels:
    """Turn logits into labels that say how sure they are.

    Of finite logits (B, K, H, W) the labels are softmax(logits / temperature), weighed by the
    confidence, the highest probability of softmax(logits). A temperature below 1 sharpens the
    labels; 0 makes them certain of the likeliest class. The weights do not depend on it.

    Source: the temperature is the sharpening of Berthelot et al., *MixMatch*, NeurIPS 2019.
    """
    probability = logits.softmax(dim=1)
    confidence, likeliest = probability.max(dim=1)
    if temperature == 0:
        probability = torch.zeros_like(probability).scatter_(1, likeliest[:, None], 1.0)
    elif temperature != 1:
        probability = (logits / temperature).softmax(dim=1)
    return SoftLabels(probability, confidence)


@torch.no_grad()
def with_known(soft: SoftLabels, known: Tensor) -> SoftLabels:
    """Put certain labels of full weight where the class is known: the pixels of a source image.

    The known train ids (B, H, W) int64 are IGNORE where `soft` shall stay as it is.
    """
    is_known = known != IGNORE
    probability = soft.probability.masked_fill(is_known[:, None], 0.0)
    place = torch.where(is_known, known, 0)[:, None]
    probability.scatter_add_(1, place, is_known[:, None].to(probability.dtype))
    return SoftLabels(probability, torch.where(is_known, 1.0, soft.weight))


def soft_cross_entropy(logits: Tensor, soft: SoftLabels) -> Tensor:
    """Compute the weighted cross entropy with soft labels, over the number of all pixels.

    Of logits (B, K, H, W) at the labels' size it is the mean of −weight · Σ_k y_k · log p_k, in
    nats. Raises ShapeError if the two are not of one shape.
    """
    if logits.ndim != 4 or logits.shape != soft.probability.shape:
        raise ShapeError(
            "soft_cross_entropy wants logits and labels (B, K, H, W) of one shape, got "
            f"{tuple(logits.shape)} and {tuple(soft.probability.shape)}"
        )
    loss = F.cross_entropy(at_least_float32(logits), soft.probability, reduction="none")
    weighted = loss * soft.weight
    return pixel_mean(weighted.sum(), weighted.new_full((), weighted.numel()))
