"""Measures of how much a label of an image would teach: three of each pixel, and their means.

Every measure is higher where a label would teach more:

    anchors        distance of the feature to the nearest centroid of either domain: unlike all that
                   is known
    uncertainty    entropy of the pool of classifier and adapted anchors, over log K
    disagreement   Jensen-Shannon divergence of the classifier's p(c | x) and the anchors' p(c | f),
                   over log 2: two views of one feature contradict each other

An image's value is the mean over its pixels, each weighed by 1 / √share of the class that it is
taken for: otherwise road and sky would decide alone.

Sources: Ning et al., *MADA*, ICCV 2021 (anchors); Settles, *Active Learning Literature Survey*,
2009 (entropy); Seung, Opper, Sompolinsky, *Query by committee*, COLT 1992 (disagreement).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from cag_uda.adaptation.adapted_anchors import AdaptedAnchors, pool
from cag_uda.adaptation.centroids import Centroids
from cag_uda.types import Prediction

MEASURES = ("anchors", "uncertainty", "disagreement")
"""The measures, by the names that `cag-uda suggest --criteria` takes."""
_LEAST_SHARE = 1e-3
"""Least share of a class: the weight of a rarer one grows no further, or a few pixels that are
wrongly predicted as it would outweigh all others."""


class Teaching(NamedTuple):
    """Measures of the pixels of a batch."""

    measures: Mapping[str, Tensor]
    """Name → (B, h, w) float32, at least 0."""
    label: Tensor
    """(B, h, w) int64, the class that classifier and anchors together take each pixel for."""
    looks: Tensor
    """(B, D) mean feature of each image, in standard deviations within a class."""


@torch.no_grad()
def measure(prediction: Prediction, anchors: AdaptedAnchors, known: Centroids) -> Teaching:
    """Measure the pixels of target images.

    Args:
        prediction: of the images.
        anchors: adapted to the target.
        known: centroids of pixels that have a label, or are labelled surely.
    """
    pooled = pool(prediction.logits, anchors.log_likelihood(prediction.features))
    classifier = prediction.logits.float().softmax(dim=1)
    by_anchor = anchors.log_posterior(prediction.features).softmax(dim=1)
    mean = (classifier + by_anchor) / 2
    divergence = _entropy(mean) - (_entropy(classifier) + _entropy(by_anchor)) / 2
    return Teaching(
        {
            "anchors": known.distance(prediction.features),
            "uncertainty": _entropy(pooled.softmax(dim=1)) / math.log(pooled.shape[1]),
            "disagreement": divergence.clamp(min=0) / math.log(2),
        },
        pooled.argmax(dim=1),
        prediction.features.float().mean(dim=(2, 3)) / known.spread,
    )


def class_weights(share: Tensor) -> Tensor:
    """Weigh classes by 1 / √share, their shares (K,) of the target's pixels.

    The mean of the weights (K,), itself weighed by the shares, is 1.
    """
    share = share.clamp(min=_LEAST_SHARE)
    weight = share.rsqrt()
    return weight / (weight * share).sum() * share.sum()


def balanced_mean(values: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Average pixels (B, h, w) over each image, weighed by class: (B,).

    The label (B, h, w) is int64 in 0 … K-1; the weights (K,) are those of `class_weights`.
    """
    of_pixel = weight[label]
    return (values * of_pixel).sum(dim=(1, 2)) / of_pixel.sum(dim=(1, 2))


def by_class(values: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Divide an image's `balanced_mean` among the classes: shares (B, K) that sum to 1.

    The values are at least 0; where all are 0, so are the shares.
    """
    sums = torch.zeros(len(values), len(weight), dtype=values.dtype, device=values.device)
    weighted = (values * weight[label]).flatten(1)
    sums.scatter_add_(1, label.flatten(1), weighted)
    return sums / sums.sum(dim=1, keepdim=True).clamp(min=1e-12)


def _entropy(probability: Tensor) -> Tensor:
    """Compute the entropy (B, h, w) over the classes of (B, K, h, w), in nats."""
    return -torch.xlogy(probability, probability).sum(dim=1)
