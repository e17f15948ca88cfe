"""Images with rare classes shown more often: which image a draw gives, and which crop of it.

Pure functions of counts and a random generator; reads no file, knows no step.

Source: Hoyer et al., *DAFormer*, CVPR 2022, section 3.3 (rare class sampling) and its released code
(tools and mmseg/datasets/uda_dataset.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cag_uda.data.files.resizing import Image
from cag_uda.data.loading.augment import Crop
from cag_uda.data.loading.images import Counts
from cag_uda.errors import DataError
from cag_uda.types import IGNORE

_LEAST_SHARE = 0.0015
"""Least share of an image's pixels that a class must have for the image to count as one that has
it: 3000 pixels of 1914×1052 in DAFormer."""
_LEAST_CROP_SHARE = 0.0057
"""Least share of a crop's pixels that a class must have for the crop to show it: 1500 pixels of
512×512 in DAFormer."""
_TRIES = 10
"""Crops to draw before one without the class is taken."""
_MOST_TRIES = 100
"""Crops to draw of an image that is labelled in few places."""


@dataclass(frozen=True, eq=False)
class RareClasses:
    """Chances of the classes, and which images have each."""

    chance: NDArray[np.float64]
    """(K,) P(c), summing to 1; 0 for a class that no image has."""
    images: tuple[NDArray[np.int64], ...]
    """Numbers of the images that have each class."""

    @classmethod
    def of(cls, counts: Counts, temperature: float) -> "RareClasses":
        """Work out P(c) ∝ exp((1 − f_c) / T), f_c being a class's share of all labelled pixels.

        Small temperatures T > 0 leave the common classes out. Raises DataError if no pixel has a
        class.
        """
        total = counts.sum(axis=0)
        if not total.sum():
            raise DataError("rare-class sampling wants a source in which some pixel has a class")
        exponent = (1 - total / total.sum()) / temperature
        # Around the largest of those that count: the exponential of 100 is beyond most numbers.
        raised = np.where(total > 0, np.exp(exponent - exponent[total > 0].max()), 0.0)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        images = []
        for of_class, share in zip(counts.T, shares.T, strict=True):
            clear = np.flatnonzero(share >= _LEAST_SHARE)
            images.append(clear if len(clear) else np.flatnonzero(of_class))
        return cls(raised / raised.sum(), tuple(images))

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw a class by its chance, then one of the images that have it: (train id, image)."""
        train_id = int(rng.choice(len(self.chance), p=self.chance))
        return train_id, int(rng.choice(self.images[train_id]))


def crop_showing(train_id: int, label: Image, draw: Callable[[], Crop]) -> Crop:
    """Draw crops of a label map (H, W) until one shows a class: the first, or the last of ten."""
    crop = draw()
    for _ in range(_TRIES - 1):
        if (crop.of_label(label) == train_id).mean() >= _LEAST_CROP_SHARE:
            break
        crop = draw()
    return crop


def crop_with_labels(label: Image, draw: Callable[[], Crop]) -> Crop:
    """Draw crops of an image that is labelled in few places until one shows enough labels.

    Enough is the least share that a class must have of a crop. If none of a hundred crops has it,
    the one with most labels is taken.
    """
    best, most = draw(), -1.0
    crop = best
    for _ in range(_MOST_TRIES):
        share = float((label[crop.window] != IGNORE).mean())
        if share > most:
            best, most = crop, share
        if most >= _LEAST_CROP_SHARE:
            break
        crop = draw()
    return best
