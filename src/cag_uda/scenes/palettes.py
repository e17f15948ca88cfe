"""Colours of walls, cars, clothes and leaves, drawn anew for every scene.

Several classes share colours on purpose: a class must not be told by one colour.
"""

import colorsys

from cag_uda.scenes.camera import mixed
from cag_uda.scenes.dice import Dice
from cag_uda.scenes.surfaces import Colour

WHITE: Colour = (0.93, 0.93, 0.91)
BLACK: Colour = (0.06, 0.06, 0.07)
STEEL: Colour = (0.52, 0.54, 0.56)
RUBBER: Colour = (0.08, 0.08, 0.09)
GLASS: Colour = (0.16, 0.21, 0.26)
SIGNAL_RED: Colour = (0.80, 0.09, 0.10)
SIGNAL_BLUE: Colour = (0.08, 0.28, 0.66)
SIGNAL_YELLOW: Colour = (0.95, 0.76, 0.12)
SIGNAL_GREEN: Colour = (0.06, 0.48, 0.27)

_WALLS: dict[str, tuple[Colour, ...]] = {
    "brick": ((0.62, 0.33, 0.25), (0.55, 0.29, 0.22), (0.70, 0.45, 0.32), (0.48, 0.30, 0.26)),
    "stucco": ((0.90, 0.84, 0.70), (0.92, 0.74, 0.58), (0.78, 0.84, 0.80), (0.93, 0.90, 0.84)),
    "stone": ((0.76, 0.69, 0.55), (0.68, 0.63, 0.54), (0.82, 0.76, 0.63), (0.60, 0.57, 0.52)),
    "concrete": ((0.62, 0.63, 0.64), (0.72, 0.71, 0.69), (0.50, 0.52, 0.55), (0.80, 0.80, 0.78)),
    "colourful": ((0.86, 0.48, 0.36), (0.42, 0.58, 0.72), (0.88, 0.74, 0.38), (0.50, 0.66, 0.52)),
}
_CAR_PAINTS: tuple[Colour, ...] = (
    (0.88, 0.88, 0.87), (0.66, 0.68, 0.70), (0.38, 0.40, 0.43), (0.10, 0.10, 0.12),
    (0.70, 0.10, 0.11), (0.12, 0.24, 0.55), (0.16, 0.42, 0.66), (0.12, 0.33, 0.22),
    (0.86, 0.66, 0.12), (0.60, 0.50, 0.38), (0.83, 0.36, 0.10), (0.42, 0.12, 0.20),
)  # fmt: skip
SKINS: tuple[Colour, ...] = (
    (0.93, 0.76, 0.65), (0.84, 0.64, 0.51), (0.70, 0.49, 0.36), (0.50, 0.33, 0.24),
    (0.36, 0.23, 0.17),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (0.10, 0.08, 0.07), (0.30, 0.19, 0.11), (0.62, 0.47, 0.26), (0.55, 0.54, 0.53),
    (0.48, 0.22, 0.12),
)  # fmt: skip
_LEAVES: dict[str, tuple[Colour, ...]] = {
    "summer": ((0.25, 0.44, 0.16), (0.20, 0.37, 0.17), (0.34, 0.48, 0.18), (0.29, 0.42, 0.24)),
    "spring": ((0.46, 0.60, 0.22), (0.38, 0.54, 0.22), (0.88, 0.72, 0.76), (0.52, 0.62, 0.30)),
    "autumn": ((0.74, 0.48, 0.14), (0.66, 0.30, 0.12), (0.58, 0.52, 0.18), (0.36, 0.42, 0.17)),
}


def wall_theme(dice: Dice) -> str:
    """Draw what the walls of a street are mostly made of."""
    return dice.pick(tuple(_WALLS))


def wall(dice: Dice, theme: str) -> Colour:
    """Draw the colour of a wall, four times of five from the street's theme."""
    chosen = theme if dice.chance(0.75) else wall_theme(dice)
    return varied(dice, dice.pick(_WALLS[chosen]), 0.06)


def roof(dice: Dice) -> Colour:
    """Draw the colour of a roof: slate or tiles."""
    tiles: tuple[Colour, ...] = ((0.34, 0.35, 0.39), (0.58, 0.30, 0.21), (0.44, 0.32, 0.26))
    return varied(dice, dice.pick(tiles), 0.06)


def car(dice: Dice) -> Colour:
    """Draw the colour of a car."""
    return varied(dice, dice.pick(_CAR_PAINTS), 0.05)


def cloth(dice: Dice) -> Colour:
    """Draw the colour of a garment, any hue, as often dull as bright."""
    hue, value = dice.unit(), dice.uniform(0.15, 0.9)
    return colorsys.hsv_to_rgb(hue, dice.uniform(0.0, 0.85), value)


def leaves(dice: Dice, season: str) -> Colour:
    """Draw the colour of a tree's leaves."""
    return varied(dice, dice.pick(_LEAVES[season]), 0.07)


def green(dice: Dice) -> Colour:
    """Draw the colour of grass and hedges, which keep theirs in autumn."""
    return leaves(dice, "summer")


def varied(dice: Dice, colour: Colour, spread: float) -> Colour:
    """Move a colour a little in brightness, and less in tint."""
    unit, lowest = dice.unit, -1.5 * spread
    lift = lowest + 2 * spread * unit()
    red, green, blue = colour
    return (
        min(1.0, max(0.02, red + lift + spread * unit())),
        min(1.0, max(0.02, green + lift + spread * unit())),
        min(1.0, max(0.02, blue + lift + spread * unit())),
    )


def scaled(colour: Colour, factor: float) -> Colour:
    """Darken (factor < 1) or lighten a colour."""
    red, green, blue = colour
    return (min(1.0, red * factor), min(1.0, green * factor), min(1.0, blue * factor))


def blended(first: Colour, second: Colour, share: float) -> Colour:
    """Mix two colours; `share` is that of the second."""
    return mixed(first, 1 - share, second, share)
