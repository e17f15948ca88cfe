"""Colour jitter and blur of image batches, on whatever device they are.

For images that only come to be inside a training step, mixed ones; images from files are augmented
by the loader. Each image of a batch draws for itself, on the CPU, so that every device draws the
same. Pure functions: no network, no label.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.adaptation.precision import without_autocast

_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = torch.tensor([_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
_FROM_YIQ: Tensor = torch.linalg.inv(_TO_YIQ)
_BLUR_RADIUS_PX = 4
"""3.5 deviations of the strongest blur."""


def colour_jitter(
    image: Tensor,
    strength: float,
    probability: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Change brightness, contrast, saturation and hue at random.

    All four are linear in the colour, so that they make one 3×3 matrix and one offset an image:
    brightness times b; contrast c around the image's mean grey; saturation s around each pixel's
    grey; hue as a rotation by θ of the chroma in YIQ. b, c and s are drawn from 1 ± strength, θ
    from ± strength turns.

    Args:
        image: (B, 3, H, W) float in [0, 1].
        strength: 0 gives the image back.
        probability: that an image is changed at all.
        generator: decides; None takes the CPU's own.

    Returns:
        (B, 3, H, W) float in [0, 1]; contiguous as `image` is.

    Source: the ColorJitter of DACS (strength 0.25, probability 0.8), whose operations are applied
        in a random order, with the hue of HSV, and clipped one by one.
    """
    batch = len(image)
    spread = (2 * torch.rand(batch, 5, generator=generator) - 1) * strength
    applied = torch.rand(batch, generator=generator) < probability
    spread = torch.where(applied[:, None], spread, 0.0)
    brightness, contrast, saturation = (1 + spread[:, :3]).unbind(dim=1)
    luma = torch.tensor(_LUMA)
    grey = luma.expand(3, 3)
    saturate = saturation[:, None, None] * torch.eye(3) + (1 - saturation[:, None, None]) * grey
    gain = brightness * contrast
    matrix = gain[:, None, None] * (_hue_rotation(2 * math.pi * spread[:, 3]) @ saturate)
    offset = (1 - contrast) * brightness
    with without_autocast(image):
        flat = image.flatten(2)
        mean_grey = luma.to(image, non_blocking=True) @ flat.mean(dim=2).t()
        shift = (offset.to(image, non_blocking=True) * mean_grey)[:, None, None]
        jittered = torch.baddbmm(shift, matrix.to(image, non_blocking=True), flat)
    return jittered.clamp_(0, 1).view(image.shape)


def gaussian_blur(
    image: Tensor,
    deviation_px: tuple[float, float],
    probability: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Blur images at random, edges mirrored.

    Args:
        image: (B, 3, H, W) float, at least 5×5 pixels.
        deviation_px: range of the Gaussian's standard deviation, at most 1.15 pixels.
        probability: that an image is blurred.
        generator: decides; None takes the CPU's own.

    Returns:
        (B, 3, H, W) float.

    Source: DACS: deviations of 0.15 to 1.15 pixels, probability 0.5.
    """
    low, high = deviation_px
    draw = torch.rand(2, len(image), generator=generator)
    blurred = (draw[0] < probability).nonzero().flatten()
    if not len(blurred):
        return image
    deviation = low + (high - low) * draw[1, blurred]
    offset = torch.arange(-_BLUR_RADIUS_PX, _BLUR_RADIUS_PX + 1)
    kernel = torch.exp(-0.5 * (offset / deviation[:, None]) ** 2)
    kernel = (
        (kernel / kernel.sum(dim=1, keepdim=True))
        .repeat_interleave(3, dim=0)
        .to(image, non_blocking=True)
    )
    chosen = image[blurred.to(image.device, non_blocking=True)]
    stacked = F.pad(chosen, (_BLUR_RADIUS_PX,) * 4, mode="reflect").flatten(0, 1)[None]
    with without_autocast(image):
        stacked = F.conv2d(stacked, kernel[:, None, None, :], groups=len(kernel))
        stacked = F.conv2d(stacked, kernel[:, None, :, None], groups=len(kernel))
    return image.index_copy(
        0, blurred.to(image.device, non_blocking=True), stacked.view(chosen.shape)
    )


def _hue_rotation(angle: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that turn the chroma of RGB by angles (B,) and keep its luma."""
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.zeros(len(angle), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2] = cosine, -sine
    turn[:, 2, 1], turn[:, 2, 2] = sine, cosine
    return _FROM_YIQ @ turn @ _TO_YIQ
