"""Images of a batch mixed, masked and augmented inside a training step, on its device.

ClassMix pastes some classes of a source image onto a target image; masks hide random blocks; colour
jitter and blur change mixed images, as the loader changes images from files. What is drawn at
random is drawn on the CPU, by its own generator unless another is given, so that every device draws
the same.

Source: Olsson et al., *ClassMix*, WACV 2021; Tranheden et al., *DACS: Domain Adaptation via
Cross-domain Mixed Sampling*, WACV 2021.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.adaptation.tensors import over_processes, without_autocast
from cag_uda.errors import ShapeError

_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = torch.tensor([_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
_FROM_YIQ: Tensor = torch.linalg.inv(_TO_YIQ)
_BLUR_RADIUS_PX = 4
"""3.5 deviations of the strongest blur."""


class Mixed(NamedTuple):
    """Images of which a part is source and the rest target, with what is known of each pixel."""

    image: Tensor
    """(B, 3, H, W) float in [0, 1]."""
    label: Tensor
    """(B, H, W) int64 train ids."""
    weight: Tensor
    """(B, H, W) float, how much each pixel's label counts."""


def choose_half_of_classes(
    label: Tensor, num_classes: int, generator: torch.Generator | None = None
) -> Tensor:
    """Choose at random half of the classes that each image shows, the odd one included.

    Pixels without a label are never chosen: pasted, they would teach nothing and hide the target.
    (The released code counts "unlabelled" as a class.)

    Args:
        label: (B, H, W) int64 train ids; ids outside 0 … K-1 are no class.
        num_classes: K.
        generator: decides.

    Returns:
        (B, K) bool, on the device of the label.
    """
    shown = _shown(label, num_classes)
    draw = torch.rand(shown.shape, generator=generator).to(label.device, non_blocking=True)
    order = draw.masked_fill(~shown, -1.0).argsort(dim=1, descending=True)
    rank = order.argsort(dim=1)
    return shown & (rank < (shown.sum(dim=1, keepdim=True) + 1) // 2)


def smaller_half(chosen: Tensor, label: Tensor) -> Tensor:
    """Choose the other classes of an image where the chosen ones cover more than half of it.

    Pasted should be things on the target's ground. Where the ground itself is pasted, what is seen
    through its holes has the outlines of the source's things and the target's ground in them, and
    the teacher calls it ground. With two classes that is every other image.

    Args:
        chosen: (B, K) bool, half of the classes that each image shows.
        label: (B, H, W) int64 train ids; only pixels that have a label count.

    Returns:
        (B, K) bool. Of an image that shows one class nothing is chosen.
    """
    others = _shown(label, chosen.shape[1]) & ~chosen
    covered, rest = (_of_classes(label, each).flatten(1).sum(dim=1) for each in (chosen, others))
    return torch.where((covered > rest)[:, None], others, chosen)


def class_mix(
    source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], weight: Tensor, chosen: Tensor
) -> Mixed:
    """Paste the chosen classes of each source image onto the target image of the same place.

    Args:
        source: images (B, 3, H, W) and labels (B, H, W) of the source.
        target: images (B, 3, H, W) and pseudo-labels (B, H, W) of the target.
        weight: (B, H, W) or anything that expands to it: what target pixels count; pasted ones
            count 1.
        chosen: (B, K) bool, the classes to paste.

    Raises:
        ShapeError: if the two are not of one size.
    """
    (source_image, source_label), (target_image, target_label) = source, target
    if source_image.shape != target_image.shape or source_label.shape != target_label.shape:
        raise ShapeError(
            "class_mix wants images and labels of one size in both domains, got images "
            f"{tuple(source_image.shape)} and {tuple(target_image.shape)}, labels "
            f"{tuple(source_label.shape)} and {tuple(target_label.shape)}"
        )
    pasted = _of_classes(source_label, chosen)
    return Mixed(
        torch.where(pasted[:, None], source_image, target_image),
        torch.where(pasted, source_label, target_label),
        torch.where(pasted, 1.0, weight),
    )


def confident_share(confidence: Tensor, threshold: float) -> Tensor:
    """Compute the share of pixels, over all processes, with a confidence of at least a threshold.

    The confidence (B, H, W) is each pixel's highest probability.
    """
    reached = confidence >= threshold
    counts = over_processes(torch.stack([reached.sum(), torch.ones_like(reached).sum()]))
    return (counts[0] / counts[1]).float()


def _shown(label: Tensor, num_classes: int) -> Tensor:
    """Find the classes (B, K) that each image's label (B, H, W) has."""
    rows = _class_or_last(label, num_classes)
    shown = torch.zeros(len(label), num_classes + 1, dtype=torch.bool, device=label.device)
    return shown.scatter_(1, rows.flatten(1), True)[:, :num_classes]


def _of_classes(label: Tensor, chosen: Tensor) -> Tensor:
    """Find the pixels (B, H, W) of the classes that are chosen (B, K) for each image."""
    table = torch.cat([chosen, chosen.new_zeros(len(chosen), 1)], dim=1)
    rows = _class_or_last(label, chosen.shape[1])
    return table.gather(1, rows.flatten(1)).view_as(label)


def _class_or_last(label: Tensor, num_classes: int) -> Tensor:
    """Put K in place of every id of a label that is no class."""
    return torch.where((label >= 0) & (label < num_classes), label, num_classes)


def hidden_blocks(
    count: int,
    size: tuple[int, int],
    ratio: float,
    block: float,
    probability: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw which pixels are hidden; each block and each image for itself, on the CPU.

    Args:
        count: B, images.
        size: (H, W), in pixels.
        ratio: that a block is hidden.
        block: side of a block as a share of the image's shorter side; MIC has 1/16, which on a
            small crop is no more than an object's edge. No block is smaller than a pixel.
        probability: that an image has hidden blocks at all.
        generator: decides.

    Returns:
        (B, H, W) bool on the CPU, True where hidden.

    Source: Hoyer et al., *MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation*,
    CVPR 2023, section 3.2 and its released code: a ratio of 0.7 in blocks of 64 pixels of crops of
    1024.
    """
    side = max(1.0, block * min(size))
    rows, columns = (max(1, round(pixels / side)) for pixels in size)
    hidden = torch.rand(count, rows, columns, generator=generator) < ratio
    hidden &= torch.rand(count, 1, 1, generator=generator) < probability
    down = torch.arange(size[0]) * rows // size[0]
    across = torch.arange(size[1]) * columns // size[1]
    return hidden[:, down[:, None], across]


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
        generator: decides.

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
        generator: decides.

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
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
    kernel = kernel.to(image, non_blocking=True)
    blurred = blurred.to(image.device, non_blocking=True)
    chosen = image[blurred]
    stacked = F.pad(chosen, (_BLUR_RADIUS_PX,) * 4, mode="reflect").flatten(0, 1)[None]
    with without_autocast(image):
        stacked = F.conv2d(stacked, kernel[:, None, None, :], groups=len(kernel))
        stacked = F.conv2d(stacked, kernel[:, None, :, None], groups=len(kernel))
    return image.index_copy(0, blurred, stacked.view(chosen.shape))


def _hue_rotation(angle: Tensor) -> Tensor:
    """Make matrices (B, 3, 3) that turn the chroma of RGB by angles (B,) and keep its luma."""
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.zeros(len(angle), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2] = cosine, -sine
    turn[:, 2, 1], turn[:, 2, 2] = sine, cosine
    return _FROM_YIQ @ turn @ _TO_YIQ
