"""Decoded images on disk, for the epochs after the first: reading one costs next to nothing.

An image is kept at the largest width that a crop of it is taken at, or at its own if that is less,
so that crops shrink and never grow for it; it lies there as plain numbers, of which a crop reads
the rows that it needs. Several processes may fill and read one folder at once.
"""

import math
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from cag_uda.data.files.cache import cache_folder, keep_array, kept_array
from cag_uda.data.loading.augment import Image, resize_label, resize_to_width
from cag_uda.data.loading.config import LoadingConfig

_FORMAT = 1


class DecodedImages:
    """Keeps decoded images, and the labels that go with them, below the cache folder.

    Args:
        config: how wide images are wanted for crops.
        whole_px: how wide they are wanted whole; None: as the config's `width_px` says.
    """

    def __init__(self, config: LoadingConfig, whole_px: int | None = None) -> None:
        self._folder = cache_folder() / "decoded"
        self._width_px = _widest_px(config, whole_px or config.width_px)

    def read(
        self, paths: Sequence[Path], salt: str, decode: Callable[[], tuple[Image, ...]]
    ) -> tuple[Image, ...]:
        """An image and what goes with it, as they are kept, or decoded and then kept.

        Args:
            paths: the files that the arrays are made of; other sizes or times of them are others.
            salt: what else the arrays depend on: how labels are read, for example.
            decode: gives an image (H, W, 3) uint8 and perhaps its label (H, W) uint8.

        Returns:
            The arrays of `decode`, shrunk to the width that is kept.

        Raises:
            DataError: as `decode` does.
        """
        try:
            key = self._key(paths, salt)
        except OSError:
            return decode()  # Which says what is wrong with the files.
        place = self._folder / key[:2] / f"{key}.npy"
        kept = _load(place)
        if kept is None:
            kept = _together(self._shrunk(decode()))
            keep_array(place, kept, "images are decoded every time")
        return _apart(kept)

    def _key(self, paths: Sequence[Path], salt: str) -> str:
        digest = sha256(f"{_FORMAT} {self._width_px} {salt}\n".encode())
        for path in paths:
            state = path.stat()
            digest.update(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:32]

    def _shrunk(self, arrays: tuple[Image, ...]) -> tuple[Image, ...]:
        image, *labels = arrays
        if self._width_px is None or self._width_px >= image.shape[1]:
            return arrays
        image = resize_to_width(image, self._width_px)
        return image, *(resize_label(label, *image.shape[:2]) for label in labels)


def _widest_px(config: LoadingConfig, whole_px: int | None) -> int | None:
    """Find the largest width that an image is wanted at, by crops and whole; None: its own."""
    base = config.scale_width_px or config.width_px
    if base is None:
        return None
    return max(whole_px or base, math.ceil(base * config.scale[1]))


def _together(arrays: tuple[Image, ...]) -> Image:
    """Image and label as one array (H, W, 3 or 4)."""
    return np.dstack(arrays)


def _apart(kept: Image) -> tuple[Image, ...]:
    image = kept[:, :, :3]
    return (image,) if kept.shape[2] == 3 else (image, kept[:, :, 3])


def _load(place: Path) -> Image | None:
    """Give what is kept, without reading it yet; None where there is nothing, or nothing of use."""
    kept = kept_array(place, map_file=True)
    if kept is None or kept.dtype != np.uint8 or kept.ndim != 3 or kept.shape[2] not in (3, 4):
        return None
    return kept
