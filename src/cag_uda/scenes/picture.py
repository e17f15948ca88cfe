"""Renders one picture with its label: lays a scene out, paints it, lights it, develops it."""

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from cag_uda.errors import DataError
from cag_uda.scenes.camera import Camera
from cag_uda.scenes.dice import Dice
from cag_uda.scenes.layout import lay_out
from cag_uda.scenes.looks import Look, sample_look
from cag_uda.scenes.noise import Floats
from cag_uda.scenes.painting import paint_from_camera
from cag_uda.scenes.sensor import develop
from cag_uda.scenes.shading import shade

Bytes = NDArray[np.uint8]

_MIN_PX = 32
_FINENESS = 2
"""Painted this many times finer in both directions than asked for."""
# Common classes first: where a pixel is shared by as many samples of two classes, the rarer one
# gets it, or poles would fray.
_BY_FREQUENCY = np.array([3, 0, 1, 4, 5, 8, 7, 10, 9, 6, 2], np.uint8)


def render(seed: int, index: int, look: Look, height_px: int, width_px: int) -> tuple[Bytes, Bytes]:
    """Render a street scene with its label. The same arguments give the same bytes everywhere.

    The scene depends on seed, index and look alone: another size shows the same street at the same
    camera. The two looks of one index are two scenes.

    Args:
        seed: of the whole collection, >= 0.
        index: of the picture in its collection, >= 0.
        look: `clean` (source domain) or `hard` (target domain).
        height_px: image height, at least 32.
        width_px: image width, at least 32.

    Returns:
        The image (H, W, 3) uint8 RGB and the label (H, W) uint8 of CamVid train ids: 0 sky,
        1 building, 2 pole, 3 road, 4 pavement, 5 tree, 6 sign, 7 fence, 8 car, 9 pedestrian,
        10 bicyclist. Every pixel has a class.

    Raises:
        DataError: if an argument is out of range.
    """
    check_arguments(seed, index, look, height_px, width_px)
    key = (seed, index, get_args(Look).index(look))
    scene, pose = lay_out(Dice(*key, 0))
    light, sensor = sample_look(look, Dice(*key, 1))
    surfaces = scene.finish()
    camera = Camera(pose, height_px * _FINENESS, width_px * _FINENESS)
    numbers, inverse_depth = paint_from_camera(surfaces, camera)
    label = _majority(surfaces.category[numbers])
    fine = shade(surfaces, numbers, inverse_depth, camera, light, scene.lamps)
    return develop(_average(fine), sensor, Dice(*key, 2)), label


def check_arguments(seed: int, index: int, look: str, height_px: int, width_px: int) -> None:
    """Refuse what `render` cannot render. Raises DataError, all problems at once."""
    problems = []
    if seed < 0 or index < 0:
        problems.append(f"seed {seed} and index {index} of a rendered scene must be 0 or more")
    if look not in get_args(Look):
        problems.append(f"unknown look {look!r}; choose one of {', '.join(get_args(Look))}")
    if min(height_px, width_px) < _MIN_PX:
        problems.append(
            f"cannot render {height_px} x {width_px} px; height and width must be {_MIN_PX} or more"
        )
    if problems:
        raise DataError(problems)


def _average(fine: Floats) -> Floats:
    """Average blocks of 2 × 2."""
    mean: Floats = fine[:, ::2, ::2] + fine[:, ::2, 1::2]
    mean += fine[:, 1::2, ::2] + fine[:, 1::2, 1::2]
    mean *= 0.25
    return mean


def _majority(fine: Bytes) -> Bytes:
    """Give each block of 2 × 2 the class of most of its samples, the rarer of equals."""
    rank = np.empty(len(_BY_FREQUENCY), np.uint8)
    rank[_BY_FREQUENCY] = np.arange(len(_BY_FREQUENCY), dtype=np.uint8)
    ranks = rank[fine]
    a, b, c, d = ranks[::2, ::2], ranks[::2, 1::2], ranks[1::2, ::2], ranks[1::2, 1::2]
    low_1, high_1 = np.minimum(a, b), np.maximum(a, b)
    low_2, high_2 = np.minimum(c, d), np.maximum(c, d)
    first, last = np.minimum(low_1, low_2), np.maximum(high_1, high_2)
    inner_1, inner_2 = np.maximum(low_1, low_2), np.minimum(high_1, high_2)
    second, third = np.minimum(inner_1, inner_2), np.maximum(inner_1, inner_2)
    lonely = np.where((first == second) & (third != last), first, last)
    return _BY_FREQUENCY[np.where(second == third, second, lonely)]
