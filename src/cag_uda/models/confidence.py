"""How sure a network is of each pixel's class, beside the class. Knows logits alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cag_uda.models.inference import upsample


def most_likely_with_confidence(
    looks: Sequence[Tensor], size: tuple[int, int], align_corners: bool = False
) -> tuple[Tensor, Tensor]:
    """The classes with the highest upsampled logits, and their softmax probabilities.

    One class at a time, as `most_likely` does, whose labels these are.

    Args:
        looks: (B, K, h, w) float logits of each view, whose grids may differ; their mean counts.
        size: (H, W) of the result, in pixels.
        align_corners: as in `upsample`.

    Returns:
        (B, H, W) uint8 train ids, and (B, H, W) float32 in [1 / K, 1].
    """

    def value_of(train_id: int) -> Tensor:
        values = [upsample(look[:, train_id : train_id + 1], size, align_corners) for look in looks]
        return torch.stack(values).mean(0) if len(values) > 1 else values[0]

    best = value_of(0)
    total = torch.ones_like(best)
    label = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for train_id in range(1, looks[0].shape[1]):
        value = value_of(train_id)
        label.masked_fill_(value > best, train_id)
        # The sum of exp(value − best) so far: of the two terms one is the exponential of 0.
        higher = torch.maximum(best, value)
        total = total * (best - higher).exp() + (value - higher).exp()
        best = higher
    return label[:, 0], total.reciprocal()[:, 0]
