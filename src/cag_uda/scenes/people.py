"""Draws people on foot in varied poses and clothes, walking or standing, seen from any side."""

import math

from cag_uda.scenes.dice import Dice
from cag_uda.scenes.figures import Figure, Joint
from cag_uda.scenes.palettes import cloth, scaled, skin
from cag_uda.scenes.surfaces import Category, Scene
from cag_uda.scenes.trees import turned_to_viewer


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
    figure = Figure(scene, turned_to_viewer(scene, x, z), Category.PEDESTRIAN, ground_m)
    side = dice.uniform(0.5, 1.0) * dice.sign() if dice.chance(0.55) else dice.uniform(-0.3, 0.3)
    stride = dice.uniform(0.15, 0.5) if dice.chance(0.75) else 0.04
    front = math.sqrt(max(0.0, 1 - side * side))
    coat, legs, shoe = cloth(dice), cloth(dice), scaled(cloth(dice), 0.4)
    face = skin(dice)
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
