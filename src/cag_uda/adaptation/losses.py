"""The losses of the adaptation methods, as functions of tensors.

Every one is a scalar, 0 with zero gradients where no pixel is labelled, and never NaN for finite
input. `self_information` makes the input of ADVENT's discriminator.

Under torch.distributed, the means over labelled pixels are means over the pixels of all processes:
every process must then call the same losses in the same order.
"""

import math
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from cag_uda.adaptation.tensors import (
    at_least_float32,
    check_grid,
    one_hot,
    over_processes,
    without_autocast,
)
from cag_uda.errors import ShapeError, UserError
from cag_uda.types import IGNORE, DomainName


def pixel_mean(total: Tensor, count: Tensor) -> Tensor:
    """Divide a sum by a count such that processes which average gradients get the mean over all.

    If each process divided by its own count, a pixel of a sparsely labelled process would weigh
    more than one elsewhere, and gradients would depend on how images fall on processes.

    Args:
        total: scalar, this process's sum, with its graph.
        count: scalar, how many things this process summed.

    Returns:
        Scalar total · processes / count of all processes: averaging over processes takes their
        number out again. 0 with the graph of `total` where nothing was counted.
    """
    everywhere = count.detach().to(torch.float64, copy=True)
    processes = 1
    if dist.is_available() and dist.is_initialized():
        processes = dist.get_world_size()
        dist.all_reduce(everywhere)
    return total * (processes / everywhere.clamp(min=1)).to(total.dtype)


def cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute the cross entropy, mean over labelled pixels.

    Args:
        logits: (B, K, H, W) at the label's size.
        label: (B, H, W) int64 train ids with IGNORE.
        weight: (B, H, W) factor of each pixel's loss; not part of the divisor, so that weights of
            one half give half the loss.

    Returns:
        Scalar, in nats.

    Raises:
        ShapeError: if the shapes do not fit.
    """
    if logits.ndim != 4 or label.shape != (logits.shape[0], *logits.shape[2:]):
        raise ShapeError(
            "cross_entropy wants logits (B, K, H, W) and a label (B, H, W) of one size, got "
            f"{tuple(logits.shape)} and {tuple(label.shape)}; resize the logits as the network "
            "does (Segmenter.upsample), or the label (Segmenter.on_grid, adaptation.downsample)"
        )
    _check_weight(weight, label)
    logits = at_least_float32(logits)
    # Summed here: torch's own sum is not of a fixed order on a GPU.
    loss = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
    total = loss.sum() if weight is None else (loss * weight).sum()
    return pixel_mean(total, (label != IGNORE).sum())


@torch.no_grad()
def class_balance(label: Tensor, num_classes: int, exponent: float) -> Tensor:
    """Weigh labelled pixels such that frequent classes count less: by n_c^−β, in the mean 1.

    Self-training labels the pixels that it is sure of, most of them of frequent classes, and so
    teaches the classifier to forget the others. At β = 1 each class that is there has the same say.

    Args:
        label: (B, h, w) int64 train ids with IGNORE.
        num_classes: K.
        exponent: β, at least 0, which gives 1 everywhere.

    Returns:
        (B, h, w) float32 weights, 0 where the label is IGNORE; n_c is counted in the labels of all
        processes.

    Source: re-weighting by inverse frequency (β = 1), and its powers as in Mahajan et al.,
    *Exploring the Limits of Weakly Supervised Pretraining*, ECCV 2018.
    """
    members = one_hot(label, num_classes)
    counts = over_processes(members.sum(dim=(0, 2)))
    by_class = torch.where(counts > 0, counts.clamp(min=1).pow(-exponent), 0.0)
    by_class *= counts.sum() / (by_class * counts).sum().clamp(min=1e-12)
    return (by_class @ members).view(label.shape)


def anchor_distance(
    features: Tensor, anchors: Tensor, label: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Average distances of features to the anchors of their (pseudo-)labels, where they have any.

    Before the mean, the gradient of a feature has length 1 at any distance, and is 0 at the anchor.

    Args:
        features: (B, D, h, w).
        anchors: (K, D) as `CategoryAnchors.vectors`; constants. A pixel of a class whose anchor is
            not finite (a class never seen) counts as unlabelled.
        label: (B, h, w) int64 train ids with IGNORE, at feature resolution.
        weight: (B, h, w) factor of each pixel's loss; not part of the divisor.

    Returns:
        Scalar mean of ‖f_j − A_{y_j}‖₂, in feature units.

    Raises:
        ShapeError: if the shapes do not fit.

    Source:
        Zhang et al., NeurIPS 2019, L_dis.
    """
    _check_grid("anchor_distance", features, anchors, label)
    _check_weight(weight, label)
    features = at_least_float32(features).flatten(2)
    anchors, usable = _usable(anchors.to(features.dtype))
    nearest_id = label.clamp(0, len(anchors) - 1)
    labelled = (label == nearest_id) & usable[nearest_id]
    # Subtracting the anchors by a product with ones and zeros needs no (B, D, h, w) tensor but the
    # difference itself, and takes a quarter of the time of an embedding look-up.
    rows = one_hot(label, len(anchors), features.dtype)
    with without_autocast(features):
        negative = anchors.t().neg().expand(len(features), -1, -1)
        apart = torch.baddbmm(features, negative, rows)
    # ‖x‖ as x·x / ‖x‖ with one factor and the divisor held constant: the same value and the same
    # derivative x / ‖x‖, but 0 instead of infinite steps at x = 0, and one pass backwards.
    squares = (apart * apart.detach()).sum(dim=1).view_as(label)
    length = squares.detach().sqrt()
    distance = squares / torch.where(length > 0, length, 1.0) * labelled
    if weight is not None:
        distance = distance * weight
    return pixel_mean(distance.sum(), labelled.sum())


def centroid_distance(
    features: Tensor, logits: Tensor, anchors: Tensor, label: Tensor, min_pixels: int = 10
) -> Tensor:
    """Compute the released code's distance loss: an image's mean feature of a class to its anchor.

    Per image and class, over pixels where the (pseudo-)label is also what the student predicts:
    the SmoothL1 distance of their mean feature to the anchor, averaged over channels, divided by
    10 while it is above 5. Summed, divided by the number of such means, times 10. The gradient of
    each mean is multiplied by twice the share of the image that it is the mean of.

    Where no class has enough pixels the loss is 0; the released code gives NaN.

    Args:
        features: (B, D, h, w) of the student.
        logits: (B, K, h, w) of the student; no gradient flows to them.
        anchors: (K, D); classes whose anchor is not finite are left out.
        label: (B, h, w) int64 train ids with IGNORE, at feature resolution.
        min_pixels: least pixels of a class in an image.

    Raises:
        ShapeError: if the shapes do not fit.

    Source:
        Released code models/adaptation_model.py, calculate_mean_vector and
        class_vectors_alignment; models/utils.py, NormalisationPoolingFunction.
    """
    _check_grid("centroid_distance", features, anchors, label)
    if logits.shape != (features.shape[0], anchors.shape[0], *features.shape[2:]):
        raise ShapeError(
            f"centroid_distance wants logits {(features.shape[0], anchors.shape[0])} on the grid "
            f"of features {tuple(features.shape)}, got {tuple(logits.shape)}"
        )
    features = at_least_float32(features).flatten(2)
    anchors, usable = _usable(anchors.to(features.dtype))
    agreed = torch.where(label == logits.argmax(dim=1), label, IGNORE)
    rows = one_hot(agreed, len(anchors), features.dtype)
    pixels = rows.sum(dim=2)  # (B, K)
    with without_autocast(features):
        centroids = torch.bmm(rows, features.transpose(1, 2)) / pixels.clamp(min=1)[:, :, None]
    share = pixels / features.shape[2]
    fixed = centroids.detach()
    centroids = fixed + 2 * share[:, :, None] * (centroids - fixed)
    loss = F.smooth_l1_loss(centroids, anchors.expand_as(centroids), reduction="none").mean(dim=2)
    counted = (pixels >= min_pixels) & usable
    total = (loss / _power_of_ten_above(loss.detach(), limit=5.0) * counted).sum()
    return 10 * pixel_mean(total, counted.sum())


def adversarial(
    score: Tensor, towards: DomainName, kind: Literal["least-squares", "bce"] = "least-squares"
) -> Tensor:
    """Measure how far a discriminator's scores are from calling every position of one domain.

    The discriminator learns to call source "source" and target "target"; the segmenter is given
    its target's scores `towards="source"`.

    Args:
        score: (B, 1, h, w) or any shape, raw output of the discriminator.
        towards: "source", which is 0, or "target", which is 1.
        kind: "least-squares", mean squared error of the raw score; "bce", binary cross entropy of
            its sigmoid.

    Raises:
        UserError: for another domain or kind.

    Source:
        Tsai et al., CVPR 2018 (AdaptSegNet), whose code has source 0 and target 1.
    """
    if towards not in ("source", "target") or kind not in ("least-squares", "bce"):
        raise UserError(
            "adversarial wants towards 'source' or 'target' and kind 'least-squares' or 'bce', "
            f"got {towards!r} and {kind!r}"
        )
    score = at_least_float32(score)
    wanted = torch.full_like(score, 0.0 if towards == "source" else 1.0)
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(score, wanted)
    return F.mse_loss(score, wanted)


def entropy(logits: Tensor) -> Tensor:
    """Compute the entropy of the classifier's probabilities as a share of the greatest.

    Of logits (B, K, h, w) it is a scalar in [0, 1], the mean over pixels of −Σ_k p_k·log₂ p_k /
    log₂ K. Raises ShapeError if there are fewer than two classes.

    Source:
        Vu et al., CVPR 2019 (ADVENT), MinEnt.
    """
    per_pixel = _minus_p_log_p("entropy", at_least_float32(logits)).sum(dim=1)
    return per_pixel.mean() / math.log(logits.shape[1])


def self_information(logits: Tensor) -> Tensor:
    """Weigh self-information (B, K, H, W): −p·log₂ p / log₂ K of the softmax of logits.

    Its sum over the classes is the entropy as a share of the greatest possible one. Raises
    ShapeError if there are fewer than two classes.

    Source: Vu et al., *ADVENT*, CVPR 2019, equation 4; released code, prob_2_entropy.
    """
    return _minus_p_log_p("self_information", logits) / math.log(logits.shape[1])


def _minus_p_log_p(name: str, logits: Tensor) -> Tensor:
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ShapeError(
            f"{name} wants logits (B, K, h, w) with K of at least 2, got {tuple(logits.shape)}"
        )
    # From log-softmax: a probability that underflows gives 0 · a finite number.
    log_probability = logits.log_softmax(dim=1)
    return -(log_probability.exp() * log_probability)


def _usable(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Give anchors (K, D) with zeros for those that are not finite, and (K,) bool: which are."""
    usable = anchors.isfinite().all(dim=1)
    return torch.where(usable[:, None], anchors, 0.0).detach(), usable


def _power_of_ten_above(value: Tensor, limit: float) -> Tensor:
    """Find the power of ten that brings each value to at most `limit`; 1 for smaller ones."""
    bounds = limit * 10.0 ** torch.arange(30, dtype=value.dtype, device=value.device)
    return 10.0 ** torch.bucketize(value, bounds).to(value.dtype)


def _check_grid(name: str, features: Tensor, anchors: Tensor, label: Tensor) -> None:
    if features.ndim != 4 or anchors.ndim != 2 or features.shape[1] != anchors.shape[1]:
        raise ShapeError(
            f"{name} wants features (B, D, h, w) and anchors (K, D), got "
            f"{tuple(features.shape)} and {tuple(anchors.shape)}"
        )
    check_grid(label, features)


def _check_weight(weight: Tensor | None, label: Tensor) -> None:
    if weight is not None and weight.shape != label.shape:
        raise ShapeError(
            f"a weight per pixel wants the label's shape {tuple(label.shape)}, "
            f"got {tuple(weight.shape)}"
        )


def feature_distance(
    features: Tensor, initial: Tensor, label: Tensor, counted: Tensor, least_share: float = 0.75
) -> Tensor:
    """Average the Euclidean distance of two networks' features over some classes' cells.

    Published weights know many things that the source's images do not teach; features that stay
    near theirs do not forget them.

    Args:
        features: (B, C, h, w) of the network in training.
        initial: (B, C, h, w) of the network that it began as, for the same images; constants.
        label: (B, H, W) int64 train ids with IGNORE.
        counted: (K,) bool, the classes whose cells count; DAFormer has those of things.
        least_share: of a cell's pixels that must be of one class for the cell to be of it.

    Returns:
        Scalar mean of ‖f − f₀‖₂, in feature units; 0 with zero gradients where no cell counts.

    Raises:
        ShapeError: if the shapes do not fit.

    Source: Hoyer et al., *DAFormer*, CVPR 2022, section 3.3 and its released code (calc_feat_dist).
    """
    if features.ndim != 4 or features.shape != initial.shape or len(label) != len(features):
        raise ShapeError(
            "feature_distance wants features (B, C, h, w) of one shape and a label (B, H, W), got "
            f"{tuple(features.shape)}, {tuple(initial.shape)} and {tuple(label.shape)}"
        )
    cells = (features.shape[2], features.shape[3])
    rows = one_hot(label, len(counted))[:, counted]
    share = F.adaptive_avg_pool2d(rows.reshape(len(label), -1, *label.shape[1:]), cells)
    # Pooled means of ones may fall short of 1 by rounding.
    is_counted = (share >= least_share - 1e-4).any(dim=1)
    apart = at_least_float32(features) - at_least_float32(initial).detach()
    distance = torch.linalg.vector_norm(apart, dim=1) * is_counted
    return pixel_mean(distance.sum(), is_counted.sum())
