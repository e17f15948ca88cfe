"""Flat jointed figures that face the viewer: what people and cyclists are drawn with."""

import math

from cag_uda.scenes.dice import Dice
from cag_uda.scenes.palettes import cloth, hair
from cag_uda.scenes.surfaces import Category, Colour, Paint, Scene
from cag_uda.scenes.trees import Flat

CIRCLE = [(math.cos(step * math.pi / 8), math.sin(step * math.pi / 8)) for step in range(16)]
"""Points of the unit circle, from the right over the top."""

Joint = tuple[float, float]
"""Metres to the viewer's right of the figure's middle, and height."""


class Figure:
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
        top = cloth(dice) if dice.chance(0.25) else hair(dice)
        self.oval(centre, half, top)
        if dice.chance(0.6) or abs(turn) > 0.3:
            shift = 0.03 * size * turn
            middle = (centre[0] + shift, centre[1] - 0.03 * size)
            self.oval(middle, (half[0] * 0.78, half[1] * 0.7), face)
