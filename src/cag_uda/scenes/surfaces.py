"""Surfaces of a scene: flat polygons with a class and a paint. Knows no camera and no light.

Each polygon is one surface. A picture is first painted with the numbers of the surfaces; label,
colour and depth are then looked up by number. That is why a label can never miss its object.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cag_uda.scenes.camera import Points, Vector

Colour = tuple[float, float, float]
"""Red, green, blue in [0, 1] as a screen shows them."""
Span = tuple[float, float]
"""From and to along one axis, in metres."""
Flat = Callable[[float, float], Vector]
"""From across and up, in metres, to a point of an upright plane turned towards the viewer."""


class Category(IntEnum):
    """The 11 classes of CamVid, by train id."""

    SKY = 0
    BUILDING = 1
    POLE = 2
    ROAD = 3
    PAVEMENT = 4
    TREE = 5
    SIGN = 6
    FENCE = 7
    CAR = 8
    PEDESTRIAN = 9
    BICYCLIST = 10


class Material(IntEnum):
    """Kind of variation of a surface's colour; `materials.py` holds the patterns."""

    SKY = 0
    PLAIN = 1
    ROAD = 2
    PAVING = 3
    GRASS = 4
    FACADE = 5
    ROOF = 6
    FOLIAGE = 7
    PLANKS = 8
    GLASS = 9
    STRIPES = 10


class Paint(NamedTuple):
    """Class and look of a surface."""

    category: Category
    colour: Colour
    material: Material = Material.PLAIN
    accent: Colour = (1.0, 1.0, 1.0)
    numbers: tuple[float, ...] = ()
    """Up to NUMBERS settings of the material; `materials.py` says which."""
    emission: float = 0.0
    """Light given off when the lamps are on, in units of the colour."""


NUMBERS = 8
"""Settings that a material may have."""


class Surfaces(NamedTuple):
    """A finished scene as arrays: S surfaces, C contours, V vertices, T things.

    Surface 0 is the sky; it has no contour.
    """

    vertices: Points
    """(V, 3) world points."""
    contour_start: NDArray[np.intp]
    """(C + 1,) first vertex of each contour."""
    contour_surface: NDArray[np.intp]
    """(C,) the surface that a contour bounds; contours of one surface lie together."""
    category: NDArray[np.uint8]
    material: NDArray[np.uint8]
    colour: NDArray[np.float32]
    accent: NDArray[np.float32]
    numbers: NDArray[np.float32]
    """(S, NUMBERS)."""
    emission: NDArray[np.float32]
    normal: Points
    """(S, 3) outward unit normals; NaN where the surface has two like sides."""
    is_one_sided: NDArray[np.bool_]
    casts_shadow: NDArray[np.bool_]
    thing: NDArray[np.intp]
    """(S,) the thing that a surface belongs to; -1 for sky and ground."""
    footprints: Points
    """(T, 4) x from, x to, z from, z to: the ground that a thing stands on."""

    @property
    def first_contour(self) -> NDArray[np.intp]:
        """(S - 1,) the first contour of each surface but the sky."""
        return np.searchsorted(self.contour_surface, np.arange(1, len(self.category)))

    @property
    def first_corner(self) -> Points:
        """(S - 1, 3) the first vertex of each surface but the sky."""
        return self.vertices[self.contour_start[self.first_contour]]


class Scene:
    """Collects surfaces. Ground first, then things, each with a footprint clear of the others.

    Args:
        viewer: x and z of the camera, for the flat figures (trees, people) that turn towards it.
    """

    def __init__(self, viewer: tuple[float, float]) -> None:
        self.viewer = viewer
        self.lamps: list[Vector] = []
        """Positions of lit street lamps."""
        self._points: list[Vector] = []
        self._lengths: list[int] = []
        self._owners: list[int] = []
        self._footprints: list[tuple[float, float, float, float]] = []
        sky = Paint(Category.SKY, (0.0, 0.0, 0.0), Material.SKY)
        self._surfaces: list[tuple[Paint, Vector | None, bool, bool, int]] = [
            (sky, None, False, False, -1)
        ]
        """Paint, normal, whether one-sided, whether casting shadows, and the thing's number."""

    def begin(self, x: Span, z: Span) -> None:
        """Start a thing; the polygons that follow belong to it, each hiding those before.

        Its footprint lies between two x and two z, in any order.
        """
        self._footprints.append((min(x), max(x), min(z), max(z)))

    def polygon(
        self,
        vertices: Iterable[Vector],
        paint: Paint,
        normal: Vector | None = None,
        *,
        one_sided: bool = False,
        casts: bool = True,
        more: Sequence[Iterable[Vector]] = (),
    ) -> None:
        """Add one flat surface.

        Args:
            vertices: its outline in world metres, three points or more, in one plane.
            paint: what it is and looks like.
            normal: outward unit normal; without it both sides are alike.
            one_sided: whether it is unseen from behind; needs a normal.
            casts: whether it throws a shadow.
            more: further outlines in the same plane; where outlines overlap is a hole.
        """
        surface, thing = len(self._surfaces), len(self._footprints) - 1
        self._surfaces.append((paint, normal, one_sided, casts, thing))
        for outline in (vertices, *more):
            before = len(self._points)
            self._points.extend(outline)
            self._lengths.append(len(self._points) - before)
            self._owners.append(surface)

    def solid(
        self, corners: Sequence[Vector], faces: Sequence[tuple[int, ...]], paints: Sequence[Paint]
    ) -> list[Vector]:
        """Add a convex body, of which only the faces towards the viewer are seen.

        Args:
            corners: in world metres.
            faces: numbers of corners, in order around each.
            paints: one for each face, or one for all.

        Returns:
            The outward unit normal of each face.
        """
        middle = [sum(axis) / len(corners) for axis in zip(*corners, strict=True)]
        normals = []
        for number, face in enumerate(faces):
            outline = [corners[corner] for corner in face]
            normal = _outward(outline, middle)
            normals.append(normal)
            paint = paints[number % len(paints)]
            self.polygon(outline, paint, normal, one_sided=True)
        return normals

    def box(self, low: Vector, high: Vector, paint: Paint, top: Paint | None = None) -> None:
        """Add an upright box from the least to the greatest x, y, z, without its underside."""
        self.block(low, high, [paint, paint, paint, paint, top or paint])

    def block(self, low: Vector, high: Vector, paints: Sequence[Paint]) -> None:
        """Add a `box` with a paint for each face: towards -z, x, z and -x, and the top."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        corners = [
            (x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1),
            (x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1),
        ]  # fmt: skip
        faces = [(0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7), (4, 5, 6, 7)]
        self.solid(corners, faces, paints)

    def turned_to_viewer(self, x: float, z: float) -> Flat:
        """Give the upright plane at a place that faces the viewer."""
        away_x, away_z = x - self.viewer[0], z - self.viewer[1]
        size = math.sqrt(away_x * away_x + away_z * away_z) or 1.0
        right_x, right_z = away_z / size, -away_x / size

        def point(across: float, up: float) -> Vector:
            return (x + across * right_x, up, z + across * right_z)

        return point

    def finish(self) -> Surfaces:
        """Give everything added so far as arrays."""
        paints, normals, one_sided, casts, things = zip(*self._surfaces, strict=True)
        numbers = np.zeros((len(paints), NUMBERS), np.float32)
        for row, paint in enumerate(paints):
            if paint.numbers:
                numbers[row, : len(paint.numbers)] = paint.numbers
        unknown = (np.nan, np.nan, np.nan)
        return Surfaces(
            vertices=_rows(self._points),
            contour_start=np.concatenate([[0], np.cumsum(self._lengths, dtype=np.intp)]),
            contour_surface=np.asarray(self._owners, np.intp),
            category=np.asarray([paint.category for paint in paints], np.uint8),
            material=np.asarray([paint.material for paint in paints], np.uint8),
            colour=_rows([paint.colour for paint in paints]).astype(np.float32),
            accent=_rows([paint.accent for paint in paints]).astype(np.float32),
            numbers=numbers,
            emission=np.asarray([paint.emission for paint in paints], np.float32),
            normal=_rows([normal or unknown for normal in normals]),
            is_one_sided=np.asarray(one_sided, np.bool_),
            casts_shadow=np.asarray(casts, np.bool_),
            thing=np.asarray(things, np.intp),
            footprints=np.asarray(self._footprints, np.float64).reshape(-1, 4),
        )

    def is_free(self, x: Span, z: Span) -> bool:
        """Tell whether nothing stands yet on the ground between two x and two z."""
        return not any(
            low_x < x[1] and x[0] < high_x and low_z < z[1] and z[0] < high_z
            for low_x, high_x, low_z, high_z in self._footprints
        )


def _rows(triples: Sequence[Vector]) -> Points:
    # Five times as fast as handing NumPy the list of tuples.
    flat = np.fromiter(chain.from_iterable(triples), np.float64, 3 * len(triples))
    return flat.reshape(-1, 3)


def _outward(outline: Sequence[Vector], middle: Sequence[float]) -> Vector:
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = outline[:3]
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - bx, cy - by, cz - bz
    x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    size = (x * x + y * y + z * z) ** 0.5 or 1.0
    if x * (ax - middle[0]) + y * (ay - middle[1]) + z * (az - middle[2]) < 0:
        size = -size
    return (x / size, y / size, z / size)
