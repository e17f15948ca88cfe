"""Random blocks of images hidden, so that what is there must be told from what is around.

Knows sizes; not what the hidden pixels become, nor who is to guess them.

Source: Hoyer et al., *MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation*, CVPR
2023, section 3.2 and its released code: a ratio of 0.7 in blocks of 64 pixels of crops of 1024.
"""

import torch
from torch import Tensor


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
        generator: decides; None takes the CPU's own, so that every device draws the same.

    Returns:
        (B, H, W) bool on the CPU, True where hidden.
    """
    side = max(1.0, block * min(size))
    rows, columns = (max(1, round(pixels / side)) for pixels in size)
    hidden = torch.rand(count, rows, columns, generator=generator) < ratio
    hidden &= torch.rand(count, 1, 1, generator=generator) < probability
    down = torch.arange(size[0]) * rows // size[0]
    across = torch.arange(size[1]) * columns // size[1]
    return hidden[:, down[:, None], across]
