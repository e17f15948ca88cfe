"""Draws people on foot and cyclists, as flat jointed figures that face the viewer.

`side` says how far somebody is seen from the side: -1 goes to the left, 0 away, 1 to the right.
"""

import math

from cag_uda.scenes.dice import Dice
from cag_uda.scenes.palettes import BLACK, HAIRS, RUBBER, SKINS, cloth, scaled
from cag_uda.scenes.surfaces import Category, Colour, Flat, Paint, Scene

CIRCLE = [(math.cos(step * math.pi / 8), math.sin(step * math.pi / 8)) for step in range(16)]
"""Points of the unit circle, from the right over the top."""
_HUB_M = 0.34

Joint = tuple[float, float]
"""Metres to the viewer's right of the figure's middle, and height."""


class _Figure:
    """Draws limbs of one figure on its upright plane; lengths in metres."""

    def __init__(self, scene: Scene, flat: Flat, category: Category, raised: float) -> None:
        self._scene, self._flat, self._category, self._raised = scene, flat, category, raised

    def shape(self, outline: list[Joint], colour: Colour, *holes: list[Joint]) -> None:
        """Fill an outline; what further outlines enclose stays open."""
        rims = [[self._flat(a, b + self._raised) for a, b in rim] for rim in (outline, *holes)]
        self._scene.polygon(rims[0], Paint(self._category, colour), more=rims[1:])

    def limb(self, start: Joint, end: Joint, wide: tuple[float, float], colour: Colour) -> None:
        """Fill the quadrilateral between two joints, as wide as given at either."""
        along, up = end[0] - start[0], end[1] - start[1]
        size = math.sqrt(along * along + up * up) or 1.0
        a, b = -up / size / 2, along / size / 2
        self.shape(
            [
                (start[0] + a * wide[0], start[1] + b * wide[0]),
                (end[0] + a * wide[1], end[1] + b * wide[1]),
                (end[0] - a * wide[1], end[1] - b * wide[1]),
                (start[0] - a * wide[0], start[1] - b * wide[0]),
            ],
            colour,
        )

    def oval(self, centre: Joint, half: Joint, colour: Colour) -> None:
        self.shape([(centre[0] + half[0] * a, centre[1] + half[1] * b) for a, b in CIRCLE], colour)

    def ring(self, centre: Joint, half: Joint, thick: float, colour: Colour) -> None:
        """Fill what lies between two ovals."""
        inner = (max(half[0] - thick, half[0] * 0.2), half[1] - thick)
        rims = [
            [(centre[0] + size[0] * a, centre[1] + size[1] * b) for a, b in CIRCLE]
            for size in (half, inner)
        ]
        self.shape(rims[0], colour, rims[1])

    def head(self, dice: Dice, centre: Joint, size: float, turn: float, face: Colour) -> None:
        """Draw a head with hair or a cap; `turn` > 0 looks to the viewer's right."""
        half = (0.082 * size, 0.115 * size)
        top = cloth(dice) if dice.chance(0.25) else dice.pick(HAIRS)
        self.oval(centre, half, top)
        if dice.chance(0.6) or abs(turn) > 0.3:
            shift = 0.03 * size * turn
            middle = (centre[0] + shift, centre[1] - 0.03 * size)
            self.oval(middle, (half[0] * 0.78, half[1] * 0.7), face)


def put_person(scene: Scene, dice: Dice, x: float, z: float, ground_m: float) -> None:
    """Add somebody who walks or stands, seen from any side."""
    scene.begin((x - 0.22, x + 0.22), (z - 0.22, z + 0.22))
    is_child = dice.chance(0.12)
    size = dice.uniform(1.05, 1.3) / 1.75 if is_child else dice.uniform(1.56, 1.92) / 1.75
    figure = _Figure(scene, scene.turned_to_viewer(x, z), Category.PEDESTRIAN, ground_m)
    side = dice.uniform(0.5, 1.0) * dice.sign() if dice.chance(0.55) else dice.uniform(-0.3, 0.3)
    stride = dice.uniform(0.15, 0.5) if dice.chance(0.75) else 0.04
    front = math.sqrt(max(0.0, 1 - side * side))
    coat, legs, shoe = cloth(dice), cloth(dice), scaled(cloth(dice), 0.4)
    face = dice.pick(SKINS)
    wide = dice.uniform(0.9, 1.2)
    hip, chest = (0.0, 0.9 * size), (0.03 * side, 1.43 * size)
    for number, swing in enumerate((-stride, stride)):
        offset = (0.1 if number else -0.1) * front * size
        start = (hip[0] + offset, hip[1])
        knee = _bend(start, swing, 0.43 * size, side)
        foot = _bend(knee, swing - 0.25 * (1 - number) * (stride > 0.1), 0.43 * size, side)
        colour = scaled(legs, 0.85 + 0.15 * number)
        figure.limb(start, knee, (0.175 * size * wide, 0.125 * size), colour)
        figure.limb(knee, foot, (0.13 * size, 0.09 * size), colour)
        toe = (foot[0] + 0.17 * side * size, foot[1] - 0.02)
        figure.limb((foot[0] - 0.03 * side, foot[1]), toe, (0.1 * size, 0.07 * size), shoe)
    half = (0.14 + 0.09 * front) * size * wide
    hem = dice.pick((0.84, 0.84, 0.84, 0.62, 0.5)) * size
    torso = [
        (hip[0] - half * 0.9, hem), (hip[0] + half * 0.9, hem),
        (chest[0] + half, chest[1] - 0.1 * size), (chest[0] + half * 0.6, chest[1] + 0.05 * size),
        (chest[0] - half * 0.6, chest[1] + 0.05 * size), (chest[0] - half, chest[1] - 0.1 * size),
    ]  # fmt: skip
    if dice.chance(0.3):
        bag = [(chest[0] - 0.2 * side - half * a, 0.95 * size + b * size)
               for a, b in ((-0.7, 0), (0.7, 0), (0.7, 0.42), (-0.7, 0.42))]  # fmt: skip
        figure.shape(bag, cloth(dice))
    figure.shape(torso, coat)
    for number, swing in enumerate((stride, -stride)):
        offset = (half if number else -half) * (0.3 + 0.7 * front)
        shoulder = (chest[0] + offset, chest[1] - 0.05 * size)
        elbow = _bend(shoulder, swing * 0.9 + 0.1 * (number - 0.5) * front, 0.3 * size, side or 0.1)
        hand = _bend(elbow, swing * 0.9 + 0.35, 0.27 * size, side)
        figure.limb(shoulder, elbow, (0.12 * size, 0.1 * size), scaled(coat, 0.82 + 0.1 * number))
        figure.limb(elbow, hand, (0.1 * size, 0.075 * size), scaled(coat, 0.82 + 0.1 * number))
        figure.oval(hand, (0.045 * size, 0.055 * size), face)
    figure.limb((chest[0], chest[1]), (chest[0] + 0.03 * side, 1.55 * size), (0.1, 0.09), face)
    figure.head(dice, (chest[0] + 0.04 * side, 1.64 * size), size, side, face)


def put_cyclist(scene: Scene, dice: Dice, x: float, z: float, side: float) -> None:
    """Add somebody riding a bicycle; the bicycle belongs to the class."""
    half_x, half_z = 0.25 + 0.6 * abs(side), 0.85 - 0.6 * abs(side)
    scene.begin((x - half_x, x + half_x), (z - half_z, z + half_z))
    figure = _Figure(scene, scene.turned_to_viewer(x, z), Category.BICYCLIST, 0.0)
    front = math.sqrt(max(0.0, 1 - side * side))
    trousers, turn = cloth(dice), dice.uniform(0.0, 6.28)
    _leg(figure, turn + math.pi, -0.11 * front, side, scaled(trousers, 0.75))
    _bicycle(figure, side, front, cloth(dice))
    jersey, face = cloth(dice), dice.pick(SKINS)
    shoulder, half = (0.2 * side, 1.46), 0.13 + 0.08 * front
    hip = -0.2 * side
    torso = [
        (hip - half * 0.85, 0.9), (hip + half * 0.85, 0.9),
        (shoulder[0] + half, shoulder[1] - 0.04), (shoulder[0] + half * 0.5, shoulder[1] + 0.07),
        (shoulder[0] - half * 0.5, shoulder[1] + 0.07), (shoulder[0] - half, shoulder[1] - 0.04),
    ]  # fmt: skip
    figure.shape(torso, jersey)
    _leg(figure, turn, 0.11 * front, side, scaled(trousers, 0.9))
    for across in (-1, 1):
        joint = (shoulder[0] + across * half * (0.2 + 0.7 * front), shoulder[1] - 0.03)
        hand = (0.42 * side + across * 0.22 * front, 1.05)
        elbow = ((joint[0] + hand[0]) / 2 + across * 0.08 * front, (joint[1] + hand[1]) / 2 - 0.05)
        figure.limb(joint, elbow, (0.11, 0.09), scaled(jersey, 0.85))
        figure.limb(elbow, hand, (0.09, 0.07), scaled(jersey, 0.85))
    crown = (shoulder[0] + 0.1 * side, shoulder[1] + 0.23)
    figure.head(dice, crown, 1.0, side, face)
    if dice.chance(0.6):
        helmet = [(crown[0] + 0.1 * a, crown[1] + 0.03 + 0.11 * b) for a, b in CIRCLE[:9]]
        figure.shape(helmet, cloth(dice))


def _bicycle(figure: _Figure, side: float, front: float, colour: Colour) -> None:
    """Draw wheels, frame and handlebar."""
    hub, wheel = 0.53 * side, (max(0.035, _HUB_M * abs(side)), _HUB_M)
    for across in (-hub, hub):
        figure.ring((across, _HUB_M), wheel, 0.055, RUBBER)
        if abs(side) > 0.4:
            figure.oval((across, _HUB_M), (0.05, 0.05), RUBBER)
    crank, saddle, head = (-0.02 * side, 0.32), (-0.2 * side, 0.92), (0.36 * side, 0.84)
    seat, bar = (-0.17 * side, 0.8), (0.42 * side, 1.02)
    rear, fore = (-hub, _HUB_M), (hub, _HUB_M)
    tubes = ((crank, saddle), (crank, head), (seat, head), (rear, crank), (rear, seat), (fore, bar))
    for start, end in tubes:
        figure.limb(start, end, (0.055, 0.055), colour)
    left, right = (bar[0] - 0.25 * front, bar[1]), (bar[0] + 0.25 * front + 0.05, bar[1])
    figure.limb(left, right, (0.05, 0.05), BLACK)


def _leg(figure: _Figure, phase: float, across: float, side: float, colour: Colour) -> None:
    """Draw a leg whose pedal stands at an angle."""
    pedal = (0.14 * side * math.cos(phase) + across, _HUB_M + 0.16 * math.sin(phase))
    hip = (-0.2 * side + across * 0.8, 0.96)
    knee = ((hip[0] + pedal[0]) / 2 + 0.22 * side + across * 0.5, (hip[1] + pedal[1]) / 2 + 0.1)
    figure.limb(hip, knee, (0.18, 0.13), colour)
    figure.limb(knee, pedal, (0.13, 0.09), colour)
    figure.limb(pedal, (pedal[0] + 0.16 * side, pedal[1] - 0.03), (0.1, 0.07), BLACK)


def _bend(start: Joint, angle: float, length: float, side: float) -> Joint:
    """Go from a joint along a limb hanging at an angle, foreshortened by `side`."""
    return start[0] + math.sin(angle) * length * side, start[1] - math.cos(angle) * length
