"""Grows trees and hedges: trunks, boughs and ragged crowns of leaf clumps."""

import math

from cag_uda.scenes.camera import Vector
from cag_uda.scenes.dice import Dice
from cag_uda.scenes.palettes import scaled, varied
from cag_uda.scenes.surfaces import Category, Colour, Flat, Material, Paint, Scene, Span

Extent = tuple[float, float, float]
"""Heights of a crown's foot and top, and its radius, in metres."""
_CIRCLES = {
    count: [
        tuple(
            wave(k * 2 * math.pi * step / count) for k in (1, 4, 7) for wave in (math.cos, math.sin)
        )
        for step in range(count)
    ]
    for count in (10, 16, 28)
}
"""Cosine and sine of each point's angle, of four and of seven times that, by number of points."""


def plant_tree(
    scene: Scene, dice: Dice, place: tuple[float, float], height: float, colour: Colour
) -> None:
    """Add a tree; a distant one has fewer and plainer clumps."""
    x, z = place
    scene.begin((x - 0.2, x + 0.2), (z - 0.2, z + 0.2))
    flat = scene.turned_to_viewer(x, z)
    form = dice.weighted({"round": 0.62, "slim": 0.18, "fir": 0.2})
    share = dice.uniform(0.62, 0.8) if form != "fir" else 0.9
    radius = height * {"round": 0.34, "slim": 0.17, "fir": 0.23}[form] * dice.uniform(0.85, 1.15)
    base = height * (1 - share)
    bark = Paint(Category.TREE, varied(dice, (0.33, 0.26, 0.2), 0.06))
    thick = 0.04 + height * 0.016
    fork = base + height * share * 0.35
    scene.polygon(
        [flat(-thick, 0), flat(thick, 0), flat(thick * 0.5, fork), flat(-thick * 0.5, fork)], bark
    )
    # For the sun alone: a flat tree turned to the viewer has no shadow where the sun is sideways.
    _crosswise(scene, place, (base, height, radius), bark)
    leaf = Paint(Category.TREE, colour, Material.FOLIAGE, numbers=(dice.uniform(1.6, 2.8),))
    crown = _Crown(scene, dice, flat, (base, height, radius), leaf, detail=_detail(scene, place))
    if form == "fir":
        crown.tiers()
        return
    for side in (-1, 1):
        reach = side * radius * dice.uniform(0.3, 0.6)
        low, high = base * dice.uniform(0.8, 1.1), fork + height * 0.1
        scene.polygon(
            [flat(-0.05, low), flat(0.08, low), flat(reach + 0.04, high), flat(reach, high)], bark
        )
    crown.clumps(5 if form == "slim" else 7)


def plant_hedge(scene: Scene, dice: Dice, x: Span, z: Span, height: float, colour: Colour) -> None:
    """Add a hedge along the street, its top uneven; the first `x` is of the face to the road."""
    scene.begin(x, z)
    paint = Paint(Category.TREE, colour, Material.FOLIAGE, numbers=(dice.uniform(4.0, 7.0),))
    low, high = (min(x), 0.0, z[0]), (max(x), height - 0.08, z[1])
    scene.box(low, high, paint, top=paint._replace(colour=scaled(colour, 1.15)))
    count = max(3, int((z[1] - z[0]) / 0.5))
    step = (z[1] - z[0]) / count
    top: list[Vector] = [
        (x[0], height + dice.uniform(-0.12, 0.1), z[0] + step * number)
        for number in range(count + 1)
    ]
    scene.polygon([*top, (x[0], 0.0, z[1]), (x[0], 0.0, z[0])], paint)


def _detail(scene: Scene, place: tuple[float, float]) -> int:
    """Choose how finely to draw by distance: 0 far, 1 middling, 2 near."""
    away_x, away_z = place[0] - scene.viewer[0], place[1] - scene.viewer[1]
    square = away_x * away_x + away_z * away_z
    return 2 if square < 22.0**2 else 1 if square < 48.0**2 else 0


class _Crown:
    """The leaves of one tree, between the heights `base` and `height`."""

    def __init__(
        self, scene: Scene, dice: Dice, flat: Flat, extent: Extent, leaf: Paint, *, detail: int
    ) -> None:
        self._scene, self._dice, self._flat, self._leaf = scene, dice, flat, leaf
        self._base, self._height, self._radius = extent
        self._detail = detail
        (right_x, _, right_z), (origin_x, _, origin_z) = flat(1.0, 0.0), flat(0.0, 0.0)
        self._right = (right_x - origin_x, right_z - origin_z)

    def clumps(self, count: int) -> None:
        """Add overlapping clumps: a ring, the middle, then small ones in front."""
        dice, radius = self._dice, self._radius
        count = count if self._detail else 4
        middle, half = (self._base + self._height) / 2, (self._height - self._base) / 2
        for number in range(count):
            angle = 2 * math.pi * (number + dice.uniform(-0.3, 0.3)) / count
            reach = dice.uniform(0.45, 0.62)
            across, up = math.cos(angle) * reach * radius, middle + math.sin(angle) * reach * half
            self._clump(across, up, radius * dice.uniform(0.42, 0.58))
        self._clump(0.0, middle, radius * 0.78)
        for _ in range((0, 4, 9)[self._detail]):
            angle, reach = dice.uniform(0, 2 * math.pi), dice.uniform(0.1, 0.7)
            across, up = math.cos(angle) * reach * radius, middle + math.sin(angle) * reach * half
            self._clump(across, up, radius * dice.uniform(0.2, 0.36))

    def tiers(self) -> None:
        """Add the boughs of a fir, each tier over the one below."""
        dice, count = self._dice, (3, 5, 7)[self._detail]
        tall = self._height - self._base
        for number in range(count):
            part = number / count
            foot = self._base + tall * part
            top = min(self._height, foot + tall * 1.7 / count)
            half = self._radius * (1.05 - part)
            fringe = (4, 6, 8)[self._detail]
            rim = [(0.0, top)]
            for step in range(fringe + 1):
                across = half * (1 - 2 * step / fringe)
                droop = 0.25 * tall / count * (step % 2) + dice.uniform(0.0, 0.1)
                rim.append((across, foot + droop + 0.1 * half * (1 - abs(across) / half)))
            self._add(rim, 0.0, (foot + top) / 2)

    def _clump(self, across: float, up: float, size: float) -> None:
        unit = self._dice.unit
        four_a, four_b, seven_a, seven_b = (size * 0.18 * (unit() - 0.5) for _ in range(4))
        rim = []
        for cosine, sine, cos_4, sin_4, cos_7, sin_7 in _CIRCLES[(10, 16, 28)[self._detail]]:
            wave = four_a * cos_4 + four_b * sin_4 + seven_a * cos_7 + seven_b * sin_7
            reach = size * (0.92 + 0.16 * unit()) + wave
            rim.append((across + cosine * reach, max(0.1, up + sine * reach)))
        self._add(rim, across, up)

    def _add(self, rim: list[tuple[float, float]], across: float, up: float) -> None:
        """Add leaves, lighter the higher they are, lit as part of a rounded crown."""
        level = (up - self._base) / (self._height - self._base)
        colour = varied(self._dice, scaled(self._leaf.colour, 0.72 + 0.42 * level), 0.035)
        right_x, right_z = self._right
        outward = across / self._radius
        x, z = outward * right_x + right_z * 0.6, outward * right_z - right_x * 0.6
        y = 2 * level - 0.5
        size = math.sqrt(x * x + y * y + z * z) or 1.0
        flat = self._flat
        outline = [flat(a, b) for a, b in rim]
        self._scene.polygon(
            outline, self._leaf._replace(colour=colour), (x / size, y / size, z / size)
        )


def _crosswise(scene: Scene, place: tuple[float, float], extent: Extent, bark: Paint) -> None:
    """Add an oval along the line of sight: the viewer sees it edge-on, behind the leaves."""
    (x, z), (base, height, radius) = place, extent
    (right_x, _, right_z) = scene.turned_to_viewer(x, z)(1.0, 0.0)
    right_x, right_z = right_x - x, right_z - z
    middle, half = (base + height) / 2, (height - base) / 2
    rim: list[Vector] = [
        (x - right_z * cosine * radius * 0.8, middle + sine * half * 0.85,
         z + right_x * cosine * radius * 0.8)
        for cosine, sine, *_ in _CIRCLES[10]
    ]  # fmt: skip
    scene.polygon(rim, bark)
