"""Builds fences along the street: boards, pickets, rails, railings and crash barriers."""

from cag_uda.scenes.camera import Vector
from cag_uda.scenes.dice import Dice
from cag_uda.scenes.palettes import BLACK, STEEL, WHITE, scaled, varied
from cag_uda.scenes.street import KERB_M
from cag_uda.scenes.surfaces import Category, Colour, Material, Paint, Scene, Span

KINDS = ("boards", "pickets", "rails", "railing", "barrier")
"""The kinds of fences that `build_fence` knows."""

_WOODS: tuple[Colour, ...] = ((0.55, 0.4, 0.26), (0.42, 0.3, 0.2), (0.62, 0.54, 0.44))


def build_fence(scene: Scene, dice: Dice, x: float, sign: int, z: Span, kind: str) -> None:
    """Add a straight fence along the street, of one of `KINDS`.

    It stands at x, on the side `sign` of the street, and faces the other; z is from and to.
    """
    scene.begin((x - 0.06, x + 0.06), z)
    wood = varied(dice, WHITE if dice.chance(0.25) else dice.pick(_WOODS), 0.05)
    metal = varied(dice, dice.pick((BLACK, (0.16, 0.3, 0.2), STEEL)), 0.04)
    fence = _Fence(scene, x, z, normal=(-float(sign), 0.0, 0.0))
    if kind == "boards":
        height = dice.uniform(1.5, 1.9)
        planks = Paint(Category.FENCE, wood, Material.PLANKS, numbers=(dice.uniform(0.14, 0.3),))
        fence.band(KERB_M + 0.05, height, planks)
        fence.rows(2.2, 0.12, height + 0.08, planks._replace(material=Material.PLAIN))
        fence.band(height - 0.06, height + 0.02, Paint(Category.FENCE, scaled(wood, 0.82)))
    elif kind == "pickets":
        fence.pickets(
            dice.uniform(0.95, 1.2), Paint(Category.FENCE, wood, Material.PLANKS, numbers=(0.2,))
        )
    elif kind == "rails":
        height = dice.uniform(1.0, 1.3)
        paint = Paint(Category.FENCE, wood)
        for part in (0.35, 0.65, 0.95):
            fence.band(height * part, height * part + 0.13, paint)
        fence.rows(2.0, 0.16, height + 0.12, paint)
    elif kind == "railing":
        height = dice.uniform(1.05, 1.4)
        paint = Paint(Category.FENCE, metal)
        fence.rows(0.2, 0.04, height, paint)
        fence.band(KERB_M + 0.12, KERB_M + 0.2, paint)
        fence.band(height - 0.1, height, paint)
        fence.rows(2.5, 0.1, height + 0.12, paint)
    else:
        steel = Paint(Category.FENCE, varied(dice, (0.66, 0.68, 0.7), 0.05))
        fence.rows(2.0, 0.14, 0.72, steel._replace(colour=scaled(steel.colour, 0.7)))
        fence.band(0.46, 0.8, steel)
        fence.band(0.6, 0.66, steel._replace(colour=scaled(steel.colour, 0.72)))


class _Fence:
    """The upright plane of one fence, and the parts that can be put on it."""

    def __init__(self, scene: Scene, x: float, z: Span, normal: Vector) -> None:
        self._scene, self._x, self._z, self._normal = scene, x, z, normal

    def band(self, low: float, high: float, paint: Paint) -> None:
        """Add a level strip from end to end."""
        self._scene.polygon(self._upright(*self._z, low, high), paint, self._normal)

    def pickets(self, height: float, paint: Paint) -> None:
        """Add a wall of pointed boards."""
        low, high = self._z
        count = max(2, int((high - low) / 0.2))
        step = (high - low) / count
        outline: list[Vector] = []
        for start in (low + number * step for number in range(count)):
            outline += [(self._x, height - 0.1, start), (self._x, height, start + step / 2)]
        outline += [(self._x, up, high) for up in (height - 0.1, KERB_M)]
        self._scene.polygon([*outline, (self._x, KERB_M, low)], paint, self._normal)

    def rows(self, every: float, wide: float, height: float, paint: Paint) -> None:
        """Add posts or bars at even distances, both ends included."""
        low, high = self._z
        count = max(1, int((high - low) / every))
        step = (high - low - wide) / count
        rows = [
            self._upright(low + number * step, low + number * step + wide, 0.0, height)
            for number in range(count + 1)
        ]
        self._scene.polygon(rows[0], paint, self._normal, more=rows[1:])

    def _upright(self, z0: float, z1: float, low: float, high: float) -> list[Vector]:
        x = self._x
        return [(x, low, z0), (x, low, z1), (x, high, z1), (x, high, z0)]
