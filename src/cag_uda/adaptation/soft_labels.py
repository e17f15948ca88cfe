"""Soft pseudo-labels: the classifier's probabilities, corrected by the distances to the anchors.

All of it happens to logits, where multiplying probabilities is adding; the softmax comes last, at
the size of the image. Knows tensors alone: not who gave the logits, nor what the anchors are of.

Source: Zhang et al., *Prototypical Pseudo Label Denoising and Target Structure Learning for Domain
Adaptive Semantic Segmentation* (ProDA), CVPR 2021, section 3.2.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cag_uda.adaptation.losses import pixel_mean
from cag_uda.adaptation.tensors import at_least_float32
from cag_uda.errors import ShapeError
from cag_uda.types import IGNORE

_FARTHEST = 1e4
"""Largest distance, in units of the mean nearest distance; it stands in for +inf, of which
interpolation would make NaN."""
_LEAST_SHARE = 1e-6
"""Least share of a class, so that the logarithm is finite for a class that does not occur."""


class SoftLabels(NamedTuple):
    """Class probabilities of each pixel, and its weight in the loss."""

    probability: Tensor
    """(B, K, H, W) float32, summing to 1 over the classes."""
    weight: Tensor
    """(B, H, W) float32 in [0, 1]."""


@torch.no_grad()
def rectify(logits: Tensor, distances: Tensor, weight: float) -> Tensor:
    """Multiply the classes' probabilities by how near the classes' anchors are.

    softmax of the result ∝ p_k · exp(−weight · d_k / d̄), d̄ being the mean distance of an image's
    pixels to their nearest anchors. ProDA has exp(−d_k / τ): distances over d̄ have no unit, so
    that `weight`, which is 1 / τ, means the same on every network.

    Args:
        logits: (B, K, h, w) of the classifier, any floating type.
        distances: (B, K, h, w) to the anchor of each class; +inf for a class without one, which
            then has no probability. At least one class has an anchor.
        weight: of the distances; 0 gives the logits back, 1 / weight is ProDA's temperature.

    Returns:
        (B, K, h, w) finite logits, at least float32.

    Raises:
        ShapeError: if the two are not on one grid.
    """
    if logits.shape != distances.shape or logits.ndim != 4:
        raise ShapeError(
            "rectify wants logits and distances (B, K, h, w) of one grid, got "
            f"{tuple(logits.shape)} and {tuple(distances.shape)}"
        )
    logits = at_least_float32(logits)
    if weight == 0:
        return logits
    nearest = distances.amin(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    apart = distances / nearest.clamp(min=torch.finfo(distances.dtype).tiny)
    return torch.sub(logits, apart.clamp_(max=_FARTHEST), alpha=weight)


@torch.no_grad()
def soften(logits: Tensor, temperature: float) -> SoftLabels:
    """Turn logits into labels that say how sure they are.

    Args:
        logits: (B, K, H, W), finite.
        temperature: below 1 sharpens the labels; 0 makes them certain of the likeliest class. The
            weights do not depend on it.

    Returns:
        softmax(logits / temperature), weighed by the confidence: the highest probability of
        softmax(logits). Where classifier and anchors contradict each other, that is low.

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

    Args:
        soft: of all pixels.
        known: (B, H, W) int64 train ids, IGNORE where `soft` shall stay as it is.

    Returns:
        New labels of the same shape.
    """
    is_known = known != IGNORE
    probability = soft.probability.masked_fill(is_known[:, None], 0.0)
    place = torch.where(is_known, known, 0)[:, None]
    probability.scatter_add_(1, place, is_known[:, None].to(probability.dtype))
    return SoftLabels(probability, torch.where(is_known, 1.0, soft.weight))


def soft_cross_entropy(logits: Tensor, soft: SoftLabels) -> Tensor:
    """Cross entropy with soft labels, mean over all pixels; weights are no part of the divisor.

    Args:
        logits: (B, K, H, W), at the labels' size.
        soft: (B, K, H, W) and (B, H, W).

    Returns:
        Scalar mean of −weight · Σ_k y_k · log p_k, in nats.

    Raises:
        ShapeError: if the two are not of one shape.
    """
    if logits.ndim != 4 or logits.shape != soft.probability.shape:
        raise ShapeError(
            "soft_cross_entropy wants logits and labels (B, K, H, W) of one shape, got "
            f"{tuple(logits.shape)} and {tuple(soft.probability.shape)}"
        )
    loss = F.cross_entropy(at_least_float32(logits), soft.probability, reduction="none")
    weighted = loss * soft.weight
    return pixel_mean(weighted.sum(), weighted.new_full((), weighted.numel()))


class ClassPrior(nn.Module):
    """The classes' shares of the source, and their running shares of the target's labels.

    Until `begin`, all classes are equal and nothing is changed.

    Distances know no prior, and a teacher's mistakes feed on themselves: a class that is
    over-predicted is over-trained next. So the running shares of the classes among the labels are
    drawn towards the source's.

    Args:
        num_classes: K.

    Source: distribution alignment is Berthelot et al., *ReMixMatch*, ICLR 2020, section 3.1 (there
    at full strength, with shares known); a strength below 1 is the τ of the logit adjustment of
    Menon et al., *Long-tail Learning via Logit Adjustment*, ICLR 2021: two domains differ in their
    shares.
    """

    source: Tensor
    """(K,) float32 shares, summing to 1."""
    target: Tensor
    """(K,) float32 shares of the labels before their alignment, summing to 1."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("source", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("target", torch.full((num_classes,), 1 / num_classes))

    @torch.no_grad()
    def begin(self, source: Tensor, target: Tensor) -> None:
        """Set both shares.

        Args:
            source: (K,) pixels of each class in the source.
            target: (K,) pixels, or sums of probabilities, of each class among the target's labels.
        """
        self.source.copy_(source / source.sum())
        self.target.copy_(target / target.sum())

    @torch.no_grad()
    def follow(self, latest: Tensor, momentum: float) -> None:
        """Draw the target's shares towards those of the latest batch.

        Args:
            latest: (K,) sums of probabilities over all processes' pixels, before alignment.
            momentum: of the running mean, in [0, 1].
        """
        self.target.lerp_(latest.to(self.target) / latest.sum(), 1 - momentum)

    @torch.no_grad()
    def align(self, logits: Tensor, strength: float) -> Tensor:
        """Multiply probabilities by (source share / target share) to the power of `strength`.

        Args:
            logits: (B, K, h, w) of the labels.
            strength: in [0, 1]; 0 changes nothing, 1 wants the source's shares.

        Returns:
            (B, K, h, w) logits; their softmax is the aligned label.
        """
        wanted = self.source.clamp(min=_LEAST_SHARE).log()
        found = self.target.clamp(min=_LEAST_SHARE).log()
        return logits + (strength * (wanted - found))[:, None, None]
