"""Decoded images on disk, for the epochs after the first: reading one costs next to nothing.

An image is kept at the largest width that a crop of it is taken at, or at its own if that is less,
so that crops shrink and never grow for it; it lies there as plain numbers, of which a crop reads
the rows that it needs. Several processes may fill and read one folder at once.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cag_uda.data.files.cache import cache_entry, keep_array, kept_array
from cag_uda.data.files.resizing import Image, resize_label, resize_to_width
from cag_uda.data.loading.config import LoadingConfig

_FORMAT = 1


class DecodedImages:
    """Keeps decoded images, and the labels that go with them, below the cache folder.

    Args:
        config: how wide images are wanted for crops.
        whole_px: how wide they are wanted whole; None: as the config's `width_px` says.
    """

    def __init__(self, config: LoadingConfig, whole_px: int | None = None) -> None:
        self._width_px: int | None = None
        """Largest width that an image is wanted at; None: its own."""
        if base := config.scale_width_px or config.width_px:
            whole_px = whole_px or config.width_px or base
            self._width_px = max(whole_px, math.ceil(base * config.scale[1]))

    def read(
        self, paths: Sequence[Path], salt: str, decode: Callable[[], tuple[Image, ...]]
    ) -> tuple[Image, ...]:
        """Give what `decode` gives, shrunk to the width that is kept: from disk, if it is there.

        Args:
            paths: the files that the arrays are made of; if one has changed, `decode` is called.
            salt: what else the arrays depend on: how labels are read, for example.
            decode: gives an image (H, W, 3) uint8 and perhaps its label (H, W) uint8; may raise.
        """
        place = cache_entry("decoded", ".npy", f"{_FORMAT} {self._width_px} {salt}", paths)
        kept = kept_array(place, map_file=True)
        if kept is None:
            kept = np.dstack(self._shrunk(*decode()))
            keep_array(place, kept, "images are decoded every time")
        image = kept[:, :, :3]
        return (image,) if kept.shape[2] == 3 else (image, kept[:, :, 3])

    def _shrunk(self, image: Image, *labels: Image) -> tuple[Image, ...]:
        if self._width_px is None or self._width_px >= image.shape[1]:
            return image, *labels
        image = resize_to_width(image, self._width_px)
        return image, *(resize_label(label, *image.shape[:2]) for label in labels)
