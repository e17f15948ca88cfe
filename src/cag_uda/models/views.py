"""Test-time views of an image: whole or piece by piece, mirrored, at several scales.

Knows sizes; knows no image and no network.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cag_uda.errors import DataError

_LEAST_WINDOW_PX = 32


@dataclass(frozen=True)
class Views:
    """The views of an image whose logits are averaged. The default is one view, of all of it.

    Raises:
        DataError: if a scale, the window or the overlap is out of range.

    Source: windows and their overlap as in mmsegmentation (`slide_inference`); flips and scales as
    in Chen et al., *DeepLab*, 2017.
    """

    flip: bool = False
    """Look at the mirrored image too."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes of the image, relative to the width that the network was trained at."""
    window_px: tuple[int, int] | None = None
    """(height, width) of the pieces that are looked at one after the other at each scale, such as
    the crops of training; None looks at all at once."""
    overlap: float = 1 / 3
    """Share of a window that the next one covers again, at least."""
    align_corners: bool = False
    """Enlarge logits with the centres of the outermost cells on those of the outermost pixels, as
    the released CAG-UDA code does (test.py, `validate`), instead of edge on edge."""

    def __post_init__(self) -> None:
        problems = []
        if not self.scales or not all(0.1 <= scale <= 8 for scale in self.scales):
            problems.append(f"scales should be from 0.1 to 8, at least one, got {self.scales}")
        if self.window_px is not None and min(self.window_px) < _LEAST_WINDOW_PX:
            problems.append(
                f"a window should be {_LEAST_WINDOW_PX} px or more a side, got "
                f"{self.window_px[0]}×{self.window_px[1]}"
            )
        if not 0 <= self.overlap <= 0.9:
            problems.append(f"the overlap should be from 0 to 0.9, got {self.overlap}")
        if problems:
            raise DataError(problems)

    def image_size(self, size: tuple[int, int], scale: float) -> tuple[int, int]:
        """Return (H, W) of an image of `size` at a scale, at least a pixel a side."""
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def windows(self, size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
        """Yield rows and columns of each piece of an image (H, W); together they cover it.

        The last of a row or column is moved back to end with the image; an image that is smaller
        than the window is one piece.
        """
        height, width = self.window_px or size
        for top in offsets(size[0], height, self.overlap):
            for left in offsets(size[1], width, self.overlap):
                yield slice(top, top + height), slice(left, left + width)


WHOLE = Views()
"""One look at all of the image."""


def offsets(length: int, window: int, overlap: float) -> list[int]:
    """Place windows that together cover a length; the last one ends with it.

    `overlap` is the share of a window that the next one covers again, at least.
    """
    beyond = max(length - window, 0)
    step = max(1, round(window * (1 - overlap)))
    return [min(start, beyond) for start in range(0, beyond + step, step)]
