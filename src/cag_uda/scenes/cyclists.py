"""Draws cyclists on their bicycles, seen from behind, from the side or between."""

import math

from cag_uda.scenes.dice import Dice
from cag_uda.scenes.figures import CIRCLE, Figure
from cag_uda.scenes.palettes import BLACK, RUBBER, cloth, scaled, skin
from cag_uda.scenes.surfaces import Category, Colour, Scene
from cag_uda.scenes.trees import turned_to_viewer

_HUB_M = 0.34


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
    figure = Figure(scene, turned_to_viewer(scene, x, z), Category.BICYCLIST, 0.0)
    front = math.sqrt(max(0.0, 1 - side * side))
    trousers, turn = cloth(dice), dice.uniform(0.0, 6.28)
    _leg(figure, turn + math.pi, -0.11 * front, side, scaled(trousers, 0.75))
    _bicycle(figure, side, front, cloth(dice))
    jersey, face = cloth(dice), skin(dice)
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


def _bicycle(figure: Figure, side: float, front: float, colour: Colour) -> None:
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


def _leg(figure: Figure, phase: float, across: float, side: float, colour: Colour) -> None:
    """Draw a leg whose pedal stands at an angle."""
    pedal = (0.14 * side * math.cos(phase) + across, _HUB_M + 0.16 * math.sin(phase))
    hip = (-0.2 * side + across * 0.8, 0.96)
    knee = ((hip[0] + pedal[0]) / 2 + 0.22 * side + across * 0.5, (hip[1] + pedal[1]) / 2 + 0.1)
    figure.limb(hip, knee, (0.18, 0.13), colour)
    figure.limb(knee, pedal, (0.13, 0.09), colour)
    figure.limb(pedal, (pedal[0] + 0.16 * side, pedal[1] - 0.03), (0.1, 0.07), BLACK)
