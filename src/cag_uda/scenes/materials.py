"""Patterns on surfaces: windows, bricks, lane markings, slabs, leaves, boards.

A pattern is a function of the place on the surface in metres, so that it lies in perspective and
casts no doubt on the label.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cag_uda.scenes.looks import Light
from cag_uda.scenes.noise import Floats, blotched, grainy, scattered
from cag_uda.scenes.surfaces import Material, Surfaces


class Spots(NamedTuple):
    """The pixels of one material, N of them."""

    surface: NDArray[np.intp]
    x: Floats
    y: Floats
    z: Floats
    depth: Floats
    """Metres forward from the camera."""
    along: Floats
    """Metres along a wall from its first corner."""
    pixel_m: Floats
    """Metres that a pixel covers: patterns finer than that must fade."""
    colour: list[Floats]
    """Red, green, blue, changed in place: as on a screen, in [0, 1]."""
    glow: Floats
    """Light given off when lamps are on, in units of the colour; changed in place."""
    surfaces: Surfaces

    def number(self, column: int) -> Floats:
        """Look up one of the settings that each surface's paint has."""
        return np.take(self.surfaces.numbers[:, column], self.surface)

    def blend(self, share: Floats) -> None:
        """Mix in the accent colour."""
        for axis in range(3):
            accent = np.take(self.surfaces.accent[:, axis], self.surface)
            self.colour[axis] += (accent - self.colour[axis]) * share

    def multiply(self, factor: Floats) -> None:
        """Lighten or darken the colour."""
        for part in self.colour:
            part *= factor

    def fade(self, size_m: float) -> Floats:
        """Give 1 where a detail of this size is well seen, 0 where it is under half a pixel."""
        seen: Floats = np.clip(size_m / self.pixel_m - 0.5, 0, 1)
        return seen

    def level(self) -> Floats:
        """Give a level coordinate that changes along any upright surface well in view."""
        return self.x + self.z * 0.45


def _part(value: Floats) -> Floats:
    """Give what is after the point; ten times as fast as `value % 1`."""
    return value - np.floor(value)


def _plain(spots: Spots, light: Light) -> None:
    if light.texture > 0.5:
        dirt = grainy(spots.level() * 9, spots.y * 9)
        spots.multiply(1 + (dirt - 0.5) * (0.08 * light.texture))


def _road(spots: Spots, light: Light) -> None:
    x, z = spots.x, spots.z
    strength = light.texture
    grain = grainy(x * 70, z * 50) - 0.5
    stains = blotched(x * 14, z * 4) - 0.5
    worn = grainy(x * 40, z * 14)
    fine = spots.fade(0.05)
    patch = scattered(np.floor(x * 0.4), np.floor(z * 0.17), 7.0)
    mended = np.where(patch < 0.06, np.float32(0.8), np.float32(1))
    shade = 1 + strength * (grain * fine * 0.26 + stains * 0.16)
    spots.multiply(shade * (1 + (mended - 1) * strength))
    line, period, lane, edge, left, right = (spots.number(n) for n in range(6))
    is_double = line > 1
    dashed = _part(np.divide(z, np.maximum(period, 0.1))) < 0.5
    paint = (line > 0) & ~is_double & (np.abs(x) < 0.08) & dashed
    paint |= is_double & (np.abs(np.abs(x) - 0.16) < 0.06)
    paint |= (lane > 0) & (np.abs(np.abs(x) - lane) < 0.06) & dashed
    middle, half = (left + right) * 0.5, (right - left) * 0.5
    paint |= (edge > 0) & (np.abs(np.abs(x - middle) - (half - edge)) < 0.06)
    rubbed = np.clip(1.1 - worn * strength * 0.6, 0, 1)
    seen = np.clip(0.16 / spots.pixel_m, 0.25, 1)
    spots.blend(paint * seen * rubbed * 0.92)


def _paving(spots: Spots, light: Light) -> None:
    size = np.maximum(spots.number(0), 0.2)
    column, row = spots.x / size, spots.z / size
    cell_x, cell_z = np.floor(column), np.floor(row)
    joint = (column - cell_x < 0.07) | (row - cell_z < 0.07)
    own = scattered(cell_x, cell_z, 3.0) - 0.5
    fine = spots.fade(0.35)
    grain = grainy(spots.x * 22, spots.z * 22) - 0.5
    strength = light.texture
    shade = 1 - joint * fine * (0.14 + 0.12 * strength)
    shade += own * fine * (0.04 + 0.12 * strength) + grain * strength * 0.16
    spots.multiply(shade)


def _grass(spots: Spots, light: Light) -> None:
    blades = grainy(spots.x * 30, spots.z * 11) - 0.5
    tufts = blotched(spots.x * 12, spots.z * 12) - 0.5
    spots.multiply(1 + blades * (0.1 + 0.3 * light.texture) + tufts * 0.2)


def _foliage(spots: Spots, light: Light) -> None:
    scale = spots.number(0)
    across, up = spots.level() * scale, spots.y * scale
    leaf = grainy(across * 11, up * 11)
    bough = blotched(across * 14, up * 14)
    texture = np.float32(light.texture)
    # Three tones, as a brush would do it; the darkest are the gaps between leaves, which tell a
    # crown from a green wall.
    tone = leaf * 0.6 + bough * 0.4
    shade = np.where(tone < 0.33, 0.76 - texture * 0.14, 1)
    shade = np.where(tone > 0.68, 1.16 + texture * 0.1, shade)
    spots.multiply(shade + (leaf - 0.5) * texture * 0.4)


def _planks(spots: Spots, light: Light) -> None:
    board = spots.along / np.maximum(spots.number(0), 0.05)
    cell = np.floor(board)
    seam = (board - cell < 0.13) * spots.fade(0.07)
    own = scattered(cell, np.zeros_like(cell), 5.0) - 0.5
    vein = grainy(spots.along * 70, spots.y * 5) - 0.5
    spots.multiply(1 - seam * 0.4 + own * 0.14 + vein * (0.26 * light.texture))


def _roof(spots: Spots, light: Light) -> None:
    row = spots.y * 4.2
    cell = np.floor(row)
    tile = np.floor((spots.along + cell * 0.5) * 3)
    seam = (row - cell < 0.22) * spots.fade(0.16)
    own = (scattered(tile, cell, 9.0) - 0.5) * spots.fade(0.2)
    spots.multiply(1 - seam * 0.16 + own * (0.06 + 0.3 * light.texture))


def _glass(spots: Spots, light: Light) -> None:
    shine = np.clip(spots.y * 0.9 - 0.85, 0, 0.6)
    streak = grainy(spots.level() * 5, spots.y * 9)
    shine = shine * (0.7 + streak * 0.35)
    for axis in range(3):
        spots.colour[axis] += (light.shine[axis] - spots.colour[axis]) * shine


def _stripes(spots: Spots, light: Light) -> None:
    part = np.divide(spots.along, np.maximum(spots.number(0), 0.1))
    is_light = _part(part) < 0.5
    spots.blend(is_light.astype(np.float32) * 0.9)


def _facade(spots: Spots, light: Light) -> None:
    """Draw storeys of windows, a shop or a door at the ground, a cornice, and bricks.

    Settings: bay width, storey height, window's share of either, height of the ground floor,
    height of the wall, whether there is a shop, the house's own number.
    """
    bay, storey, share_x, share_y, ground, top, shop, salt = (spots.number(n) for n in range(8))
    y = spots.y
    column = spots.along / bay
    bay_number = np.floor(column)
    across = np.abs(column - bay_number - 0.5) * bay
    floors = (y - ground) / storey
    floor_number = np.floor(floors)
    up = (floors - floor_number - 0.54) * storey
    is_ground = floor_number < 0
    half_x, half_y = share_x * bay / 2, share_y * storey / 2
    own = scattered(bay_number, floor_number, salt)
    is_shop = is_ground & (shop > 0)
    is_door = is_ground & ~is_shop & (own < 0.3)
    up = np.where(is_ground, y - 1.65, up)
    half_x = np.where(is_shop, bay * 0.44, np.where(is_door, 0.5, half_x))
    half_y = np.where(is_shop, 1.0, half_y)
    up = np.where(is_door, y - 1.15, up)
    half_y = np.where(is_door, 1.1, half_y)
    is_wall_left = y < top - 0.5
    inside = (across < half_x) & (np.abs(up) < half_y) & is_wall_left
    border = 0.13
    frame = (across < half_x + border) & (np.abs(up) < half_y + border) & is_wall_left & ~inside
    bars = inside & ~is_shop & ~is_door & (across < 0.05)
    seen = spots.fade(0.4)
    _walls(spots, light, salt)
    trim = frame | bars
    trim |= (y > top - 0.32) | (is_ground & (y > ground - 0.2))
    sign_board = is_shop & (y > 2.75) & (y < 3.3)
    spots.blend(trim * seen)
    _panes(spots, light, (inside & ~bars & ~is_door) * np.clip(seen + 0.3, 0, 1), own, up)
    wood = is_door & inside
    for axis, tint in enumerate((0.5, 0.31, 0.77)):
        hue = scattered(salt, np.full_like(salt, axis), 11.0) * 0.75 + tint / 8
        spots.colour[axis][:] = np.where(wood | sign_board, hue, spots.colour[axis])
    if light.lit_share:
        spots.glow[:] += sign_board * np.float32(0.25)


def _walls(spots: Spots, light: Light, salt: Floats) -> None:
    """Lay bricks or plaster, and dirt that gathers towards the ground."""
    if light.texture < 0.3:
        return
    strength = light.texture
    is_brick = _part(salt * 0.37) > 0.35
    row = spots.y * 9
    course = np.floor(row)
    brick = spots.along * 3.6 + course * 0.5
    place = np.floor(brick)
    joint = (row - course < 0.2) | (brick - place < 0.09)
    fine = spots.fade(0.1) * is_brick
    own = scattered(place, course, 13.0) - 0.5
    dirt = blotched(spots.along * 12, spots.y * 12) - 0.5
    streaks = grainy(spots.along * 8, spots.y * 0.6) - 0.5
    low = np.clip(1 - spots.y * 0.5, 0, 1) * 0.2
    shade = own * fine * 0.35 + dirt * 0.14 + streaks * 0.12 - (joint * fine * 0.22 + low)
    spots.multiply(1 + strength * shade)


def _panes(spots: Spots, light: Light, share: Floats, own: Floats, up: Floats) -> None:
    """Fill windows: dark glass with the sky in it, curtains, or light from within."""
    dark = 0.11 + own * 0.16
    mirror = np.clip(0.3 + up * 0.25, 0, 0.55)
    mirror *= 0.45 + _part(own * 7) * 0.55
    curtain = (_part(own * 13) < 0.25) * (up > -0.1) * 0.45
    lit = _part(own * 29) < light.lit_share
    warm = (1.0, 0.76, 0.42)
    for axis in range(3):
        sky = light.shine[axis]
        pane = dark + (sky - dark) * mirror
        pane = pane + (0.8 - pane) * curtain
        pane = np.where(lit, warm[axis], pane)
        spots.colour[axis] += (pane - spots.colour[axis]) * share
    spots.glow[:] += lit * share * (0.25 + _part(own * 5) * 0.6)


PATTERNS: dict[Material, Callable[[Spots, Light], None]] = {
    Material.PLAIN: _plain,
    Material.ROAD: _road,
    Material.PAVING: _paving,
    Material.GRASS: _grass,
    Material.FACADE: _facade,
    Material.ROOF: _roof,
    Material.FOLIAGE: _foliage,
    Material.PLANKS: _planks,
    Material.GLASS: _glass,
    Material.STRIPES: _stripes,
}
"""What puts a material's pattern on its pixels, changing colour and glow in place."""
