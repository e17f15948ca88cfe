"""Draws people on foot and on bicycles as jointed flat figures in varied poses and clothes."""

import math

from cag_uda.data.rendering.dice import Dice
from cag_uda.data.rendering.palettes import BLACK, RUBBER, cloth, hair, scaled, skin
from cag_uda.data.rendering.surfaces import Category, Colour, Paint, Scene
from cag_uda.data.rendering.trees import Flat, turned_to_viewer

Joint = tuple[float, float]


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
        """Fill an oval."""
        self.shape([(centre[0] + half[0] * a, centre[1] + half[1] * b) for a, b in _CIRCLE], colour)

    def ring(self, centre: Joint, half: Joint, thick: float, colour: Colour) -> None:
        """Fill what lies between two ovals."""
        inner = (max(half[0] - thick, half[0] * 0.2), half[1] - thick)
        rims = [
            [(centre[0] + size[0] * a, centre[1] + size[1] * b) for a, b in _CIRCLE]
            for size in (half, inner)
        ]
        self.shape(rims[0], colour, rims[1])

    def head(self, dice: Dice, centre: Joint, size: float, turn: float) -> None:
        """Draw a head with hair, a cap or a hood; `turn` > 0 looks to the viewer's right."""
        half = (0.082 * size, 0.115 * size)
        face, hair_colour = skin(dice), hair(dice)
        if dice.chance(0.25):
            hair_colour = cloth(dice)
        self.oval(centre, half, hair_colour)
        if dice.chance(0.6) or turn:
            shift = 0.03 * size * turn
            self.oval(
                (centre[0] + shift, centre[1] - 0.03 * size), (half[0] * 0.78, half[1] * 0.7), face
            )


_CIRCLE = [(math.cos(a * math.pi / 8), math.sin(a * math.pi / 8)) for a in range(16)]


def _bend(start: Joint, angle: float, length: float, side: float) -> Joint:
    """Go from a joint along a limb hanging at an angle, foreshortened by `side`."""
    return start[0] + math.sin(angle) * length * side, start[1] - math.cos(angle) * length


def put_person(scene: Scene, dice: Dice, x: float, z: float, ground_m: float) -> None:
    """Add somebody who walks or stands, seen from any side.

    Args:
        scene: receives the figure.
        dice: random numbers.
        x: across the street, in metres.
        z: along the street, in metres.
        ground_m: height of what they stand on.
    """
    scene.begin((x - 0.22, x + 0.22), (z - 0.22, z + 0.22))
    is_child = dice.chance(0.12)
    size = dice.uniform(1.05, 1.3) / 1.75 if is_child else dice.uniform(1.56, 1.92) / 1.75
    figure = _Figure(scene, turned_to_viewer(scene, x, z), Category.PEDESTRIAN, ground_m)
    side = dice.uniform(0.5, 1.0) * dice.sign() if dice.chance(0.55) else dice.uniform(-0.3, 0.3)
    stride = dice.uniform(0.15, 0.5) if dice.chance(0.75) else 0.04
    front = math.sqrt(max(0.0, 1 - side * side))
    coat, legs, shoe = cloth(dice), cloth(dice), scaled(cloth(dice), 0.4)
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
        figure.oval(hand, (0.045 * size, 0.055 * size), skin(dice))
    figure.limb(
        (chest[0], chest[1]), (chest[0] + 0.03 * side, 1.55 * size), (0.1, 0.09), skin(dice)
    )
    figure.head(dice, (chest[0] + 0.04 * side, 1.64 * size), size, side)


def put_cyclist(scene: Scene, dice: Dice, x: float, z: float, side: float) -> None:
    """Add somebody riding a bicycle; the bicycle belongs to the class.

    Args:
        scene: receives the figure.
        dice: random numbers.
        x: across the street, in metres.
        z: along the street, in metres.
        side: how far it is seen from the side: -1 rides to the left, 0 away, 1 to the right.
    """
    half_x, half_z = 0.25 + 0.6 * abs(side), 0.85 - 0.6 * abs(side)
    scene.begin((x - half_x, x + half_x), (z - half_z, z + half_z))
    figure = _Figure(scene, turned_to_viewer(scene, x, z), Category.BICYCLIST, 0.0)
    front = math.sqrt(max(0.0, 1 - side * side))
    frame, jersey, trousers = cloth(dice), cloth(dice), cloth(dice)
    turn = dice.uniform(0.0, 6.28)
    saddle, crank = (-0.2 * side, 0.92), (-0.02 * side, 0.32)
    bar, shoulder = (0.42 * side, 1.02), (0.2 * side, 1.46)
    hub = 0.53 * side
    wheel = (max(0.035, 0.34 * abs(side)), 0.34)

    def leg(phase: float, across: float, shade: float) -> None:
        pedal = (crank[0] + 0.16 * side * math.cos(phase) + across, 0.34 + 0.16 * math.sin(phase))
        hip = (saddle[0] + across * 0.8, 0.96)
        knee = ((hip[0] + pedal[0]) / 2 + 0.22 * side + across * 0.5, (hip[1] + pedal[1]) / 2 + 0.1)
        figure.limb(hip, knee, (0.18, 0.13), scaled(trousers, shade))
        figure.limb(knee, pedal, (0.13, 0.09), scaled(trousers, shade))
        figure.limb(pedal, (pedal[0] + 0.16 * side, pedal[1] - 0.03), (0.1, 0.07), BLACK)

    leg(turn + math.pi, -0.11 * front, 0.75)
    for across in (-hub, hub):
        figure.ring((across, 0.34), wheel, 0.055, RUBBER)
        if abs(side) > 0.4:
            figure.oval((across, 0.34), (0.05, 0.05), RUBBER)
    for start, end in (
        (crank, saddle), (crank, (0.36 * side, 0.84)), ((-0.17 * side, 0.8), (0.36 * side, 0.84)),
        ((-hub, 0.34), crank), ((-hub, 0.34), (-0.17 * side, 0.8)), ((hub, 0.34), bar),
    ):  # fmt: skip
        figure.limb(start, end, (0.055, 0.055), frame)
    figure.limb(
        (bar[0] - 0.25 * front, bar[1]), (bar[0] + 0.25 * front + 0.05, bar[1]), (0.05, 0.05), BLACK
    )
    half = 0.13 + 0.08 * front
    torso = [
        (saddle[0] - half * 0.85, 0.9), (saddle[0] + half * 0.85, 0.9),
        (shoulder[0] + half, shoulder[1] - 0.04), (shoulder[0] + half * 0.5, shoulder[1] + 0.07),
        (shoulder[0] - half * 0.5, shoulder[1] + 0.07), (shoulder[0] - half, shoulder[1] - 0.04),
    ]  # fmt: skip
    figure.shape(torso, jersey)
    leg(turn, 0.11 * front, 0.9)
    for across in (-1, 1):
        joint = (shoulder[0] + across * half * (0.2 + 0.7 * front), shoulder[1] - 0.03)
        hand = (bar[0] + across * 0.22 * front, bar[1] + 0.03)
        elbow = ((joint[0] + hand[0]) / 2 + across * 0.08 * front, (joint[1] + hand[1]) / 2 - 0.05)
        figure.limb(joint, elbow, (0.11, 0.09), scaled(jersey, 0.85))
        figure.limb(elbow, hand, (0.09, 0.07), scaled(jersey, 0.85))
    crown = (shoulder[0] + 0.1 * side, shoulder[1] + 0.23)
    figure.head(dice, crown, 1.0, side)
    if dice.chance(0.6):
        helmet = [(crown[0] + 0.1 * a, crown[1] + 0.03 + 0.11 * b) for a, b in _CIRCLE[:9]]
        figure.shape(helmet, cloth(dice))
