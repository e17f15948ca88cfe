"""Grows trees and hedges: trunks, boughs and ragged crowns of leaf clumps."""

import math
from collections.abc import Callable

from cag_uda.data.rendering.camera import Vector
from cag_uda.data.rendering.dice import Dice
from cag_uda.data.rendering.palettes import scaled, varied
from cag_uda.data.rendering.surfaces import Category, Colour, Material, Paint, Scene

_OUTLINE = 26
_CIRCLE = [
    (math.cos(2 * math.pi * step / _OUTLINE), math.sin(2 * math.pi * step / _OUTLINE))
    for step in range(_OUTLINE)
]
Flat = Callable[[float, float], Vector]
"""From across and up, in metres, to a point of an upright plane turned towards the viewer."""


def turned_to_viewer(scene: Scene, x: float, z: float) -> Flat:
    """Give the upright plane at a place that faces the scene's viewer.

    Args:
        scene: knows the viewer.
        x: across the street, in metres.
        z: along the street, in metres.

    Returns:
        A map from (metres to the viewer's right, height in metres) to a world point.
    """
    away_x, away_z = x - scene.viewer[0], z - scene.viewer[1]
    size = math.sqrt(away_x * away_x + away_z * away_z) or 1.0
    right_x, right_z = away_z / size, -away_x / size

    def point(across: float, up: float) -> Vector:
        return (x + across * right_x, up, z + across * right_z)

    return point


def plant_tree(
    scene: Scene, dice: Dice, place: tuple[float, float], height: float, colour: Colour
) -> None:
    """Add a tree.

    Args:
        scene: receives the tree.
        dice: random numbers.
        place: x and z of the trunk.
        height: of the whole tree, in metres.
        colour: of its leaves.
    """
    x, z = place
    scene.begin((x - 0.2, x + 0.2), (z - 0.2, z + 0.2))
    flat = turned_to_viewer(scene, x, z)
    form = dice.weighted({"round": 0.6, "slim": 0.2, "cone": 0.2})
    share = dice.uniform(0.62, 0.8) if form != "cone" else 0.88
    radius = height * {"round": 0.34, "slim": 0.17, "cone": 0.22}[form] * dice.uniform(0.85, 1.15)
    base = height * (1 - share)
    bark = Paint(Category.TREE, varied(dice, (0.33, 0.26, 0.2), 0.06))
    thick = 0.05 + height * 0.022
    fork = base + height * share * 0.35
    scene.polygon(
        [flat(-thick, 0), flat(thick, 0), flat(thick * 0.5, fork), flat(-thick * 0.5, fork)], bark
    )
    for side in (-1, 1):
        reach = side * radius * dice.uniform(0.3, 0.6)
        low, high = base * dice.uniform(0.8, 1.1), fork + height * 0.1
        scene.polygon(
            [flat(-0.05, low), flat(0.08, low), flat(reach + 0.04, high), flat(reach, high)], bark
        )
    # Seen by the sun alone: a clump turned to the viewer throws no shadow on a sun from the side.
    _crosswise(scene, place, base, height, radius, bark)
    leaf = Paint(Category.TREE, colour, Material.FOLIAGE, numbers=(dice.uniform(3.0, 6.0),))
    for across, up, size in _clumps(dice, form, base, height, radius):
        _clump(scene, dice, flat, (across, up, size), (radius, base, height), leaf)


def plant_hedge(
    scene: Scene,
    dice: Dice,
    x: tuple[float, float],
    z: tuple[float, float],
    height: float,
    colour: Colour,
) -> None:
    """Add a hedge along the street, its top uneven.

    Args:
        scene: receives the hedge.
        dice: random numbers.
        x: the two faces of the hedge, the one towards the road first.
        z: from and to, along the street.
        height: in metres.
        colour: of its leaves.
    """
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


def _clumps(
    dice: Dice, form: str, base: float, height: float, radius: float
) -> list[tuple[float, float, float]]:
    """Place the clumps of a crown: across, up, size; the last lie in front."""
    tall = height - base
    placed = []
    if form == "cone":
        for step in range(6):
            part = step / 6
            size = radius * (1.05 - part) * 0.75
            for side in (-1, 1):
                across = side * size * dice.uniform(0.5, 0.7)
                placed.append((across, base + tall * (part + 0.04), size * 0.8))
        placed.append((0.0, height - radius * 0.3, radius * 0.25))
        return placed
    middle, half = base + tall / 2, tall / 2
    for _ in range(5 if form == "slim" else 7):
        angle, reach = dice.uniform(0, 2 * math.pi), dice.uniform(0.45, 0.62)
        across, up = math.cos(angle) * reach * radius, middle + math.sin(angle) * reach * half
        placed.append((across, up, radius * dice.uniform(0.42, 0.58)))
    placed.append((0.0, middle, radius * 0.78))
    for _ in range(5):
        across = dice.uniform(-0.45, 0.45) * radius
        up = middle + dice.uniform(-0.4, 0.55) * half
        placed.append((across, up, radius * dice.uniform(0.3, 0.45)))
    return placed


def _clump(
    scene: Scene,
    dice: Dice,
    flat: Flat,
    place: tuple[float, float, float],
    crown: tuple[float, float, float],
    leaf: Paint,
) -> None:
    """Add one ragged clump, lighter the higher it sits, lit as part of a rounded crown."""
    across, up, size = place
    radius, base, height = crown
    first, second = dice.uniform(0, 6.3), dice.uniform(0, 6.3)
    rim = []
    for step, (cosine, sine) in enumerate(_CIRCLE):
        angle = 6.2832 * step / _OUTLINE
        wave = 1 + 0.09 * math.sin(4 * angle + first) + 0.06 * math.sin(7 * angle + second)
        reach = size * (wave + dice.uniform(-0.1, 0.1))
        rim.append(flat(across + cosine * reach, max(0.1, up + sine * reach)))
    level = (up - base) / (height - base)
    colour = varied(dice, scaled(leaf.colour, 0.62 + 0.5 * level), 0.035)
    outward_x, outward_y = across / radius, 2 * level - 0.6
    (right_x, _, right_z), (origin_x, _, origin_z) = flat(1.0, 0.0), flat(0.0, 0.0)
    right_x, right_z = right_x - origin_x, right_z - origin_z
    x, y, z = (
        outward_x * right_x + right_z * 0.6,
        outward_y,
        outward_x * right_z - right_x * 0.6,
    )
    length = math.sqrt(x * x + y * y + z * z) or 1.0
    scene.polygon(rim, leaf._replace(colour=colour), (x / length, y / length, z / length))


def _crosswise(
    scene: Scene,
    place: tuple[float, float],
    base: float,
    height: float,
    radius: float,
    bark: Paint,
) -> None:
    x, z = place
    away = turned_to_viewer(scene, x, z)
    (right_x, _, right_z) = away(1.0, 0.0)
    right_x, right_z = right_x - x, right_z - z
    middle, half = (base + height) / 2, (height - base) / 2
    rim: list[Vector] = [
        (x - right_z * cosine * radius * 0.8, middle + sine * half * 0.9,
         z + right_x * cosine * radius * 0.8)
        for cosine, sine in _CIRCLE[::2]
    ]  # fmt: skip
    scene.polygon(rim, bark)
