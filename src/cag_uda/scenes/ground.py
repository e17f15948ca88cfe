"""Lays the ground: road, side streets, zebra crossings, verges, pavements and their kerbs."""

from cag_uda.scenes.dice import Dice
from cag_uda.scenes.palettes import SIGNAL_YELLOW, WHITE, green, scaled, varied
from cag_uda.scenes.street import BEHIND_M, FAR_M, KERB_M, Side, Street
from cag_uda.scenes.surfaces import Category, Colour, Material, Paint, Scene

_UP = (0.0, 1.0, 0.0)
_WIDE_M = 160.0
_SIDE_STREET_M = 45.0


def lay_ground(scene: Scene, street: Street, dice: Dice) -> None:
    """Add all that lies flat, to be painted before anything that stands.

    Low plants count as trees, as in CamVid's 11 classes.
    """
    grey = dice.uniform(0.27, 0.42)
    asphalt = varied(dice, (grey, grey, grey), 0.02)
    slab = varied(dice, dice.pick(_SLABS), 0.05)
    grass = Paint(Category.TREE, scaled(green(dice), 1.15), Material.GRASS)
    paved = Paint(Category.PAVEMENT, slab, Material.PAVING, numbers=(dice.uniform(0.5, 1.0),))
    marks = varied(dice, SIGNAL_YELLOW if dice.chance(0.25) else WHITE, 0.04)
    # Numbers: middle line (0 none, 1 dashed, 2 solid), dash period, lane width if there are more
    # lanes than one, edge line's offset from either kerb (0 none), kerbs left and right.
    line = dice.weighted({0.0: 0.15, 1.0: 0.6, 2.0: 0.25})
    edge = dice.uniform(0.25, 0.45) if dice.chance(0.4) else 0.0
    numbers = (line, dice.uniform(4.5, 9.0), street.lane_m if street.lanes > 1 else 0.0, edge)
    left, right = (side.sign * side.kerb_m for side in street.sides)
    road = Paint(Category.ROAD, asphalt, Material.ROAD, marks, (*numbers, left, right))
    plain_road = Paint(Category.ROAD, asphalt, Material.ROAD, marks)
    base = grass if street.has_grass else paved
    _flat(scene, -_WIDE_M * 3, _WIDE_M * 3, BEHIND_M, FAR_M * 3, 0.0, base)
    _flat(scene, left, right, BEHIND_M, street.end_m, 0.0, road)
    if street.ending != "open":
        _flat(scene, -_WIDE_M, _WIDE_M, street.end_m, street.end_m + 8.0, 0.0, plain_road)
    for side in street.sides:
        inner, outer = side.sign * (side.kerb_m - 0.3), side.sign * _SIDE_STREET_M
        for low, high in side.openings:
            _flat(scene, inner, outer, low, high, 0.0, plain_road)
    _crossings(scene, street, dice, asphalt, scaled(marks, 1.0))
    for side in street.sides:
        for low, high in side.stretches(street.end_m):
            _pavement(scene, side, low, high, paved, grass)


_SLABS: tuple[Colour, ...] = ((0.63, 0.61, 0.58), (0.56, 0.57, 0.59), (0.70, 0.62, 0.53))


def _flat(scene: Scene, x0: float, x1: float, z0: float, z1: float, y: float, paint: Paint) -> None:
    scene.polygon([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], paint, _UP, casts=False)


def _pavement(
    scene: Scene, side: Side, low: float, high: float, paved: Paint, grass: Paint
) -> None:
    """Add the raised strips of one stretch, and the kerb that bounds them."""
    sign, back = side.sign, _SIDE_STREET_M
    kerb = paved._replace(colour=scaled(paved.colour, 1.12), material=Material.PLAIN)
    x = sign * side.kerb_m
    yard = grass if side.has_gardens or not side.has_buildings else paved
    _flat(scene, sign * side.front_m, sign * back, low, high, KERB_M, yard)
    _flat(scene, sign * side.walk_m, sign * side.front_m, low, high, KERB_M, paved)
    if side.walk_m > side.kerb_m:
        _flat(scene, x, sign * side.walk_m, low, high, KERB_M, grass)
    _flat(scene, x, x + sign * 0.18, low, high, KERB_M, kerb)
    scene.polygon(
        [(x, 0.0, low), (x, 0.0, high), (x, KERB_M, high), (x, KERB_M, low)],
        kerb._replace(colour=scaled(kerb.colour, 0.86)),
        (-sign, 0.0, 0.0),
        casts=False,
    )
    scene.polygon(
        [(x, 0.0, low), (sign * back, 0.0, low), (sign * back, KERB_M, low), (x, KERB_M, low)],
        kerb,
        (0.0, 0.0, -1.0),
        one_sided=True,
        casts=False,
    )


def _crossings(scene: Scene, street: Street, dice: Dice, asphalt: Colour, marks: Colour) -> None:
    """Add zebra crossings and stop lines before side streets, now and then."""
    starts = [low for side in street.sides for low, _ in side.openings]
    if dice.chance(0.3):
        starts.append(dice.uniform(9.0, 28.0))
    paint = Paint(Category.ROAD, marks)
    for start in starts:
        if not dice.chance(0.6):
            continue
        near, far = start - dice.uniform(4.0, 5.0), start - 1.2
        left, right = (side.sign * (side.kerb_m - 0.3) for side in street.sides)
        _flat(scene, left, right, near - 0.3, far + 0.3, 0.0, Paint(Category.ROAD, asphalt))
        count = int((right - left) / 1.0)
        step = (right - left) / count
        stripes = [
            [(x, 0.0, near), (x + step / 2, 0.0, near), (x + step / 2, 0.0, far), (x, 0.0, far)]
            for x in (left + step * (number + 0.25) for number in range(count))
        ]
        scene.polygon(stripes[0], paint, _UP, casts=False, more=stripes[1:])
        if dice.chance(0.6):
            _flat(scene, left, right, near - 1.6, near - 1.2, 0.0, paint)
