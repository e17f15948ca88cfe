"""Fills a street: decides what stands, drives and walks where. Knows no pixels and no light."""

import math

from cag_uda.scenes.buildings import build_end, build_side, side_margin
from cag_uda.scenes.camera import Pose
from cag_uda.scenes.cars import footprint, park_car, pick_body
from cag_uda.scenes.dice import Dice
from cag_uda.scenes.fences import KINDS, build_fence
from cag_uda.scenes.furniture import put_lamp, put_pole, put_sign, put_traffic_light
from cag_uda.scenes.ground import lay_ground
from cag_uda.scenes.palettes import green, leaves, wall_theme
from cag_uda.scenes.people import put_cyclist, put_person
from cag_uda.scenes.street import KERB_M, Side, Street
from cag_uda.scenes.surfaces import Scene
from cag_uda.scenes.trees import plant_hedge, plant_tree

_VISIBLE_M = 95.0
"""Small things farther away are left out: they would be less than a pixel."""


def lay_out(dice: Dice) -> tuple[Scene, Pose]:
    """Draw a street scene, which depends on the dice alone, and the pose of a camera in it."""
    street = Street.sample(dice)
    lane = dice.integer(0, street.lanes - 1)
    ego_x = street.drives_on * street.lane_m * (lane + dice.uniform(0.3, 0.7))
    pose = Pose.sample(dice, ego_x)
    scene = Scene(viewer=(ego_x, 0.0))
    theme = wall_theme(dice)
    leaf_season = dice.weighted({"summer": 0.6, "spring": 0.2, "autumn": 0.2})
    lay_ground(scene, street, dice)
    if street.ending == "houses":
        build_end(scene, street, dice, theme)
    elif street.ending == "trees":
        _wood(scene, street, dice, leaf_season)
    for side in street.sides:
        if side.has_buildings:
            build_side(scene, street, side, dice, theme)
        else:
            _park(scene, street, side, dice, leaf_season)
        _fronts(scene, side, dice, leaf_season, street)
        kerb = _Kerb(side)
        _lamps(scene, street, side, dice, kerb)
        _signs(scene, side, dice, kerb)
        _street_trees(scene, street, side, dice, kerb, leaf_season)
        _walkers(scene, side, dice)
        _parked(scene, street, side, dice)
    _traffic(scene, street, dice, ego_x)
    return scene, pose


class _Kerb:
    """The strip along the kerb where posts and trees stand; keeps them apart."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._taken: list[float] = []
        verge = side.walk_m - side.kerb_m
        self.x = side.sign * (side.kerb_m + (verge / 2 if verge > 0 else 0.45))

    def claim(self, z: float, gap_m: float) -> bool:
        """Take a place if it is free and clear of side streets."""
        if not self._side.is_clear(z, 0.6) or any(abs(z - other) < gap_m for other in self._taken):
            return False
        self._taken.append(z)
        return True


def _wood(scene: Scene, street: Street, dice: Dice, leaf_season: str) -> None:
    x = -60.0
    while x < 60.0:
        z = street.end_m + dice.uniform(10.0, 30.0)
        plant_tree(scene, dice, (x, z), dice.uniform(7.0, 14.0), leaves(dice, leaf_season))
        x += dice.uniform(3.0, 7.0)


def _park(scene: Scene, street: Street, side: Side, dice: Dice, leaf_season: str) -> None:
    """Fill a side without houses with trees, thicker at the back."""
    end = min(street.end_m, 150.0)
    x = side.sign * 42.0
    plant_hedge(scene, dice, (x, x + side.sign * 2.0), (-20.0, end), 3.5, green(dice))
    for _ in range(dice.integer(9, 18)):
        place = (side.sign * (side.front_m + dice.uniform(2.0, 28.0)), dice.uniform(5.0, end))
        if side.is_clear(place[1], 2.0):
            plant_tree(scene, dice, place, dice.uniform(5.0, 12.0), leaves(dice, leaf_season))


def _fronts(scene: Scene, side: Side, dice: Dice, leaf_season: str, street: Street) -> None:
    """Put fences and hedges behind the pavement, and trees in the gardens."""
    if side.has_buildings and not side.has_gardens:
        return
    x = side.sign * (side.front_m + 0.15)
    kind = dice.pick(KINDS)
    is_fenced = dice.chance(0.8)
    for low, high in side.stretches(min(street.end_m, 90.0), corner_m=side_margin(side)):
        z = low + 0.5
        while z < high - 3.0:
            length = min(dice.uniform(6.0, 16.0), high - z - 0.5)
            if length > 2.0 and is_fenced and dice.chance(0.75):
                chosen = kind if dice.chance(0.7) or not side.has_gardens else dice.pick(KINDS)
                build_fence(scene, dice, x, side.sign, (z, z + length), chosen)
            elif length > 2.0 and dice.chance(0.6):
                deep = x + side.sign * 0.6
                tall = dice.uniform(0.8, 1.6)
                plant_hedge(scene, dice, (x, deep), (z, z + length), tall, green(dice))
            if side.has_gardens and length > 3.0 and dice.chance(0.4):
                deep = side.front_m + dice.uniform(1.5, side.building_m - side.front_m - 0.8)
                place = (side.sign * deep, z + dice.uniform(1.0, length - 1.0))
                plant_tree(scene, dice, place, dice.uniform(3.0, 7.0), leaves(dice, leaf_season))
            z += length + dice.uniform(1.0, 3.5)


def _lamps(scene: Scene, street: Street, side: Side, dice: Dice, kerb: _Kerb) -> None:
    if not dice.chance(0.85):
        return
    height, every = dice.uniform(5.0, 8.0), dice.uniform(18.0, 32.0)
    z = dice.uniform(4.0, 16.0)
    while z < min(street.end_m, _VISIBLE_M):
        if kerb.claim(z, 1.0):
            put_lamp(scene, dice, kerb.x, z, side.sign, height)
        z += every


def _signs(scene: Scene, side: Side, dice: Dice, kerb: _Kerb) -> None:
    """Put signs, traffic lights at side streets, and poles."""
    for low, _ in side.openings:
        z = low - dice.uniform(0.8, 1.6)
        if z > 5.0 and dice.chance(0.7) and kerb.claim(z, 1.0):
            put = put_traffic_light if dice.chance(0.5) else put_sign
            put(scene, dice, kerb.x, z)
    for _ in range(dice.integer(1, 3)):
        z = 6.0 + 38.0 * dice.unit() * dice.uniform(0.5, 1.0)
        if kerb.claim(z, 1.2):
            put_sign(scene, dice, kerb.x, z)
    for _ in range(dice.integer(0, 2)):
        z = dice.uniform(5.0, 45.0)
        if kerb.claim(z, 1.0):
            put_pole(scene, dice, kerb.x, z)


def _street_trees(
    scene: Scene, street: Street, side: Side, dice: Dice, kerb: _Kerb, leaf_season: str
) -> None:
    chance = {"city": 0.5, "residential": 0.55, "park": 0.6}[street.kind]
    if not dice.chance(chance):
        return
    every, height = dice.uniform(7.0, 16.0), dice.uniform(4.0, 8.5)
    colour = leaves(dice, leaf_season)
    z = dice.uniform(5.0, 14.0)
    while z < min(street.end_m, _VISIBLE_M):
        if dice.chance(0.8) and kerb.claim(z, 1.5):
            own = colour if dice.chance(0.7) else leaves(dice, leaf_season)
            plant_tree(scene, dice, (kerb.x, z), height * dice.uniform(0.85, 1.15), own)
        z += every


def _walkers(scene: Scene, side: Side, dice: Dice) -> None:
    """Put people on the pavement, alone or in small groups."""
    if not dice.chance(0.8):
        return
    low, high = side.walk_m + 0.9, side.front_m - 0.35
    for _ in range(dice.integer(1, 4)):
        z = 5.0 + 35.0 * dice.unit() * dice.uniform(0.4, 1.0)
        x = dice.uniform(low, max(low, high))
        for friend in range(dice.weighted({1: 0.6, 2: 0.3, 3: 0.1})):
            place = z + friend * 0.5
            across = side.sign * min(max(x + friend * 0.25, low - 0.2), high + 0.1)
            if not _is_free(scene, across, place, 0.2):
                continue
            ground = KERB_M if side.is_clear(place, 0.0) else 0.0
            put_person(scene, dice, across, place, ground)


def _parked(scene: Scene, street: Street, side: Side, dice: Dice) -> None:
    """Line the kerb with parked cars, with gaps."""
    if not side.has_parking:
        return
    share = dice.uniform(0.3, 0.9)
    z = dice.uniform(1.0, 9.0)
    while z < min(street.end_m, 75.0):
        body = pick_body(dice, is_parked=True)
        middle = z + body.length_m / 2
        is_clear = side.is_clear(z, 3.0) and side.is_clear(z + body.length_m, 3.0)
        if dice.chance(share) and is_clear:
            x = side.sign * (side.kerb_m - 0.25 - body.width_m / 2)
            heading = 0.0 if side.sign == street.drives_on else math.pi
            heading += math.pi if dice.chance(0.15) else 0.0
            park_car(scene, dice, body, x, middle, heading, drives=False)
        z += body.length_m + dice.uniform(0.7, 2.0)


def _traffic(scene: Scene, street: Street, dice: Dice, ego_x: float) -> None:
    """Put cars and cyclists on the lanes, and people and cars that cross."""
    for direction in (-1, 1):
        is_ours = direction == street.drives_on
        for lane in range(street.lanes):
            x = direction * street.lane_m * (lane + 0.5)
            is_ahead = is_ours and abs(x - ego_x) < street.lane_m * 0.7
            z = dice.uniform(9.0, 40.0) if is_ahead else dice.uniform(4.0, 35.0)
            while z < min(street.end_m - 8.0, 80.0):
                body = pick_body(dice, is_parked=False)
                if dice.chance(0.6):
                    at = (x + dice.uniform(-0.2, 0.2), z + body.length_m / 2)
                    heading = (0.0 if is_ours else math.pi) + dice.uniform(-0.04, 0.04)
                    park_car(scene, dice, body, *at, heading, drives=True)
                z += body.length_m + dice.uniform(7.0, 30.0)
    for side in street.sides:
        _cyclists(scene, street, side, dice)
        for low, high in side.openings:
            if dice.chance(0.4):
                _crossing_car(scene, side, dice, (low + high) / 2)


def _cyclists(scene: Scene, street: Street, side: Side, dice: Dice) -> None:
    """Put cyclists beside the lanes, or now and then across the street."""
    if not dice.chance(0.45):
        return
    edge = side.kerb_m - (2.2 if side.has_parking else 0.0)
    for _ in range(dice.weighted({1: 0.7, 2: 0.3})):
        z = 6.0 + 24.0 * dice.unit() * dice.uniform(0.4, 1.0)
        is_crossing = dice.chance(0.35)
        x = side.sign * (edge - (dice.uniform(0.8, 2.2) if is_crossing else 0.15))
        view = dice.sign() * dice.uniform(0.7, 1.0) if is_crossing else dice.uniform(-0.35, 0.35)
        if _is_free(scene, x, z, 0.85):
            put_cyclist(scene, dice, x, z, view)


def _crossing_car(scene: Scene, side: Side, dice: Dice, z: float) -> None:
    """Put a car into a side street, waiting or leaving."""
    body = pick_body(dice, is_parked=True)
    heading = dice.sign() * math.pi / 2
    half_x, _ = footprint(body, heading)
    x = side.sign * (side.kerb_m + half_x + dice.uniform(0.5, 8.0))
    lane = dice.sign() * 1.5
    park_car(scene, dice, body, x, z + lane, heading, drives=True)


def _is_free(scene: Scene, x: float, z: float, reach_m: float) -> bool:
    return scene.is_free((x - min(reach_m, 0.3), x + min(reach_m, 0.3)), (z - reach_m, z + reach_m))
