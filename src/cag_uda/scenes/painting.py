"""Paints the numbers of surfaces back to front: from a camera, or from the sun for shadows.

Knows geometry alone, no colours and no classes.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from cag_uda.scenes.camera import Camera, Points, Vector
from cag_uda.scenes.surfaces import Surfaces

Numbers = NDArray[np.uint16]

_SUBPIXEL_BITS = 4
_NEAR_M = 0.25
_MARGIN = 1.3
"""Polygons are clipped at this many half images from the centre: OpenCV walks every row outside."""


def back_to_front(footprints: Points, viewer: tuple[float, float]) -> list[int]:
    """Order things so that none hides one that comes after it.

    Two disjoint upright boxes are separated by a plane along the street's axes; the one on the
    viewer's side can hide the other and never the reverse. The order is a topological one of that
    relation. Where boxes overlap or the relation runs in a circle, the farther comes first.

    Args:
        footprints: (T, 4) x from, x to, z from, z to.
        viewer: x and z of the eye; far away for the sun.

    Returns:
        The numbers of the things, in painting order.
    """
    count = len(footprints)
    is_behind = np.zeros((count, count), np.bool_)
    is_apart = np.zeros((count, count), np.bool_)
    for low, high, eye in (
        (footprints[:, 0], footprints[:, 1], viewer[0]),
        (footprints[:, 2], footprints[:, 3], viewer[1]),
    ):
        beyond = low[:, None] >= high[None, :]
        before = beyond.T
        is_apart |= beyond | before
        is_behind |= (beyond & (eye <= low)[:, None]) | (before & (eye >= high)[:, None])
    middle_x = (footprints[:, 0] + footprints[:, 1]) / 2 - viewer[0]
    middle_z = (footprints[:, 2] + footprints[:, 3]) / 2 - viewer[1]
    distance = np.sqrt(middle_x * middle_x + middle_z * middle_z)
    must_precede = is_behind & ~is_behind.T
    must_precede |= ~is_apart & (distance[:, None] > distance[None, :])
    waiting = must_precede.sum(axis=0).astype(np.float64)
    order = []
    # A thing that waits for none beats every distance; a painted one is out of the race.
    for _ in range(count):
        chosen = int(np.argmax(np.where(waiting <= 0, distance + 1e9, distance - 1e9 * waiting)))
        order.append(chosen)
        waiting -= must_precede[chosen]
        waiting[chosen] = np.inf
    return order


def paint_from_camera(surfaces: Surfaces, camera: Camera) -> tuple[Numbers, NDArray[np.float32]]:
    """Paint the number of the surface seen at each pixel of a camera.

    Returns:
        (H, W) surface numbers, 0 for the sky, and (S, 3) inverse depths as
        `Camera.inverse_depth` describes them.
    """
    seen = camera.to_camera(surfaces.vertices)
    start = surfaces.contour_start
    first = surfaces.first_contour
    normal = _newell(seen, start)[first]
    depth = np.zeros((len(surfaces.category), 3))
    depth[0, 2] = 1e-4
    depth[1:] = camera.inverse_depth(normal, seen[start[first]])
    is_near = np.minimum.reduceat(seen[:, 2], start[:-1]) < _NEAR_M
    is_gone = np.maximum.reduceat(seen[:, 2], start[:-1]) < _NEAR_M
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        image = camera.to_image(seen)
    half = np.array([camera.width_px, camera.height_px]) / 2
    reach = (image - [camera.centre_u, camera.centre_v]) / half
    is_wide = np.maximum.reduceat(np.abs(reach).max(axis=1), start[:-1]) > _MARGIN
    outside = (np.minimum.reduceat(reach, start[:-1]) > 1.02).any(axis=1)
    outside |= (np.maximum.reduceat(reach, start[:-1]) < -1.02).any(axis=1)
    is_gone |= outside & ~is_near
    is_gone |= _turned_away(surfaces, camera)[surfaces.contour_surface]
    fixed = _to_fixed(np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0))
    canvas = np.zeros((camera.height_px, camera.width_px), np.uint16)
    order = back_to_front(surfaces.footprints, (camera.position[0], camera.position[2]))
    needs_clipping = is_near | is_wide
    for surface, contours in _in_order(surfaces, order):
        outlines = [
            _clipped(seen[start[c] : start[c + 1]], camera)
            if needs_clipping[c]
            else fixed[start[c] : start[c + 1]]
            for c in contours
            if not is_gone[c]
        ]
        _fill(canvas, outlines, surface)
    return canvas, depth.astype(np.float32)


def paint_from_above(
    surfaces: Surfaces, ground: Points, toward_sun: Vector, size: tuple[int, int]
) -> Numbers:
    """Paint the number of the surface that the sun meets first at each cell of the ground.

    Args:
        surfaces: the scene; those that cast no shadow are left out.
        ground: (V, 2) where the shadow of each vertex falls, in cells: column, row.
        toward_sun: unit direction towards the sun.
        size: rows and columns of the painting.

    Returns:
        (rows, columns) surface numbers, 0 where the sun reaches the ground.
    """
    start, reach = surfaces.contour_start, 8 * max(size)
    low = np.minimum.reduceat(ground, start[:-1])
    high = np.maximum.reduceat(ground, start[:-1])
    is_out = ((high < 0) | (low > (size[1], size[0]))).any(axis=1)
    # OpenCV walks every row of a polygon: those that reach absurdly far are not worth it.
    is_out |= (np.maximum(-low, high) > reach).any(axis=1)
    facing = sum(surfaces.normal[:, axis] * toward_sun[axis] for axis in range(3))
    # Of a closed body the sunny side alone shades as much as the whole.
    is_idle = ~surfaces.casts_shadow | (surfaces.is_one_sided & (facing <= 0))
    is_out |= is_idle[surfaces.contour_surface]
    fixed = _to_fixed(np.clip(ground, -reach, reach))
    canvas = np.zeros(size, np.uint16)
    far = (toward_sun[0] * 1e6, toward_sun[2] * 1e6)
    for surface, contours in _in_order(surfaces, back_to_front(surfaces.footprints, far)):
        outlines = [fixed[start[c] : start[c + 1]] for c in contours if not is_out[c]]
        _fill(canvas, outlines, surface)
    return canvas


def _in_order(surfaces: Surfaces, order: list[int]) -> Iterator[tuple[int, range]]:
    """Walk ground surfaces, then those of each thing, with the contours of each."""
    numbers = np.arange(1, len(surfaces.category) + 1)
    contour = np.searchsorted(surfaces.contour_surface, numbers).tolist()
    things = np.arange(len(order) + 1)
    first = (np.searchsorted(surfaces.thing[1:], things) + 1).tolist()
    for low, high in [(1, first[0]), *((first[thing], first[thing + 1]) for thing in order)]:
        for surface in range(low, high):
            yield surface, range(contour[surface - 1], contour[surface])


def _fill(canvas: Numbers, outlines: list[NDArray[np.int32]], surface: int) -> None:
    outlines = [outline for outline in outlines if len(outline) > 2]
    if outlines:
        cv2.fillPoly(canvas, outlines, (surface,), lineType=cv2.LINE_8, shift=_SUBPIXEL_BITS)


def _to_fixed(image: Points) -> NDArray[np.int32]:
    bound = 2**20
    scaled = np.floor(np.clip(image, -bound, bound) * (1 << _SUBPIXEL_BITS) + 0.5)
    return scaled.astype(np.int32)


def _turned_away(surfaces: Surfaces, camera: Camera) -> NDArray[np.bool_]:
    to_eye = np.asarray(camera.position) - surfaces.first_corner
    facing = (surfaces.normal[1:] * to_eye).sum(axis=1)
    away = np.zeros(len(surfaces.category), np.bool_)
    away[1:] = surfaces.is_one_sided[1:] & (facing <= 0)
    return away


def _newell(points: Points, start: NDArray[np.intp]) -> Points:
    """Give each contour's normal, not of unit length, from all of its vertices."""
    following = np.arange(1, len(points) + 1)
    following[start[1:] - 1] = start[:-1]
    corner = points[np.repeat(start[:-1], np.diff(start))]
    here, then = points - corner, points[following] - corner
    x, y, z = here.T
    i, j, k = then.T
    cross = np.stack([y * k - z * j, z * i - x * k, x * j - y * i], axis=1)
    normal: Points = np.add.reduceat(cross, start[:-1])
    return normal


def _clipped(seen: Points, camera: Camera) -> NDArray[np.int32]:
    """Cut an outline at the near plane and at a margin around the image (Sutherland-Hodgman)."""
    wide = _MARGIN * camera.width_px / 2 / camera.focal_px
    tall = _MARGIN * camera.height_px / 2 / camera.focal_px
    outline = seen.tolist()
    for a, b, c, d in (
        (0.0, 0.0, 1.0, -_NEAR_M),
        (1.0, 0.0, wide, 0.0),
        (-1.0, 0.0, wide, 0.0),
        (0.0, 1.0, tall, 0.0),
        (0.0, -1.0, tall, 0.0),
    ):
        inside = [a * x + b * y + c * z + d for x, y, z in outline]
        if min(inside) >= 0:
            continue
        kept = []
        for number, here in enumerate(inside):
            x, y, z = outline[number]
            if here >= 0:
                kept.append([x, y, z])
            then, (to_x, to_y, to_z) = inside[number - 1], outline[number - 1]
            if (here >= 0) != (then >= 0):
                part = here / (here - then)
                cut = [x + (to_x - x) * part, y + (to_y - y) * part, z + (to_z - z) * part]
                # The edge to the corner before: its cut comes before this corner.
                kept.insert(len(kept) - (here >= 0), cut)
        outline = kept
        if len(outline) < 3:
            return np.zeros((0, 2), np.int32)
    return _to_fixed(camera.to_image(np.asarray(outline)))
