"""Builds cars, vans, lorries and buses, and says how much room each takes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from cag_uda.scenes.camera import Vector
from cag_uda.scenes.dice import Dice
from cag_uda.scenes.palettes import BLACK, GLASS, RUBBER, STEEL, WHITE, car, scaled
from cag_uda.scenes.surfaces import Category, Colour, Material, Paint, Scene


class Body(NamedTuple):
    """The shape of a car; lengths in metres, the others as shares of the length from the rear."""

    length_m: float
    width_m: float
    height_m: float
    belt_m: float
    """Height of the lower edge of the windows."""
    clearance_m: float
    cabin: tuple[float, float]
    """Foot of the rear window, foot of the windscreen."""
    roof: tuple[float, float]
    """Rear and front end of the roof."""
    windows: int
    """Windows on a side; 0 for a van without any."""


BODIES: dict[str, Body] = {
    "hatchback": Body(3.95, 1.72, 1.47, 0.90, 0.24, (0.02, 0.72), (0.10, 0.52), 2),
    "saloon": Body(4.60, 1.80, 1.44, 0.90, 0.24, (0.12, 0.72), (0.25, 0.54), 2),
    "estate": Body(4.65, 1.80, 1.48, 0.90, 0.24, (0.01, 0.70), (0.06, 0.53), 3),
    "offroad": Body(4.50, 1.88, 1.74, 1.06, 0.34, (0.01, 0.74), (0.06, 0.57), 3),
    "van": Body(5.10, 1.96, 2.15, 1.18, 0.28, (0.00, 0.88), (0.00, 0.74), 0),
    "minibus": Body(4.90, 1.92, 1.95, 1.08, 0.28, (0.00, 0.86), (0.02, 0.70), 3),
    "lorry": Body(7.20, 2.30, 2.90, 1.40, 0.42, (0.74, 0.995), (0.76, 0.96), 1),
    "bus": Body(10.5, 2.50, 3.05, 1.25, 0.32, (0.00, 1.00), (0.005, 0.985), 6),
}
"""Shapes by name."""

_PARKED: dict[str, float] = {
    "hatchback": 0.32,
    "saloon": 0.26,
    "estate": 0.16,
    "offroad": 0.14,
    "van": 0.06,
    "minibus": 0.06,
}


def pick_body(dice: Dice, *, is_parked: bool) -> Body:
    """Draw a shape; lorries and buses only drive."""
    more = {} if is_parked else {"lorry": 0.06, "bus": 0.05}
    return BODIES[dice.weighted({**_PARKED, **more})]


_DETAIL_M = 42.0
"""Beyond this distance, hubs, number plates and what is seen under a car are left out."""
_CIRCLE = [
    (math.cos(turn), math.sin(turn)) for turn in ((step / 8 - 0.5) * math.pi for step in range(16))
]
"""From below, so that an arch, which is cut off there, stays in order around its wheel."""
_ARCH = [(1.2 * a, 1.2 * b) for a, b in _CIRCLE if b > -0.2]
_HUB = [(0.6 * a, 0.6 * b) for a, b in _CIRCLE]


class _Placed:
    """Local metres (along, across, up), the front at positive along, to world points."""

    def __init__(self, x: float, z: float, heading_rad: float, viewer: tuple[float, float]) -> None:
        self._x, self._z = x, z
        self._sin, self._cos = math.sin(heading_rad), math.cos(heading_rad)
        away_x, away_z = viewer[0] - x, viewer[1] - z
        self.is_near = away_x * away_x + away_z * away_z < _DETAIL_M * _DETAIL_M
        self.eye_along = away_x * self._sin + away_z * self._cos
        self.eye_across = away_x * self._cos - away_z * self._sin

    def point(self, along: float, across: float, up: float) -> Vector:
        return (
            self._x + along * self._sin + across * self._cos,
            up,
            self._z + along * self._cos - across * self._sin,
        )


def footprint(body: Body, heading_rad: float) -> tuple[float, float]:
    """Give half of a car's extent across the street and along it, in metres."""
    sine, cosine = abs(math.sin(heading_rad)), abs(math.cos(heading_rad))
    half_length, half_width = body.length_m / 2, body.width_m / 2
    return half_length * sine + half_width * cosine, half_length * cosine + half_width * sine


def park_car(
    scene: Scene, dice: Dice, body: Body, x: float, z: float, heading_rad: float, *, drives: bool
) -> None:
    """Add a car whose middle is at x across and z along the street, in metres.

    At heading 0 it looks along the street away from the camera; headings turn to the right. The
    lights of one that drives burn when lamps are on.
    """
    half_x, half_z = footprint(body, heading_rad)
    scene.begin((x - half_x, x + half_x), (z - half_z, z + half_z))
    at = _Placed(x, z, heading_rad, scene.viewer)
    colour = car(dice)
    paint = Paint(Category.CAR, colour)
    if at.is_near:
        _wheel_blocks(scene, at, body)
    is_long_box = body.length_m > 7
    nose_drop = 0.05 if is_long_box else dice.uniform(0.08, 0.2)
    half = body.length_m / 2
    belt, low = body.belt_m, body.clearance_m
    profile = [
        (-half, low), (-half - 0.0, belt - 0.12), (-half + 0.06, belt),
        (half - 0.25 if not is_long_box else half, belt - nose_drop),
        (half, belt - nose_drop - 0.22), (half, low),
    ]  # fmt: skip
    normals = _extrude(scene, at, profile, (body.width_m / 2, body.width_m / 2), paint)
    _ends(scene, at, body, normals, nose_drop, colour, drives=drives)
    _wheels(scene, at, body)
    if body.length_m == BODIES["lorry"].length_m:
        _load(scene, dice, at, body)
    _cabin(scene, dice, at, body, paint)


def _extrude(
    scene: Scene,
    at: _Placed,
    profile: Sequence[tuple[float, float]],
    half_widths: tuple[float, float],
    paint: Paint,
) -> list[Vector]:
    """Add the body with a side outline; its half width goes from the first point's to the top's."""
    base, top = half_widths
    low, high = min(up for _, up in profile), max(up for _, up in profile)
    count = len(profile)
    corners = []
    for side in (-1, 1):
        for along, up in profile:
            part = (up - low) / (high - low)
            corners.append(at.point(along, side * (base + (top - base) * part), up))
    left, right = tuple(range(count)), tuple(range(count, 2 * count))
    # The strip from the last point back to the first is the underside: nobody sees it.
    strips = [(n, n + 1, n + 1 + count, n + count) for n in range(count - 1)]
    lower = paint._replace(colour=scaled(paint.colour, 0.9))
    return scene.solid(corners, [left, right, *strips], [lower, lower, *([paint] * len(strips))])


def _cabin(scene: Scene, dice: Dice, at: _Placed, body: Body, paint: Paint) -> None:
    """Add roof, pillars and windows on the lower body."""
    half, wide = body.length_m / 2, body.width_m / 2
    foot = [-half + share * body.length_m for share in body.cabin]
    top = [-half + share * body.length_m for share in body.roof]
    belt, height = body.belt_m - 0.01, body.height_m
    narrow = wide * (0.98 if body.height_m > 1.9 else 0.82)
    profile = [(foot[0], belt), (top[0], height), (top[1], height), (foot[1], belt)]
    normals = _extrude(scene, at, profile, (wide * 0.98, narrow), paint)
    tint = scaled(GLASS, dice.uniform(0.7, 1.3))
    glass = Paint(Category.CAR, tint, Material.GLASS)
    for side, normal in ((-1, normals[0]), (1, normals[1])):
        if side * at.eye_across < wide * 0.8:
            continue
        face = [
            at.point(foot[0], side * wide * 0.98, belt),
            at.point(foot[1], side * wide * 0.98, belt),
            at.point(top[1], side * narrow, height),
            at.point(top[0], side * narrow, height),
        ]
        for low, high in _panes(body):
            scene.polygon(
                _part(face, low, high, 0.1, 0.86), glass, normal, one_sided=True, casts=False
            )
    has_rear = body.windows > 0 or dice.chance(0.4)
    for end, normal in ((0, normals[2]), (1, normals[4])):
        if (end == 0 and not has_rear) or (2 * end - 1) * at.eye_along < 0:
            continue
        face = [
            at.point(foot[end], -wide * 0.98, belt), at.point(foot[end], wide * 0.98, belt),
            at.point(top[end], narrow, height), at.point(top[end], -narrow, height),
        ]  # fmt: skip
        low = 0.12 if end == 0 else 0.06
        scene.polygon(
            _part(face, 0.08, 0.92, low, 0.88), glass, normal, one_sided=True, casts=False
        )


def _panes(body: Body) -> list[tuple[float, float]]:
    """Divide a side into windows, as shares of its length from the rear."""
    if body.windows == 0:
        return [(0.72, 0.95)]
    start, end = (0.06, 0.95)
    step = (end - start) / body.windows
    return [(start + step * n + 0.012, start + step * (n + 1) - 0.012) for n in range(body.windows)]


def _part(
    face: Sequence[Vector], low_a: float, high_a: float, low_b: float, high_b: float
) -> list[Vector]:
    """Cut a part out of a four-cornered face: shares along its foot (a) and up its sides (b)."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz), (dx, dy, dz) = face
    cut = []
    for a, b in ((low_a, low_b), (high_a, low_b), (high_a, high_b), (low_a, high_b)):
        wa, wb, wc, wd = (1 - a) * (1 - b), a * (1 - b), a * b, (1 - a) * b
        cut.append(
            (
                ax * wa + bx * wb + cx * wc + dx * wd,
                ay * wa + by * wb + cy * wc + dy * wd,
                az * wa + bz * wb + cz * wc + dz * wd,
            )
        )
    return cut


def _ends(
    scene: Scene,
    at: _Placed,
    body: Body,
    normals: list[Vector],
    nose_drop: float,
    colour: Colour,
    *,
    drives: bool,
) -> None:
    """Put lights, number plates, bumpers and a grille on the rear and the front."""
    half, wide, low = body.length_m / 2, body.width_m / 2, body.clearance_m
    rear_top, front_top = body.belt_m - 0.12, body.belt_m - nose_drop - 0.22
    rear_lamp = Paint(Category.CAR, (0.72, 0.06, 0.06), emission=1.6 if drives else 0.0)
    head_lamp = Paint(Category.CAR, (0.95, 0.95, 0.88), emission=9.0 if drives else 0.0)
    bumper = Paint(Category.CAR, scaled(colour, 0.55) if half < 2.4 else BLACK)
    plate = Paint(Category.CAR, WHITE)
    # Faces of the lower body: two sides, then five strips from the rear to the nose.
    for along, normal, lamp, top in (
        (-half, normals[2], rear_lamp, rear_top),
        (half, normals[6], head_lamp, front_top),
    ):
        if along * at.eye_along < half * half:
            continue
        rows = [
            (-wide + 0.05, -wide + 0.42, top - 0.2, top - 0.02, lamp),
            (wide - 0.42, wide - 0.05, top - 0.2, top - 0.02, lamp),
            (-wide, wide, low, low + 0.2, bumper),
        ]
        if at.is_near:
            rows.append((-0.26, 0.26, low + 0.2, low + 0.32, plate))
        if at.is_near and along > 0:
            rows.append((-wide * 0.45, wide * 0.45, top - 0.16, top - 0.03, bumper))
        for left, right, foot, head, paint in rows:
            outline = [
                at.point(along, left, foot), at.point(along, right, foot),
                at.point(along, right, head), at.point(along, left, head),
            ]  # fmt: skip
            scene.polygon(outline, paint, normal, one_sided=True, casts=False)


def _axles(body: Body) -> tuple[float, float, float]:
    half = body.length_m / 2
    radius = 0.31 if body.length_m < 5.5 else 0.46
    return -half * 0.62, half * 0.64, radius


def _wheel_blocks(scene: Scene, at: _Placed, body: Body) -> None:
    """Add what is seen of the tyres from behind or in front, under the body."""
    rear, front, radius = _axles(body)
    wide = body.width_m / 2 - 0.03
    tyre = Paint(Category.CAR, RUBBER)
    reach = radius * 0.7
    for along, side in ((rear, -1), (rear, 1), (front, -1), (front, 1)):
        corners = [
            at.point(a, side * w, u)
            for u in (0.0, body.clearance_m + 0.1)
            for a, w in (
                (along - reach, wide - 0.22),
                (along + reach, wide - 0.22),
                (along + reach, wide),
                (along - reach, wide),
            )
        ]
        scene.solid(corners, [(0, 3, 7, 4) if at.eye_along < 0 else (1, 2, 6, 5)], [tyre])


def _wheels(scene: Scene, at: _Placed, body: Body) -> None:
    rear, front, radius = _axles(body)
    tyre, hub = Paint(Category.CAR, RUBBER), Paint(Category.CAR, STEEL)
    shapes = [(_ARCH, tyre), (_CIRCLE, tyre), (_HUB, hub)] if at.is_near else [(_CIRCLE, tyre)]
    for side in (-1, 1):
        if side * at.eye_across < body.width_m / 2:
            continue
        across = side * body.width_m / 2
        (ox, _, oz), (tx, _, tz) = at.point(0, 0, 0), at.point(0, side, 0)
        normal = (tx - ox, 0.0, tz - oz)
        for along in (rear, front):
            for outline, paint in shapes:
                placed = [
                    at.point(along + radius * a, across, radius * (1 + b)) for a, b in outline
                ]
                scene.polygon(placed, paint, normal, one_sided=True, casts=False)


def _load(scene: Scene, dice: Dice, at: _Placed, body: Body) -> None:
    """Add a lorry's box behind its cab."""
    half, wide = body.length_m / 2, body.width_m / 2
    colour = WHITE if dice.chance(0.5) else car(dice)
    top = body.height_m + 0.25
    front = half * 0.42
    profile = [(-half, 0.75), (-half, top), (front, top), (front, 0.75)]
    _extrude(scene, at, profile, (wide, wide), Paint(Category.CAR, colour))
