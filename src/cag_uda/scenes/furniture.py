"""Puts up poles, street lamps, bollards, traffic lights and traffic signs.

Each stands at x across and z along the street, in metres.
"""

import math

from cag_uda.scenes.dice import Dice
from cag_uda.scenes.palettes import (
    BLACK,
    SIGNAL_BLUE,
    SIGNAL_GREEN,
    SIGNAL_RED,
    SIGNAL_YELLOW,
    STEEL,
    WHITE,
    scaled,
    varied,
)
from cag_uda.scenes.people import CIRCLE
from cag_uda.scenes.street import KERB_M
from cag_uda.scenes.surfaces import Category, Colour, Flat, Paint, Scene

_SHAPES: dict[str, list[tuple[float, float]]] = {
    "disc": CIRCLE,
    "triangle": [(-1.0, -0.75), (1.0, -0.75), (0.0, 0.98)],
    "yield": [(-1.0, 0.75), (1.0, 0.75), (0.0, -0.98)],
    "octagon": [(math.cos((a + 0.5) * math.pi / 4), math.sin((a + 0.5) * math.pi / 4))
                for a in range(8)],
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "diamond": [(0.0, -1.05), (1.05, 0.0), (0.0, 1.05), (-1.05, 0.0)],
    "board": [(-1.9, -0.8), (1.9, -0.8), (1.9, 0.8), (-1.9, 0.8)],
    "arrow": [(-1.7, -0.5), (1.2, -0.5), (1.75, 0.0), (1.2, 0.5), (-1.7, 0.5)],
    "bar": [(-0.7, -0.18), (0.7, -0.18), (0.7, 0.18), (-0.7, 0.18)],
    "upright": [(-0.16, -0.55), (0.16, -0.55), (0.16, 0.55), (-0.16, 0.55)],
}  # fmt: skip
Sign = tuple[str, Colour, Colour, str, Colour]
"""Shape, rim, face, mark, colour of the mark."""
_SIGNS: tuple[Sign, ...] = (
    ("disc", SIGNAL_RED, WHITE, "upright", BLACK),
    ("disc", SIGNAL_RED, SIGNAL_BLUE, "bar", SIGNAL_RED),
    ("disc", WHITE, SIGNAL_BLUE, "upright", WHITE),
    ("disc", WHITE, SIGNAL_RED, "bar", WHITE),
    ("triangle", SIGNAL_RED, WHITE, "upright", BLACK),
    ("triangle", SIGNAL_RED, SIGNAL_YELLOW, "upright", BLACK),
    ("yield", SIGNAL_RED, WHITE, "", WHITE),
    ("octagon", WHITE, SIGNAL_RED, "bar", WHITE),
    ("square", WHITE, SIGNAL_BLUE, "upright", WHITE),
    ("square", BLACK, WHITE, "bar", BLACK),
    ("diamond", WHITE, SIGNAL_YELLOW, "", WHITE),
    ("diamond", BLACK, SIGNAL_YELLOW, "upright", BLACK),
    ("board", WHITE, SIGNAL_GREEN, "bar", WHITE),
    ("board", WHITE, SIGNAL_BLUE, "bar", WHITE),
    ("arrow", BLACK, WHITE, "bar", BLACK),
)


def put_lamp(scene: Scene, dice: Dice, x: float, z: float, sign: int, height: float) -> None:
    """Add a street lamp whose arm hangs over the road; it lights the street when lamps are on.

    `sign` is the side of the street: -1 left, 1 right.
    """
    colour = dice.pick((STEEL, (0.2, 0.24, 0.22), (0.36, 0.38, 0.4), BLACK))
    paint = Paint(Category.POLE, varied(dice, colour, 0.04))
    flat = _post(scene, x, z, height, 0.075, paint)
    low, high = height - 0.12, height
    reach = dice.uniform(0.8, 1.8)
    tip = x - sign * reach
    arm = [(x, low, z), (tip, high + 0.12, z), (tip, high + 0.26, z), (x, low + 0.2, z)]
    scene.polygon(arm, paint)
    warm = varied(dice, (1.0, 0.82, 0.55), 0.08)
    head = Paint(Category.POLE, warm, emission=3.0)
    scene.box((tip - 0.35, high + 0.02, z - 0.14), (tip + 0.3, high + 0.12, z + 0.14), head)
    scene.box((tip - 0.36, high + 0.12, z - 0.15), (tip + 0.32, high + 0.24, z + 0.15), paint)
    _strip(scene, flat, paint, (0.0, 0.12), (0.8, 0.11))
    scene.lamps.append((tip, high, z))


def put_pole(scene: Scene, dice: Dice, x: float, z: float) -> None:
    """Add a bare pole: a utility pole with a crossbar, or a low bollard."""
    if dice.chance(0.4):
        paint = Paint(Category.POLE, dice.pick((BLACK, STEEL, varied(dice, WHITE, 0.1))))
        flat = _post(scene, x, z, 1.05, 0.085, paint)
        band = paint._replace(colour=dice.pick((WHITE, SIGNAL_RED, SIGNAL_YELLOW)))
        _strip(scene, flat, band, (0.8, 0.08), (0.93, 0.08))
        return
    wood = Paint(Category.POLE, varied(dice, (0.42, 0.33, 0.25), 0.06))
    height = dice.uniform(6.0, 8.5)
    flat = _post(scene, x, z, height, 0.11, wood)
    for drop in (0.5, 1.2):
        low = height - drop
        _strip(scene, flat, wood, (low, 0.8), (low + 0.13, 0.8))


def put_sign(scene: Scene, dice: Dice, x: float, z: float) -> None:
    """Add a traffic sign on a pole, now and then two above each other or seen from behind."""
    kind = dice.pick(_SIGNS)
    is_wide = kind[0] in ("board", "arrow")
    size = dice.uniform(0.4, 0.58)
    centre = KERB_M + dice.uniform(2.1, 2.7) + size
    scene.begin((x - 0.1, x + 0.1), (z - 0.1, z + 0.1))
    flat = scene.turned_to_viewer(x, z)
    for across in (-size, size) if is_wide else (0.0,):
        low, high = across - 0.045, across + 0.045
        outline = [flat(low, 0.0), flat(high, 0.0), flat(high, centre), flat(low, centre)]
        scene.polygon(outline, Paint(Category.POLE, STEEL))

    is_behind = dice.chance(0.12)
    _plate(scene, flat, centre, size, kind, is_behind=is_behind)
    if not is_wide and dice.chance(0.35):
        _plate(scene, flat, centre - 2.05 * size, size * 0.9, dice.pick(_SIGNS[:12]),
               is_behind=is_behind)  # fmt: skip


def put_traffic_light(scene: Scene, dice: Dice, x: float, z: float) -> None:
    """Add a traffic light; its head counts as a sign, as in CamVid's 11 classes."""
    top = KERB_M + dice.uniform(3.0, 3.6)
    flat = _post(scene, x, z, top, 0.065, Paint(Category.POLE, dice.pick((STEEL, BLACK))))
    low = top - 1.0
    case = Paint(Category.SIGN, BLACK)
    if dice.chance(0.4):
        rim = Paint(Category.SIGN, WHITE)
        _strip(scene, flat, rim, (low - 0.1, 0.28), (top + 0.1, 0.28))
    _strip(scene, flat, case, (low, 0.2), (top, 0.2))
    burning = dice.integer(0, 2)
    colours = ((0.25, 0.95, 0.5), (1.0, 0.75, 0.15), (1.0, 0.16, 0.12))
    for number, colour in enumerate(colours):
        is_on = number == burning
        shown = colour if is_on else scaled(colour, 0.25)
        lens = Paint(Category.SIGN, shown, emission=2.5 if is_on else 0.0)
        centre = low + 0.18 + 0.32 * number
        rim_points = [flat(0.125 * a, centre + 0.125 * b) for a, b in _SHAPES["disc"]]
        scene.polygon(rim_points, lens, casts=False)


def _post(scene: Scene, x: float, z: float, height: float, radius: float, paint: Paint) -> Flat:
    """Start a thing at a place with an upright post, slimmer at the top."""
    scene.begin((x - 0.1, x + 0.1), (z - 0.1, z + 0.1))
    flat = scene.turned_to_viewer(x, z)
    _strip(scene, flat, paint, (0.0, radius), (height, radius * 0.75))
    return flat


def _strip(
    scene: Scene, flat: Flat, paint: Paint, foot: tuple[float, float], top: tuple[float, float]
) -> None:
    """Add an upright strip; its foot and its top are a height and half a width each."""
    (low, wide), (high, slim) = foot, top
    scene.polygon([flat(-wide, low), flat(wide, low), flat(slim, high), flat(-slim, high)], paint)


def _plate(
    scene: Scene, flat: Flat, centre: float, size: float, kind: Sign, *, is_behind: bool
) -> None:
    shape, rim, face, mark, mark_colour = kind

    def outline(name: str, scale: float) -> list[tuple[float, float, float]]:
        return [flat(a * size * scale, centre + b * size * scale) for a, b in _SHAPES[name]]

    if is_behind:
        scene.polygon(outline(shape, 1.0), Paint(Category.SIGN, (0.48, 0.5, 0.52)))
        return
    scene.polygon(outline(shape, 1.0), Paint(Category.SIGN, rim))
    scene.polygon(outline(shape, 0.76), Paint(Category.SIGN, face), casts=False)
    if mark:
        scene.polygon(outline(mark, 0.7), Paint(Category.SIGN, mark_colour), casts=False)
