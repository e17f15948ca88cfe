"""Label-free criteria: estimates of a segmenter's quality on unlabelled images, to choose one by.

Every function takes images, or what a network made of images: no label of the target can come in.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.errors import ShapeError
from cag_uda.models.inference import inference
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import CriterionName

_NEIGHBOURS = 1024
"""Pixels whose neighbourhoods are looked at; SND's authors take some hundreds of each image."""
_TEMPERATURE = 0.05
_SMALLER = 0.75
"""Side of the smaller view over that of the image."""
_MARGIN = 0.1
"""Relative gap from which a pixel counts as active, the same for every network and method."""


class Seen(NamedTuple):
    """Outputs of a network on unlabelled images, pixel by pixel."""

    logits: Tensor
    """(N, K) float32."""
    features: Tensor
    """(N, D) float32."""
    distances: Tensor
    """(N, K) float32, to the anchors of the source; +inf for a class without one."""
    views: Tensor
    """(2, N, K) float32, class probabilities of the mirrored and of the smaller images, brought
    back to the pixels above."""


@torch.no_grad()
def look_at(
    segmenter: Segmenter,
    images: Iterable[Tensor],
    distances: Callable[[Tensor], Tensor],
) -> Seen:
    """Run a network over a few images of the target: every cell of their feature grids, in order.

    Args:
        segmenter: the network; its mode is restored.
        images: batches (B, 3, H, W) float in [0, 1], on its device; at least one, else ShapeError.
        distances: gives each feature's distance to each anchor, (B, D, h, w) to (B, K, h, w).
    """
    parts: list[Seen] = []
    with inference(segmenter):
        for image in images:
            prediction = segmenter(image, "target")
            features = prediction.features.float()
            found = (prediction.logits.float(), features, distances(features))
            logits, features, distance = (each.movedim(1, -1).flatten(0, 2) for each in found)
            views = _views(segmenter, image, prediction.logits)
            parts.append(Seen(logits, features, distance, views))
    if not parts:
        raise ShapeError("label-free criteria want at least one image")
    logits, features, distance = (torch.cat(each) for each in list(zip(*parts, strict=True))[:3])
    return Seen(logits, features, distance, torch.cat([part.views for part in parts], dim=1))


def _views(segmenter: Segmenter, image: Tensor, like: Tensor) -> Tensor:
    """Compute probabilities (2, N, K) of images mirrored and smaller, on the grid of `like`."""
    size = (round(image.shape[-2] * _SMALLER), round(image.shape[-1] * _SMALLER))
    smaller = F.interpolate(image, size, mode="bilinear", antialias=True)
    mirrored = segmenter(image.flip(-1), "target").logits.float().softmax(dim=1).flip(-1)
    small = segmenter(smaller, "target").logits.float().softmax(dim=1)
    small = segmenter.upsample(small, (like.shape[-2], like.shape[-1]))
    return torch.stack([each.movedim(1, -1).flatten(0, 2) for each in (mirrored, small)])


def target_criteria(seen: Seen) -> dict[CriterionName, float]:
    """Compute every criterion that needs the target's images alone, by its name."""
    log_probability = seen.logits.log_softmax(dim=1)
    probability = log_probability.exp()
    chosen = _spread(len(seen.logits), _NEIGHBOURS).to(seen.logits.device)
    found: dict[CriterionName, Tensor] = {
        "entropy": mean_entropy(log_probability),
        "infomax": information_maximisation(log_probability),
        "expected-iou": expected_iou_between_views(probability, seen.views),
        "snd": neighbourhood_density(seen.features[chosen]),
        "snd-outputs": neighbourhood_density(probability[chosen]),
        "agreement": agreement(seen.distances, seen.logits),
        "active-share": active_share(seen.distances),
    }
    return {name: float(value) for name, value in found.items()}


def mean_entropy(log_probability: Tensor) -> Tensor:
    """Compute the mean entropy H(p), in nats, of logarithms of class probabilities (N, K)."""
    return -(log_probability.exp() * log_probability).sum(dim=1).mean()


def information_maximisation(log_probability: Tensor) -> Tensor:
    """Compute the mutual information of pixel and class: high if sure of pixels, of many classes.

    It is H(mean p) − mean H(p), in nats, of class probabilities given as logarithms (N, K).

    Source: Shi and Sha, *Information-Theoretical Learning of Discriminative Clusters for
        Unsupervised Domain Adaptation*, ICML 2012.
    """
    mean = log_probability.exp().mean(dim=0)
    of_mean: Tensor = torch.special.entr(mean).sum()
    return of_mean - mean_entropy(log_probability)


def expected_iou(predicted: Tensor, probability: Tensor) -> Tensor:
    """Compute the mIoU that predictions have in expectation, were the probabilities true.

    Of classes (N,) int64 and probabilities (N, K) it is the mean, over all K classes, of
    E[TP] / (E[TP] + E[FP] + E[FN]), a scalar in [0, 1]. A class that swallows the others, and a
    rare one that the network has lost, both cost; a class of no mass counts as 0.

    Source: Nowozin, *Optimal Decisions from Probabilistic Models: the Intersection-over-Union
        Case*, CVPR 2014, for the ratio of expectations.
    """
    chosen = probability.gather(1, predicted[:, None]).squeeze(1).double()
    none = chosen.new_zeros(probability.shape[1])
    hits = none.index_add(0, predicted, chosen)
    pixels = none.index_add(0, predicted, torch.ones_like(chosen))
    union = pixels + probability.sum(dim=0, dtype=torch.float64) - hits
    return (hits / union.clamp(min=torch.finfo(torch.float64).tiny)).mean()


def expected_iou_between_views(probability: Tensor, views: Tensor) -> Tensor:
    """Compute the expected mIoU of predictions by the probabilities of other views of the images.

    Confidence alone is high where batch-norm statistics are wrong, too: so a network must see the
    same in the mirrored or the smaller image, and probabilities are sharpened first.

    Of probabilities (N, K) and those of V views (V, N, K), back in the images' geometry, it is the
    mean, in [0, 1], over the views and over which of both gives the predictions.
    """
    here, known = probability.argmax(dim=1), _sharpened(probability)
    found = [
        expected_iou(predicted, believed)
        for view in map(_sharpened, views)
        for predicted, believed in ((here, view), (view.argmax(dim=1), known))
    ]
    return torch.stack(found).mean()


def _sharpened(probability: Tensor) -> Tensor:
    """Square probabilities (N, K) and normalise them: a softmax at temperature 0.5."""
    squared = probability.square()
    return squared / squared.sum(dim=1, keepdim=True)


def neighbourhood_density(features: Tensor) -> Tensor:
    """Compute the soft neighbourhood density: how many neighbours pixels have in feature space.

    It is, in [0, log(N − 1)], the mean over i of the entropy of softmax_{j≠i}(f_i·f_j / τ) of the
    directions of features (N, D). Raises ShapeError if there are fewer than two pixels.

    Source: Saito et al., *Tune it the Right Way: Unsupervised Validation of Domain Adaptation via
        Soft Neighborhood Density*, ICCV 2021 (which takes the classifier's outputs as features).
    """
    if features.ndim != 2 or len(features) < 2:
        raise ShapeError(f"wanted features (N, D) of two pixels at least, got {features.shape}")
    directions = F.normalize(features, dim=1)
    similarity = directions @ directions.t() / _TEMPERATURE
    similarity.fill_diagonal_(-torch.inf)
    # A neighbour of probability 0, i itself among them, adds 0: not 0 · log 0.
    entropy: Tensor = torch.special.entr(similarity.softmax(dim=1)).sum(dim=1)
    return entropy.mean()


def agreement(distances: Tensor, logits: Tensor) -> Tensor:
    """Compute the share of pixels whose nearest anchor is of the classifier's class.

    Distances and logits are (N, K), distances +inf for a class without an anchor.
    """
    return (distances.argmin(dim=1) == logits.argmax(dim=1)).float().mean()


def active_share(distances: Tensor, margin: float = _MARGIN) -> Tensor:
    """Compute the share of pixels with (d₂ − d₁) / (d₁ + d₂) of at least a margin.

    Distances (N, K) are +inf for a class without an anchor.
    """
    nearest, second = distances.topk(2, dim=1, largest=False).values.unbind(dim=1)
    return ((second - nearest) / (nearest + second) >= margin).float().mean()


def _spread(count: int, most: int) -> Tensor:
    """Choose at most `most` of `count` pixels at random, the same for every network."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most]
