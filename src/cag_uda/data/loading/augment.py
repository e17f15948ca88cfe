"""Geometric and photometric augmentation of 8-bit images, before they reach the device.

Pure functions of an image and a random generator; knows nothing of steps, files or networks.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cag_uda.data.files.resizing import Image, resize_image, resize_label
from cag_uda.data.loading.config import LoadingConfig


@dataclass(frozen=True)
class Crop:
    """A window of an image that becomes a training crop; applies to image and label alike."""

    window: tuple[slice, slice]
    """Rows and columns of the image that end up in the crop."""
    size_px: tuple[int, int]
    """Height and width of the crop."""
    is_flipped: bool

    def of_image(self, image: Image) -> Image:
        """Crop (H, W, 3) uint8 to (h, w, 3); only the window is resized."""
        return self._turn(resize_image(image[self.window], *self.size_px))

    def of_label(self, label: Image) -> Image:
        """Crop (H, W) uint8 train ids to (h, w)."""
        return self._turn(resize_label(label[self.window], *self.size_px))

    def _turn(self, crop: Image) -> Image:
        return np.ascontiguousarray(crop[:, ::-1]) if self.is_flipped else crop


def choose_crop(size_px: tuple[int, int], config: LoadingConfig, rng: np.random.Generator) -> Crop:
    """Choose a random scale, place and flip for an image of a size (H, W).

    The generator decides, by four draws, whatever the image.
    """
    height, width = size_px
    crop_height, crop_width = config.crop_px
    draw_scale, draw_y, draw_x, draw_flip = rng.random(4)
    base = (config.scale_width_px or config.width_px or width) / width
    factor = base * (config.scale[0] + draw_scale * (config.scale[1] - config.scale[0]))
    factor = max(factor, crop_height / height, crop_width / width)
    rows = min(height, max(1, round(crop_height / factor)))
    columns = min(width, max(1, round(crop_width / factor)))
    top, left = int(draw_y * (height - rows + 1)), int(draw_x * (width - columns + 1))
    window = (slice(top, top + rows), slice(left, left + columns))
    return Crop(window, config.crop_px, bool(draw_flip < config.flip))


def photometric(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Change light, colour and sharpness of an image (H, W, 3) at random; the content stays.

    Gamma, exposure, contrast and a gain per channel are composed into one 8-bit look-up table per
    channel, so they cost one pass; now and then the image is made greyer, blurred, or noisy.
    A strength of 0 gives the image back, 1 is strong.
    """
    if strength == 0:
        return image
    toned: Any = cv2.LUT(image, _tone_table(strength, rng))
    chance = rng.random(3)
    if chance[0] < 0.2 * strength:
        grey = cv2.cvtColor(cv2.cvtColor(toned, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        mix = rng.uniform(0.5, 1.0)
        toned = cv2.addWeighted(grey, mix, toned, 1 - mix, 0)
    if chance[1] < 0.3 * strength:
        toned = cv2.GaussianBlur(toned, (0, 0), rng.uniform(0.3, 1.2))
    if chance[2] < 0.3 * strength:
        deviation = rng.uniform(2.0, 12.0) * strength
        noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(deviation)
        toned = cv2.add(toned, noise, dtype=cv2.CV_8U)
    return np.asarray(toned, dtype=np.uint8)


def _tone_table(strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Put gamma, exposure, contrast and gains into one table, (256, 1, 3) uint8."""
    spread = rng.uniform(-strength, strength, 6)
    gamma = 2.0 ** (0.9 * spread[0])
    exposure = 2.0 ** (0.9 * spread[1])
    contrast = 1.0 + 0.4 * spread[2]
    gains = 1.0 + 0.2 * spread[3:]
    level = np.linspace(0.0, 1.0, 256)[:, None] ** gamma * exposure * gains
    toned = (level - 0.5) * contrast + 0.5
    return np.asarray(np.clip(np.rint(toned * 255), 0, 255), dtype=np.uint8).reshape(256, 1, 3)
