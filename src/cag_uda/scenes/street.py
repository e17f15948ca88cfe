"""The plan of a street: widths, pavements, side streets. Knows no objects and no paint."""

from dataclasses import dataclass
from typing import Literal, Self

from cag_uda.scenes.dice import Dice

Kind = Literal["city", "residential", "park"]

KERB_M = 0.12
"""Height of a pavement above the road."""
BEHIND_M = -25.0
"""Begin of a street along it: behind the camera, for the shadows that fall from there."""
FAR_M = 420.0
"""End of an endless street."""


@dataclass(frozen=True)
class Side:
    """One side of the street; distances are from the street's middle line, in metres."""

    sign: int
    """-1 left, 1 right."""
    kerb_m: float
    walk_m: float
    """Begin of the paved walk, behind the verge if there is one."""
    front_m: float
    """End of the walk, where gardens, yards or houses begin."""
    building_m: float
    openings: tuple[tuple[float, float], ...]
    """Side streets: from and to, along the street."""
    has_parking: bool
    has_buildings: bool
    has_gardens: bool

    def stretches(self, end_m: float, corner_m: float = 0.0) -> list[tuple[float, float]]:
        """Give the parts between side streets up to the end, `corner_m` off each corner."""
        edges = [BEHIND_M]
        for low, high in self.openings:
            edges += [low - corner_m, high + corner_m]
        edges.append(end_m)
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return [(low, high) for low, high in pairs if high - low > 1.0]

    def is_clear(self, z: float, margin_m: float) -> bool:
        """Tell whether a place along the street keeps off every side street."""
        return all(z < low - margin_m or z > high + margin_m for low, high in self.openings)


@dataclass(frozen=True)
class Street:
    """A straight street along z, its middle line at x = 0."""

    kind: Kind
    sides: tuple[Side, Side]
    """Left and right."""
    lanes: int
    """Lanes in each direction."""
    lane_m: float
    drives_on: int
    """The side that traffic keeps to: -1 left, 1 right."""
    end_m: float
    ending: Literal["houses", "trees", "open"]
    has_grass: bool

    @classmethod
    def sample(cls, dice: Dice) -> Self:
        """Draw a street."""
        kinds: dict[Kind, float] = {"city": 0.42, "residential": 0.4, "park": 0.18}
        kind = dice.weighted(kinds)
        lanes = 2 if kind == "city" and dice.chance(0.3) else 1
        lane_m = dice.uniform(2.9, 3.6)
        ending: Literal["houses", "trees", "open"] = dice.pick(
            ("houses", "houses", "trees", "open")
        )
        crossing = dice.uniform(14.0, 50.0) if dice.chance(0.45) else None
        park_side = dice.sign() if kind == "park" else 0
        left, right = (
            _side(dice, kind, sign, lanes * lane_m, crossing, is_park=sign == park_side)
            for sign in (-1, 1)
        )
        return cls(
            kind=kind,
            sides=(left, right),
            lanes=lanes,
            lane_m=lane_m,
            drives_on=dice.sign(),
            end_m=FAR_M if ending == "open" else dice.uniform(70.0, 150.0),
            ending=ending,
            has_grass=kind != "city",
        )


def _side(
    dice: Dice, kind: Kind, sign: int, lanes_m: float, crossing: float | None, *, is_park: bool
) -> Side:
    has_parking = dice.chance(0.65)
    kerb_m = lanes_m + (dice.uniform(2.0, 2.3) if has_parking else dice.uniform(0.2, 0.8))
    has_verge = kind != "city" and dice.chance(0.3)
    walk_m = kerb_m + (dice.uniform(0.8, 1.8) if has_verge else 0.0)
    front_m = walk_m + (dice.uniform(2.4, 4.6) if kind == "city" else dice.uniform(1.6, 2.8))
    has_gardens = kind == "residential" or (kind == "park" and dice.chance(0.5))
    setback_m = dice.uniform(3.0, 7.0) if has_gardens else 0.0
    openings = []
    if crossing is not None and dice.chance(0.75):
        openings.append((crossing, crossing + dice.uniform(6.0, 9.0)))
    if dice.chance(0.35):
        low = (crossing or 20.0) + dice.uniform(22.0, 45.0)
        openings.append((low, low + dice.uniform(5.5, 8.0)))
    return Side(
        sign=sign,
        kerb_m=kerb_m,
        walk_m=walk_m,
        front_m=front_m,
        building_m=front_m + setback_m,
        openings=tuple(openings),
        has_parking=has_parking,
        has_buildings=not is_park,
        has_gardens=has_gardens and not is_park,
    )
