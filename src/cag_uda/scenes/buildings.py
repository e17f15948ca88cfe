"""Builds houses: walls with windows, doors and shops, roofs, chimneys and awnings."""

from cag_uda.scenes.camera import Vector
from cag_uda.scenes.dice import Dice
from cag_uda.scenes.palettes import WHITE, blended, cloth, roof, scaled, varied, wall
from cag_uda.scenes.street import KERB_M, Side, Street
from cag_uda.scenes.surfaces import Category, Colour, Material, Paint, Scene, Span

_NEAR_M = 40.0
"""Houses farther than this from the street are seen through gaps: they go without roofs."""


def build_side(scene: Scene, street: Street, side: Side, dice: Dice, theme: str) -> None:
    """Line one side of the street with houses, gaps and side streets between them."""
    is_city = street.kind == "city"
    storeys = dice.integer(2, 6) if is_city else dice.integer(1, 3)
    for low, high in side.stretches(min(street.end_m, 190.0) - 2.0, corner_m=side_margin(side)):
        z = low
        while z < high - 4.0:
            width = dice.uniform(7.0, 18.0) if is_city else dice.uniform(6.5, 12.0)
            width = min(width, high - z)
            here = max(1, storeys + dice.integer(-1, 2))
            depth = dice.uniform(8.0, 12.0)
            _house(scene, dice, side, (z, z + width), (side.building_m, depth), here, theme)
            z += width
            if not dice.chance(0.75 if is_city else 0.35):
                z += dice.uniform(1.0, 3.0) if is_city else dice.uniform(2.0, 8.0)
    # What closes the view through gaps and side streets.
    z = -20.0
    while z < 160.0:
        width = dice.uniform(14.0, 30.0)
        if dice.chance(0.8):
            _house(scene, dice, side, (z, z + width), (47.0, 10.0), max(1, storeys), theme)
        z += width


def side_margin(side: Side) -> float:
    """Tell how far houses stay off a side street: the width of its pavement."""
    return min(2.5, side.front_m - side.kerb_m)


def build_end(scene: Scene, street: Street, dice: Dice, theme: str) -> None:
    """Close the street's far end with a row of houses across it."""
    x = -70.0
    storeys = dice.integer(2, 5)
    while x < 70.0:
        width = dice.uniform(8.0, 18.0)
        z = street.end_m + 11.0
        _block(
            scene, dice, (x, x + width), (z, z + 10.0), max(1, storeys + dice.integer(-1, 1)), theme
        )
        x += width + (dice.uniform(1.0, 5.0) if dice.chance(0.2) else 0.0)


def _house(
    scene: Scene, dice: Dice, side: Side, along: Span, across: Span, storeys: int, theme: str
) -> None:
    front, depth = across
    inner, outer = side.sign * front, side.sign * (front + depth)
    wall_paint = _block(
        scene, dice, (min(inner, outer), max(inner, outer)), along, storeys, theme, faces=side.sign
    )
    is_shop = wall_paint.numbers[6] > 0
    if is_shop and dice.chance(0.55) and front < 30:
        _awning(scene, dice, side, along, front)


def _block(
    scene: Scene, dice: Dice, x: Span, z: Span, storeys: int, theme: str, faces: int = 0
) -> Paint:
    """Add one house with its roof; give its paint.

    `faces` is the side of the street that it stands on, 0 for the street's end.
    """
    scene.begin(x, z)
    storey_m = dice.uniform(2.7, 3.4)
    is_shop = dice.chance(0.45 if storeys > 1 else 0.1)
    ground_m = dice.uniform(3.3, 4.2) if is_shop else storey_m
    height = ground_m + storey_m * (storeys - 1) + dice.uniform(0.5, 0.9)
    colour = wall(dice, theme)
    trim = varied(dice, WHITE, 0.08) if dice.chance(0.6) else scaled(colour, dice.uniform(0.6, 1.3))
    is_office = storeys > 3 and dice.chance(0.35)
    numbers = (
        dice.uniform(1.5, 2.4) if is_office else dice.uniform(2.0, 3.4),
        storey_m,
        dice.uniform(0.7, 0.95) if is_office else dice.uniform(0.32, 0.55),
        dice.uniform(0.45, 0.75) if is_office else dice.uniform(0.4, 0.6),
        ground_m,
        height,
        1.0 if is_shop else 0.0,
        float(dice.integer(1, 4000)),
    )
    facade = Paint(Category.BUILDING, colour, Material.FACADE, trim, numbers)
    bare = facade._replace(material=Material.PLAIN)
    top = bare._replace(colour=scaled(colour, 0.7))
    (x0, x1), (z0, z1) = x, z
    low, high = (x0, 0.0, z0), (x1, height, z1)
    gable = facade if dice.chance(0.4) else bare
    front = facade if faces == 0 else gable
    scene.block(low, high, [front, facade, gable, facade, top])
    if x0 > _NEAR_M or x1 < -_NEAR_M:
        return facade
    if storeys <= 3 and dice.chance(0.75):
        along_street = faces != 0 and dice.chance(0.7)
        _pitched_roof(scene, dice, low, high, colour, along_street=along_street)
    elif dice.chance(0.5):
        inset = dice.uniform(0.2, 0.35)
        ax, az = (x1 - x0) * inset, (z1 - z0) * inset
        shed = bare._replace(colour=varied(dice, (0.5, 0.5, 0.52), 0.1))
        top_m = height + dice.uniform(1.2, 2.8)
        scene.box((x0 + ax, height, z0 + az), (x1 - ax, top_m, z1 - az), shed)
    return facade


def _pitched_roof(
    scene: Scene, dice: Dice, low: Vector, high: Vector, wall_colour: Colour, *, along_street: bool
) -> None:
    (x0, _, z0), (x1, y, z1) = low, high
    rise, over = dice.uniform(1.6, 3.6), 0.35
    tiles = Paint(Category.BUILDING, roof(dice), Material.ROOF)
    gable = Paint(Category.BUILDING, scaled(wall_colour, 0.97))
    hip = dice.uniform(0.0, 0.35) if dice.chance(0.3) else 0.0
    if along_street:
        middle, cut = (x0 + x1) / 2, hip * (z1 - z0)
        ridge = [(middle, y + rise, z0 + cut), (middle, y + rise, z1 - cut)]
        eaves = [
            (x0 - over, y - 0.1, z0), (x0 - over, y - 0.1, z1),
            (x1 + over, y - 0.1, z1), (x1 + over, y - 0.1, z0),
        ]  # fmt: skip
    else:
        middle, cut = (z0 + z1) / 2, hip * (x1 - x0)
        ridge = [(x0 + cut, y + rise, middle), (x1 - cut, y + rise, middle)]
        eaves = [
            (x0, y - 0.1, z0 - 0.1), (x1, y - 0.1, z0 - 0.1),
            (x1, y - 0.1, z1), (x0, y - 0.1, z1),
        ]  # fmt: skip
    ends = tiles if hip else gable
    body = [*eaves, *ridge]
    scene.solid(
        body, [(0, 1, 5, 4), (2, 3, 4, 5), (3, 0, 4), (1, 2, 5)], [tiles, tiles, ends, ends]
    )
    if dice.chance(0.5):
        stack = Paint(Category.BUILDING, blended(wall_colour, (0.45, 0.3, 0.25), 0.5))
        x, _, z = ridge[0]
        x, z = x + (0.0 if along_street else 0.6), z + (0.8 if along_street else 0.0)
        scene.box((x - 0.4, y + rise * 0.6, z - 0.4), (x + 0.4, y + rise + 0.9, z + 0.4), stack)


def _awning(scene: Scene, dice: Dice, side: Side, along: Span, front: float) -> None:
    """Add a sloping awning over a shop, with a hanging edge."""
    out = min(dice.uniform(0.8, 1.3), side.front_m - side.walk_m)
    low, high = along[0] + 0.5, along[1] - 0.5
    wall_x, edge_x = side.sign * front, side.sign * (front - out)
    top, edge, hem = KERB_M + 3.0, KERB_M + 2.45, KERB_M + 2.2
    paint = Paint(
        Category.BUILDING, cloth(dice), Material.STRIPES, WHITE, (dice.uniform(0.4, 0.9),)
    )
    if dice.chance(0.4):
        paint = paint._replace(material=Material.PLAIN)
    slope: list[Vector] = [
        (edge_x, edge, low), (edge_x, edge, high), (wall_x, top, high), (wall_x, top, low),
    ]  # fmt: skip
    hanging: list[Vector] = [
        (edge_x, edge, low), (edge_x, edge, high), (edge_x, hem, high), (edge_x, hem, low),
    ]  # fmt: skip
    cheek: list[Vector] = [(edge_x, edge, low), (wall_x, top, low), (wall_x, edge, low)]
    shade = paint._replace(colour=scaled(paint.colour, 0.8), material=Material.PLAIN)
    scene.polygon(cheek, shade, (0.0, 0.0, -1.0), one_sided=True)
    scene.polygon(slope, paint, (-side.sign * 0.5, 0.866, 0.0))
    scene.polygon(hanging, paint, (-float(side.sign), 0.0, 0.0))
