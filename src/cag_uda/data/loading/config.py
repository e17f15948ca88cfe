"""The `[loading]` table of a recipe: how images become training crops."""

import math
from typing import Literal

from pydantic import Field, model_validator

from cag_uda.types import Config

MOST_PX = 1 << 16
"""A side of any image that this package makes, in pixels."""
_MOST_SCALE = 64


class LoadingConfig(Config):
    """Sizes, augmentation and worker processes of the loader."""

    batch_size: int = Field(default=4, ge=1, le=4096)
    """Images of each domain in the global batch, over all processes."""
    labelled_share: float = Field(default=0.5, gt=0, le=1)
    """Number of labelled images of the target that a step shows beside the others, as a share of
    `batch_size`, where the recipe has such images; rounded up, and at least two of a batch of two
    and more, for batch norm."""
    width_px: int | None = Field(default=None, ge=16, le=MOST_PX)
    """Width to which every image is resized, aspect ratio kept, before `scale`; None keeps the
    image's own. Whole images have the network's `input_width_px`, which is this if it is left
    out."""
    scale_width_px: int | None = Field(default=None, ge=16, le=MOST_PX)
    """Width that `scale` multiplies in place of an image's own (or of `width_px`), so that crops of
    both domains have one scale while sweeps and evaluation keep the images' sizes; the released
    CAG-UDA code has 2200."""
    sweep_images: int | None = Field(default=None, ge=1)
    """Images of each source that a sweep visits, in random order, each at most once; None: all of
    them, in order. The released CAG-UDA code makes its anchors of 11,888."""
    crop_px: tuple[int, int] = (512, 896)
    """Height and width of a training crop, after resizing."""
    scale: tuple[float, float] = (0.5, 1.5)
    """Range of the random rescaling; raised for an image that would not fill the crop."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    photometric: float = Field(default=0.0, ge=0, le=2)
    """Strength of the photometric augmentation of both domains: 0 none, 1 strong."""
    rare_class_temperature: float = Field(default=0.0, ge=0)
    """Temperature T of rare-class sampling: each source image is drawn for a class, with
    probability ∝ exp((1 − f) / T), f being the class's share of the source's pixels, and cropped to
    show it. The smaller T, the more often rare classes are drawn; 0.01 in DAFormer, for 19 classes.
    0 turns it off: every image is shown once an epoch."""
    workers: int = Field(default=1, ge=0, le=512)
    """Loader processes of each training process; 0 loads in the training process."""
    cache: bool = False
    """Keep decoded images on disk for later epochs, below CAG_UDA_CACHE, at the largest
    width that a crop or sweep wants (`scale_width_px` or `width_px` times the end of `scale`), or
    at their own. Where that is less than their own, results differ a little from those without."""
    on_unreadable: Literal["stop", "skip"] = "stop"
    """At an image or label that cannot be read, training stops, or the next readable
    one of the domain takes its place, with a warning; sweeps then leave it out."""

    @property
    def labelled_images(self) -> int:
        """Labelled images of the target in the global batch, of a recipe that has some."""
        wanted = math.ceil(self.labelled_share * self.batch_size)
        return min(self.batch_size, max(2, wanted))

    @model_validator(mode="after")
    def _ranges(self) -> "LoadingConfig":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must rise from above 0, got {list(self.scale)}")
        if self.scale[1] > _MOST_SCALE:
            raise ValueError(f"scale should stay below {_MOST_SCALE}, got {list(self.scale)}")
        if min(self.crop_px) < 32 or max(self.crop_px) > MOST_PX:
            raise ValueError(
                f"crop_px must be at least 32 by 32, and at most {MOST_PX:,} px a side, got "
                f"{list(self.crop_px)}"
            )
        return self
