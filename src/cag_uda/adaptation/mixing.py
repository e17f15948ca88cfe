"""ClassMix between domains: some classes of a source image pasted onto a target image.

Knows images, labels and weights as tensors of one size; not who labelled the target.

Source: Olsson et al., *ClassMix*, WACV 2021; Tranheden et al., *DACS: Domain Adaptation via
Cross-domain Mixed Sampling*, WACV 2021.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cag_uda.adaptation.distributed import over_processes
from cag_uda.errors import ShapeError


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
        generator: decides; None takes the CPU's own, so that every device makes the same choice.

    Returns:
        (B, K) bool, on the device of the label.
    """
    rows = _class_or_last(label, num_classes)
    shown = torch.zeros(len(label), num_classes + 1, dtype=torch.bool, device=label.device)
    shown = shown.scatter_(1, rows.flatten(1), True)[:, :num_classes]
    draw = torch.rand(shown.shape, generator=generator).to(label.device, non_blocking=True)
    order = draw.masked_fill(~shown, -1.0).argsort(dim=1, descending=True)
    rank = order.argsort(dim=1)
    return shown & (rank < (shown.sum(dim=1, keepdim=True) + 1) // 2)


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

    Returns:
        The mixed images with their labels and weights.

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
    classes = chosen.shape[1]
    table = torch.cat([chosen, chosen.new_zeros(len(chosen), 1)], dim=1)
    rows = _class_or_last(source_label, classes)
    pasted = table.gather(1, rows.flatten(1)).view_as(source_label)
    return Mixed(
        torch.where(pasted[:, None], source_image, target_image),
        torch.where(pasted, source_label, target_label),
        torch.where(pasted, 1.0, weight),
    )


def confident_share(confidence: Tensor, threshold: float) -> Tensor:
    """Share of pixels whose confidence reaches a threshold, over the batches of all processes.

    Args:
        confidence: (B, H, W) highest probability of each pixel.
        threshold: in (0, 1).

    Returns:
        Scalar in [0, 1].
    """
    reached = confidence >= threshold
    counts = over_processes(torch.stack([reached.sum(), torch.ones_like(reached).sum()]))
    return (counts[0] / counts[1]).float()


def _class_or_last(label: Tensor, num_classes: int) -> Tensor:
    """The label with K in place of every id that is no class."""
    return torch.where((label >= 0) & (label < num_classes), label, num_classes)
