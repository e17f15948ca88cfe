"""Resizing of 8-bit images and of label maps: the one way, for training and prediction."""

from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB, or a label map (H, W) uint8."""


def resize_to_width(image: Image, width_px: int | None) -> Image:
    """Resize an image (H, W, 3) to a width, keeping its aspect ratio; None leaves it as it is."""
    height, width = image.shape[:2]
    if width_px is None or width_px == width:
        return image
    return resize_image(image, max(1, round(height * width_px / width)), width_px)


def resize_image(image: Image, height_px: int, width_px: int) -> Image:
    """Resize an image (H, W, 3); one that has this size already is given back."""
    if image.shape[:2] == (height_px, width_px):
        return image
    # Area averages while shrinking, or fine structures alias; it is no good for growing.
    shrinks = height_px * width_px < image.shape[0] * image.shape[1]
    how: Any = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width_px, height_px), interpolation=how), dtype=np.uint8)


def resize_label(label: Image, height_px: int, width_px: int) -> Image:
    """Resize a label map (H, W) by its nearest pixel centres; ids are never mixed."""
    if label.shape == (height_px, width_px):
        return label
    resized = cv2.resize(label, (width_px, height_px), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, dtype=np.uint8)
