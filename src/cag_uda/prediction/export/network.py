"""The network that is exported: from 8-bit pixels to train ids, everything in between inside.

What Python does around the network in prediction (bring an image to the width that the network was
trained at, resize its logits, take the best class) is written here in tensor operations that a
graph can hold for images of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cag_uda.models.inference import most_likely
from cag_uda.models.segmenter import Segmenter


class LabelNetwork(nn.Module):
    """A segmenter as a function of 8-bit images, with the target's batch-norm statistics.

    It is in evaluation mode, and may be in half precision.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.input_width_px = segmenter.config.input_width_px
        self.dtype = next(segmenter.parameters()).dtype

    def forward(self, image: Tensor) -> Tensor:
        """Segment images (B, H, W, 3) uint8 RGB: (B, H, W) uint8 train ids."""
        height, width = image.shape[1:3]
        pixels = image.permute(0, 3, 1, 2).float()
        if self.input_width_px is not None:
            pixels = resize_to_width(pixels, self.input_width_px)
        with _WideNormalize():
            logits = self.segmenter((pixels / 255).to(self.dtype)).logits.float()
        aligned = self.segmenter.config.align_corners
        return most_likely(logits, (height, width), aligned)


class _WideNormalize(TorchFunctionMode):
    """Lets `F.normalize` of half-precision tensors compute in single precision.

    Its epsilon, which avoids a division by zero, is itself zero in half precision: the cosine
    attention of Swin V2 would divide by zero wherever an image is padded.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch; see the class."""
        wide = func is F.normalize and args[0].dtype is torch.float16
        if wide:
            args = (args[0].float(), *args[1:])
        result = func(*args, **(kwargs or {}))
        return result.half() if wide else result


def resize_to_width(pixels: Tensor, width_px: int) -> Tensor:
    """Resize as `models.inference.prepare` does: area averages to shrink, linearly to grow.

    Both are whole numbers of 0 to 255 in float32: (B, 3, H, W) and (B, 3, H', W'), H'/W' ≈ H/W.
    """
    height, width = pixels.shape[2:]
    # round(height · width_px / width), halves to even, in whole numbers: graphs know no round.
    doubled = 2 * height * width_px + width - 1 + height * width_px // width % 2
    height_px = torch.sym_max(1, doubled // (2 * width))
    rows, columns = _weights(height, height_px), _weights(width, width_px)
    resized = rows @ pixels @ columns.T
    # OpenCV rounds halves to even, but up where it averages squares of two by two.
    is_halved = (_scalar(height) == 2 * height_px) & (_scalar(width) == 2 * width_px)
    return torch.where(is_halved, torch.floor(resized + 0.5), torch.round(resized))


def _weights(length: int, size: int) -> Tensor:
    """Compute what each of `length` pixels adds to each of `size` ones, (size, length) float32."""
    # In float64: single precision misplaces the borders of the 2000th pixel by a thousandth.
    step = _scalar(length) / size
    start = torch.arange(size, dtype=torch.float64)[:, None] * step
    pixel = torch.arange(length, dtype=torch.float64)[None]
    overlap = torch.minimum(start + step, pixel + 1) - torch.maximum(start, pixel)
    centre = (start + step / 2 - 0.5).clamp(min=0).minimum(_scalar(length) - 1)
    linear = (1 - (centre - pixel).abs()).clamp(min=0)
    return torch.where(step >= 1, overlap.clamp(min=0) / step, linear).float()


def _scalar(number: int) -> Tensor:
    """Turn a number that is known only when the graph runs into a tensor."""
    return torch.ones((), dtype=torch.float64) * number
