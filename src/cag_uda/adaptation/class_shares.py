"""Class shares of a domain: estimated from a classifier's outputs, and how far two lie apart.

Knows no network and no data set.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cag_uda.errors import ShapeError


def estimated_shares(
    posteriors: Tensor,
    source_shares: Tensor,
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
    tolerance: float = 1e-6,
    most_rounds: int = 1000,
) -> Tensor:
    """Estimate the class shares of unlabelled samples by expectation-maximisation.

    Each round weighs the classifier's probabilities by how the shares have changed from the
    source's, p(k | x) · πₖ / sₖ, and takes the mean of the normalised weights as the new shares π.
    It assumes that a class looks alike in both domains, and probabilities that are calibrated at
    the source's shares.

    Args:
        posteriors: (N, K), the classifier's probabilities of each sample; N may be 0 in one of
            several processes. A sample that is of no class of the source counts for nothing.
        source_shares: (K,), s: shares that the classifier was trained at, at least 0.
        total: sums a tensor over all processes that each hold a part of the samples.
        tolerance: total variation between two rounds below which the shares have settled.
        most_rounds: after which the shares are returned as they are.

    Returns:
        (K,) float64, adding up to 1; 0 for a class that the source has not.

    Raises:
        ShapeError: if the shapes disagree, or no sample can be of a class of the source.

    Source: Saerens, Latinne and Decaestecker, *Adjusting the Outputs of a Classifier to New a
        Priori Probabilities: A Simple Procedure*, Neural Computation 14, 2002.
    """
    if posteriors.ndim != 2 or posteriors.shape[1:] != source_shares.shape:
        raise ShapeError(
            f"wanted posteriors (N, K) and shares (K,), got {tuple(posteriors.shape)} and "
            f"{tuple(source_shares.shape)}"
        )
    source = source_shares.double() / source_shares.double().sum()
    # A class without source samples can have no weight: 0, not 0 / 0.
    probability = posteriors.double().where(source > 0, 0)
    probability = probability[probability.sum(dim=1) > 0]
    count = total(torch.tensor([float(len(probability))], dtype=torch.float64))
    if not count > 0:
        raise ShapeError("wanted at least one sample with a probability of a class of the source")
    divisor = source.where(source > 0, 1)
    shares = source
    for _ in range(most_rounds):
        weight = shares / divisor
        found = total(weight * (probability.t() @ (probability @ weight).reciprocal()))
        before, shares = shares, found / count.to(found.device)
        if total_variation(before, shares) < tolerance:
            break
    return shares / shares.sum()


def total_variation(one: Tensor, other: Tensor) -> float:
    """Compute the total variation between two vectors of shares.

    Args:
        one: (K,), adding up to 1.
        other: (K,), likewise.

    Returns:
        In [0, 1]: the share of samples that would have to change their class.

    Raises:
        ShapeError: if their lengths differ.
    """
    if one.shape != other.shape:
        raise ShapeError(f"wanted shares of as many classes, got {one.shape} and {other.shape}")
    return min(1.0, float((one.double() - other.double()).abs().sum() / 2))
