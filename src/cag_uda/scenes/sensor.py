"""Develops light into an 8-bit image: exposure, white balance, bloom, vignette, blur, noise.

Knows no scene.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from cag_uda.scenes.dice import Dice
from cag_uda.scenes.looks import Sensor
from cag_uda.scenes.noise import Floats

Image = NDArray[np.uint8]

_LUMA = (0.299, 0.587, 0.114)


def develop(light: Floats, sensor: Sensor, dice: Dice) -> Image:
    """Turn linear light (3, H, W), changed in place, into an image (H, W, 3) uint8 RGB."""
    _, height, width = light.shape
    if sensor.mean is not None:
        light *= _exposure(light, sensor.mean)
    if sensor.bloom > 0:
        _bloom(light, sensor.bloom)
    if sensor.vignette > 0:
        light *= _vignette(height, width, sensor.vignette)
    luma = sum(light[axis] * _LUMA[axis] for axis in range(3))
    for axis in range(3):
        light[axis] = luma + (light[axis] - luma) * sensor.saturation
        light[axis] *= sensor.gains[axis]
    np.maximum(light, 0, out=light)
    screen = np.sqrt(light, out=light)
    if sensor.mean is not None:
        # A shoulder: highlights bend towards white instead of clipping.
        over = np.maximum(screen - 0.6, 0)
        screen -= over - over / (1 + over * 1.4)
    screen -= 0.5
    screen *= sensor.contrast
    screen += 0.5 * (1 - sensor.lift)
    screen = screen * (1 - sensor.lift) + sensor.lift
    screen *= 255
    screen += 0.5
    np.clip(screen, 0, 255, out=screen)
    image: Image = np.ascontiguousarray(screen.transpose(1, 2, 0).astype(np.uint8))
    side = (height * width) ** 0.5
    if sensor.blur > 0:
        spread = sensor.blur * 1e-3 * side
        if spread > 0.2:
            image = cv2.GaussianBlur(image, (0, 0), spread).astype(np.uint8)
    return _noisy(image, sensor.noise, dice) if sensor.noise > 0 else image


def _exposure(light: Floats, mean: float) -> float:
    """Choose the factor that brings the mean brightness near `mean`, as an automatic exposure does.

    Measured on whole numbers: sums of floats depend on their order, which machines choose.
    """
    sample = np.sqrt(np.maximum(light[:, ::2, ::2], 0))
    steps = np.minimum(sample * 1024, 2048).astype(np.int64)
    measured: float = float(steps.sum()) / steps.size / 1024
    factor = mean / max(measured, 1e-3)
    return factor * factor


def _bloom(light: Floats, share: float) -> None:
    """Spread the brightest light around lamps and the sun, in place."""
    _, height, width = light.shape
    over = np.clip((light - 0.7) * 60, 0, 255).astype(np.uint8)
    if not over.any():
        return
    reach = 2 * round(0.05 * (height * width) ** 0.5) + 1
    for axis in range(3):
        wide = cv2.stackBlur(over[axis], (reach, reach))
        light[axis] += wide * np.float32(share / 60)


def _vignette(height: int, width: int, loss: float) -> Floats:
    v = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / (height / 2)
    u = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / (width / 2)
    corner = (v * v)[:, None] + (u * u)[None, :]
    kept: Floats = 1 - (loss / 2) * corner
    return np.maximum(kept, 0.05)


def _noisy(image: Image, noise: float, dice: Dice) -> Image:
    """Add noise, stronger in the dark."""
    bits = dice.generator.integers(0, 2**32, image.shape, np.uint32)
    # The sum of four random bytes is nearly normal, and the same on every machine.
    total = sum((bits >> np.uint32(shift)) & np.uint32(255) for shift in (0, 8, 16, 24))
    drawn = np.subtract(total, 510, dtype=np.float32)
    drawn *= 1 / 147.8
    values = image.astype(np.float32)
    drawn *= (noise * 255) * (1 - values * (0.55 / 255))
    values += drawn
    values += 0.5
    return np.clip(values, 0, 255).astype(np.uint8)
