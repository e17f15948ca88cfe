"""Colours that stay apart for colour-blind eyes, for label maps of many classes.

A palette of a data set is made to be recognised (road purple, car blue), not to be told apart: this
is the other choice. Colours are taken one after the other, each as far as can be from those before,
measured as the worst of four kinds of vision. So class c has the same colour however many classes
there are.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", 2009, table 1 at severity 1.0; they act on linear RGB.
VISIONS: dict[str, Floats] = {
    "normal": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip
_LEVELS = (0, 36, 73, 109, 146, 182, 219, 255)
_FIRST = (0, 114, 178)
"""The blue of Okabe and Ito, to begin with."""
_DARKEST, _LIGHTEST = 0.3, 0.97
"""OKLab lightness between which colours are chosen: black means no label."""


@cache
def safe_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Choose colours for that many classes, in the order of train ids."""
    levels = np.array(_LEVELS)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness = oklab(grid / 255)[:, 0]
    grid = grid[(lightness > _DARKEST) & (lightness < _LIGHTEST)]
    seen = np.stack([as_seen(grid, vision) for vision in VISIONS], axis=1)
    chosen = [np.array(_FIRST)]
    nearest = _distance(seen, chosen[0])
    for _ in range(num_classes - 1):
        place = int(nearest.argmax())
        chosen.append(grid[place])
        nearest = np.minimum(nearest, _distance(seen, grid[place]))
    return tuple((int(red), int(green), int(blue)) for red, green, blue in chosen[:num_classes])


def as_seen(colours: NDArray[np.integer], vision: str) -> Floats:
    """Convert RGB levels (n, 3) to OKLab (n, 3), as a kind of vision sees them.

    Distances in OKLab are alike everywhere; black to white is 1.
    """
    return oklab(_encode((_decode(colours / 255) @ VISIONS[vision].T).clip(0, 1)))


def oklab(rgb: Floats) -> Floats:
    """Convert sRGB (n, 3) in [0, 1] to OKLab.

    Source: Ottosson, "A perceptual color space for image processing", 2020.
    """
    to_cones = np.array([
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ])  # fmt: skip
    to_lab = np.array([
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ])  # fmt: skip
    lab: Floats = np.cbrt(_decode(rgb) @ to_cones.T) @ to_lab.T
    return lab


def _distance(seen: Floats, colour: NDArray[np.integer]) -> Floats:
    """Measure how far candidates (n, visions, 3) are from a colour, by the worst vision."""
    other = np.stack([as_seen(colour[None], vision)[0] for vision in VISIONS])
    worst: Floats = np.linalg.norm(seen - other, axis=2).min(axis=1)
    return worst


def _decode(rgb: Floats) -> Floats:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _encode(linear: Floats) -> Floats:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
