"""What a discriminator is shown of a segmenter's output, to tell source from target by.

Pure functions of logits; the discriminator and its losses are elsewhere.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from cag_uda.errors import ShapeError


def class_probability(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Class probabilities at image size: what AdaptSegNet's discriminator sees.

    Args:
        logits: (B, K, h, w).
        size: (H, W), in pixels.
        align_corners: how logits are resized: corner cells on corner pixels, or edges on edges.

    Returns:
        (B, K, H, W), softmax of the bilinearly upsampled logits.

    Source: Tsai et al., *AdaptSegNet*, CVPR 2018.
    """
    return _resized(logits, size, align_corners).softmax(dim=1)


def self_information(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Weighted self-information at image size: what ADVENT's discriminator sees.

    Args:
        logits: (B, K, h, w), K of at least 2.
        size: (H, W), in pixels.
        align_corners: as in `class_probability`.

    Returns:
        (B, K, H, W), −p·log₂ p / log₂ K of the upsampled logits' softmax; its sum over the classes
        is the entropy as a share of the greatest possible one.

    Raises:
        ShapeError: if there are fewer than two classes.

    Source: Vu et al., *ADVENT*, CVPR 2019, equation 4; released code, prob_2_entropy.
    """
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ShapeError(
            "self_information wants logits (B, K, h, w) with K of at least 2, got "
            f"{tuple(logits.shape)}"
        )
    # From log-softmax: a probability that underflows gives 0 · a finite number.
    log_probability = _resized(logits, size, align_corners).log_softmax(dim=1)
    return -(log_probability.exp() * log_probability) / math.log(logits.shape[1])


def _resized(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
