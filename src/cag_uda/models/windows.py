"""Place of a window in the image that a network sees window by window.

Most of a network looks at neighbours alone, which margins hold. Levels that are resized with the
corners of an image on each other do not: their cells fall elsewhere in a window than in the image.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.models.backbone import multiples


@dataclass(frozen=True)
class Window:
    """A part of an image, in pixels."""

    image: tuple[int, int]
    """Height and width of the image."""
    start: tuple[int, int]
    """Top and left."""

    def enlarged(self, multiple: int) -> "Window":
        """Return the window in the image as a backbone enlarges it to multiples of some pixels."""
        height, width = (multiples(side, multiple) * multiple for side in self.image)
        return replace(self, image=(height, width))

    def resized(self, x: Tensor, like: Tensor, strides: tuple[float, float]) -> Tensor:
        """Resize a coarse map as in the whole image, whose corners lie on each other.

        Args:
            x: (B, C, h, w) of the window.
            like: (B, C', h', w') of it, on the grid that is wanted: (B, C, h', w') comes back.
            strides: pixels per cell of the one and of the other.
        """
        coarse_px, fine_px = strides
        rows, columns = (
            self._places(axis, x.shape[2 + axis], like.shape[2 + axis], coarse_px, fine_px)
            for axis in (0, 1)
        )
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).to(x)
        return F.grid_sample(
            x,
            grid.expand(len(x), -1, -1, -1),
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )

    def _places(
        self, axis: int, coarse: int, fine: int, coarse_px: float, fine_px: float
    ) -> Tensor:
        """Compute the places of an axis's fine cells among the coarse ones, from −1 to 1."""
        all_coarse, all_fine = (-(-self.image[axis] // stride) for stride in (coarse_px, fine_px))
        cells = torch.arange(fine, dtype=torch.float64) + self.start[axis] / fine_px
        places = cells * ((all_coarse - 1) / max(1, all_fine - 1)) - self.start[axis] / coarse_px
        return places * (2 / max(1, coarse - 1)) - 1
