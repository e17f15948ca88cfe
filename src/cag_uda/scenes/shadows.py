"""Finds what the sun does not reach, and the soft darkness under and beside things.

The scene is painted once more, along the sun's rays onto the ground; a point is in shadow if the
thing met first on its ray is another. Knows no colours.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cag_uda.scenes.camera import Vector
from cag_uda.scenes.noise import Floats
from cag_uda.scenes.painting import Numbers, paint_from_above
from cag_uda.scenes.surfaces import Surfaces

_ROWS, _COLUMNS = 1024, 512
_LEFT_M, _NEAR_M = -25.6, -16.0
_CELL_M = 0.1
_LIFT_M = 0.15
"""Least height above a point of what shades it: hides the grid's coarseness."""
_SOFT_CELLS, _SOFT_CELL_M = 416, 0.125


class ShadowMap(NamedTuple):
    """Heights that the sun meets first, seen on the ground along its rays."""

    first: Numbers
    height: Floats
    """(S, 3) a, b, c: a surface lies at height a x + b z + c on the ray that ends at (x, z)."""
    thing: NDArray[np.int32]
    """(S,) the thing that a surface belongs to."""
    slope: tuple[float, float]
    """Metres that a ray goes along x and z for each metre of height."""


def cast_shadows(surfaces: Surfaces, toward_sun: Vector) -> ShadowMap:
    """Paint the scene as the sun sees it, which stands in a unit direction above the horizon."""
    slope = (toward_sun[0] / toward_sun[1], toward_sun[2] / toward_sun[1])
    vertices = surfaces.vertices
    ground_x = vertices[:, 0] - vertices[:, 1] * slope[0]
    ground_z = vertices[:, 2] - vertices[:, 1] * slope[1]
    cells = np.stack([ground_x - _LEFT_M, ground_z - _NEAR_M], axis=1) / _CELL_M

    first = paint_from_above(surfaces, cells - 0.5, toward_sun, (_ROWS, _COLUMNS))
    heights = _heights(surfaces, ground_x, ground_z)
    return ShadowMap(first, heights, surfaces.thing.astype(np.int32), slope)


def sunlit(
    shadows: ShadowMap, surface: NDArray[np.intp], x: Floats, y: Floats, z: Floats
) -> Floats:
    """Tell which world points (N,) of which surfaces the sun reaches: 1 in the sun, 0 in shadow.

    Things do not shade themselves: their turned-away sides are dark already, and on surfaces along
    the sun's rays the grid would show. Points whose ray ends outside of the map take the nearest
    cell's.
    """
    ground_x = x - y * shadows.slope[0]
    ground_z = z - y * shadows.slope[1]
    column = ((ground_x - _LEFT_M) * (1 / _CELL_M)).astype(np.int32)
    row = ((ground_z - _NEAR_M) * (1 / _CELL_M)).astype(np.int32)
    np.clip(column, 0, _COLUMNS - 1, out=column)
    np.clip(row, 0, _ROWS - 1, out=row)
    first = shadows.first.reshape(-1)[row * _COLUMNS + column]
    a, b, c = (np.take(shadows.height[:, axis], first) for axis in range(3))
    height = a * ground_x + b * ground_z + c
    is_lit = height <= y + _LIFT_M
    is_lit |= np.take(shadows.thing, first) == np.take(shadows.thing, surface)
    lit: Floats = is_lit.astype(np.float32)
    return lit


def soft_contact(surfaces: Surfaces) -> NDArray[np.uint8]:
    """Paint where the open sky is blocked near the ground: under cars, along walls.

    Returns:
        (cells, cells) 0 in the open … 255 underneath; for `contact_at`.
    """
    canvas = np.zeros((_SOFT_CELLS, _SOFT_CELLS), np.uint8)
    origin = np.array([_LEFT_M, _LEFT_M, _NEAR_M, _NEAR_M])
    cells = np.floor((surfaces.footprints - origin) / _SOFT_CELL_M + 0.5)
    for x0, x1, z0, z1 in np.clip(cells, 0, _SOFT_CELLS).astype(int).tolist():
        canvas[z0:z1, x0:x1] = 255
    return cv2.stackBlur(canvas, (15, 15)).astype(np.uint8)


def contact_at(soft: NDArray[np.uint8], x: Floats, z: Floats) -> Floats:
    """Look up in `soft_contact` how much of the sky is blocked near points (N,), in [0, 1]."""
    across = (x - _LEFT_M) * (1 / _SOFT_CELL_M)
    along = (z - _NEAR_M) * (1 / _SOFT_CELL_M)
    column, row = across.astype(np.int32), along.astype(np.int32)
    np.clip(column, 0, _SOFT_CELLS - 1, out=column)
    np.clip(row, 0, _SOFT_CELLS - 1, out=row)
    row *= _SOFT_CELLS
    row += column
    blocked: Floats = np.take(soft, row).astype(np.float32) * (1 / 255)
    return blocked


def _heights(
    surfaces: Surfaces, ground_x: NDArray[np.float64], ground_z: NDArray[np.float64]
) -> Floats:
    """Fit each surface's height as a linear function of where its shadow falls."""
    start = surfaces.contour_start
    first = surfaces.first_contour
    low, count = start[first], start[first + 1] - start[first]
    # Three corners that span the outline: a polygon's own first three may lie on a line.
    one, two, three = low, low + count // 3, low + (2 * count) // 3
    y = surfaces.vertices[:, 1]
    ux, uz, uy = (v[two] - v[one] for v in (ground_x, ground_z, y))
    vx, vz, vy = (v[three] - v[one] for v in (ground_x, ground_z, y))
    area = ux * vz - uz * vx
    is_thin = np.abs(area) < 0.02 * (np.abs(ux) + np.abs(uz) + np.abs(vx) + np.abs(vz)) + 1e-9
    safe = np.where(is_thin, 1.0, area)
    slope_x = np.where(is_thin, 0.0, (uy * vz - vy * uz) / safe)
    slope_z = np.where(is_thin, 0.0, (vy * ux - uy * vx) / safe)
    middle = (y[one] + y[two] + y[three]) / 3
    offset = np.where(is_thin, middle, y[one] - slope_x * ground_x[one] - slope_z * ground_z[one])
    heights = np.full((len(surfaces.category), 3), 0.0)
    heights[0, 2] = -1e6
    heights[1:] = np.stack([slope_x, slope_z, offset], axis=1)
    return heights.astype(np.float32)
