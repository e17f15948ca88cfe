"""Patterns on surfaces: windows, bricks, lane markings, slabs, leaves, boards.

A pattern is a function of the place on the surface in metres, so that it lies in perspective and
casts no doubt on the label. Knows no light, but for which windows are lit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cag_uda.scenes.noise import Floats, blotched, grainy, scattered
from cag_uda.scenes.surfaces import Material, Surfaces


class Spots(NamedTuple):
    """The pixels of one material, N of them."""

    surface: NDArray[np.intp]
    x: Floats
    y: Floats
    z: Floats
    along: Floats
    """Metres along a wall from its first corner."""
    pixel_m: Floats
    """Metres that a pixel covers: patterns finer than that must fade."""
    colour: list[Floats]
    """Red, green, blue, changed in place: as on a screen, in [0, 1]."""
    glow: Floats
    """Light given off when lamps are on, in units of the colour; changed in place."""


@dataclass(frozen=True)
class Style:
    """Settings of the look that patterns use."""

    texture: float
    lit_share: float
    sky_shine: tuple[float, float, float]
    """Screen colour of the sky in window panes."""


def apply(material: Material, spots: Spots, surfaces: Surfaces, style: Style) -> None:
    """Put a material's pattern on its pixels.

    Args:
        material: which pattern.
        spots: the pixels; colour and glow are changed in place.
        surfaces: the scene, for the settings of each surface.
        style: what the look asks for.
    """
    _PATTERNS[material](spots, surfaces, style)


def _number(spots: Spots, surfaces: Surfaces, column: int) -> Floats:
    return np.take(surfaces.numbers[:, column], spots.surface)


def _blend(spots: Spots, share: Floats, surfaces: Surfaces) -> None:
    """Mix in the accent colour."""
    for axis in range(3):
        accent = np.take(surfaces.accent[:, axis], spots.surface)
        spots.colour[axis] += (accent - spots.colour[axis]) * share


def _multiply(spots: Spots, factor: Floats) -> None:
    for part in spots.colour:
        part *= factor


def _fade(spots: Spots, size_m: float) -> Floats:
    """Give 1 where a detail of this size is well seen, 0 where it is under half a pixel."""
    seen: Floats = np.clip(size_m / spots.pixel_m - np.float32(0.5), 0, 1)
    return seen


def _level(spots: Spots) -> Floats:
    # A level coordinate that changes along any upright surface the camera sees much of.
    level: Floats = spots.x + spots.z * np.float32(0.45)
    return level


def _part(value: Floats) -> Floats:
    """Give what is after the point; ten times as fast as `value % 1`."""
    part: Floats = value - np.floor(value)
    return part


def _between(value: Floats, half: Floats | float) -> NDArray[np.bool_]:
    return np.abs(value) < half


def _plain(spots: Spots, surfaces: Surfaces, style: Style) -> None:
    if style.texture > 0.5:
        dirt = grainy(_level(spots) * np.float32(9), spots.y * np.float32(9))
        _multiply(spots, 1 + (dirt - np.float32(0.5)) * np.float32(0.08 * style.texture))


def _road(spots: Spots, surfaces: Surfaces, style: Style) -> None:
    x, z = spots.x, spots.z
    strength = np.float32(style.texture)
    grain = grainy(x * np.float32(70), z * np.float32(50)) - np.float32(0.5)
    stains = blotched(x * np.float32(14), z * np.float32(4)) - np.float32(0.5)
    worn = grainy(x * np.float32(40), z * np.float32(14))
    fine = _fade(spots, 0.05)
    patch = scattered(np.floor(x * np.float32(0.4)), np.floor(z * np.float32(0.17)), 7.0)
    mended = np.where(patch < 0.06, np.float32(0.8), np.float32(1.0))
    shade = 1 + strength * (grain * fine * np.float32(0.26) + stains * np.float32(0.16))
    _multiply(spots, shade * (1 + (mended - 1) * strength))
    line, period, lane, edge, left, right = (_number(spots, surfaces, n) for n in range(6))
    is_double = line > 1
    dashed = _part(np.divide(z, np.maximum(period, np.float32(0.1)))) < np.float32(0.5)
    paint = (line > 0) & ~is_double & _between(x, 0.08) & dashed
    paint |= is_double & _between(np.abs(x) - np.float32(0.16), 0.06)
    paint |= (lane > 0) & _between(np.abs(x) - lane, 0.06) & dashed
    middle, half = (left + right) * np.float32(0.5), (right - left) * np.float32(0.5)
    paint |= (edge > 0) & _between(np.abs(x - middle) - (half - edge), 0.06)
    rubbed = np.clip(np.float32(1.1) - worn * strength * np.float32(0.6), 0, 1)
    seen = np.clip(np.float32(0.16) / spots.pixel_m, np.float32(0.25), 1)
    _blend(spots, paint * seen * rubbed * np.float32(0.92), surfaces)


def _paving(spots: Spots, surfaces: Surfaces, style: Style) -> None:
    size = np.maximum(_number(spots, surfaces, 0), np.float32(0.2))
    column, row = spots.x / size, spots.z / size
    cell_x, cell_z = np.floor(column), np.floor(row)
    joint = (column - cell_x < np.float32(0.07)) | (row - cell_z < np.float32(0.07))
    own = scattered(cell_x, cell_z, 3.0) - np.float32(0.5)
    fine = _fade(spots, 0.35)
    grain = grainy(spots.x * np.float32(22), spots.z * np.float32(22)) - np.float32(0.5)
    strength = np.float32(style.texture)
    shade = 1 - joint * fine * np.float32(0.14 + 0.12 * style.texture)
    shade += own * fine * np.float32(0.04 + 0.12 * style.texture) + grain * strength * np.float32(
        0.16
    )
    _multiply(spots, shade)


def _grass(spots: Spots, surfaces: Surfaces, style: Style) -> None:
    blades = grainy(spots.x * np.float32(30), spots.z * np.float32(11)) - np.float32(0.5)
    tufts = blotched(spots.x * np.float32(12), spots.z * np.float32(12)) - np.float32(0.5)
    _multiply(spots, 1 + blades * np.float32(0.1 + 0.3 * style.texture) + tufts * np.float32(0.2))


def _foliage(spots: Spots, surfaces: Surfaces, style: Style) -> None:
    scale = _number(spots, surfaces, 0)
    across, up = _level(spots) * scale, spots.y * scale
    leaf = grainy(across * np.float32(11), up * np.float32(11))
    bough = blotched(across * np.float32(14), up * np.float32(14))
    texture = np.float32(style.texture)
    # Three tones, as a brush would do it; the darkest are the gaps between leaves, which tell a
    # crown from a green wall.
    tone = leaf * np.float32(0.6) + bough * np.float32(0.4)
    shade = np.where(tone < np.float32(0.33), np.float32(0.76) - texture * np.float32(0.14), 1)
    shade = np.where(tone > np.float32(0.68), np.float32(1.16) + texture * np.float32(0.1), shade)
    _multiply(spots, shade + (leaf - np.float32(0.5)) * texture * np.float32(0.4))


def _planks(spots: Spots, surfaces: Surfaces, style: Style) -> None:
    board = spots.along / np.maximum(_number(spots, surfaces, 0), np.float32(0.05))
    cell = np.floor(board)
    seam = (board - cell < np.float32(0.13)) * _fade(spots, 0.07)
    own = scattered(cell, np.zeros_like(cell), 5.0) - np.float32(0.5)
    vein = grainy(spots.along * np.float32(70), spots.y * np.float32(5)) - np.float32(0.5)
    _multiply(spots, 1 - seam * np.float32(0.4) + own * np.float32(0.14)
              + vein * np.float32(0.26 * style.texture))  # fmt: skip


def _roof(spots: Spots, surfaces: Surfaces, style: Style) -> None:
    row = spots.y * np.float32(4.2)
    cell = np.floor(row)
    tile = np.floor((spots.along + cell * np.float32(0.5)) * np.float32(3))
    seam = (row - cell < np.float32(0.22)) * _fade(spots, 0.16)
    own = (scattered(tile, cell, 9.0) - np.float32(0.5)) * _fade(spots, 0.2)
    _multiply(spots, 1 - seam * np.float32(0.16) + own * np.float32(0.06 + 0.3 * style.texture))


def _glass(spots: Spots, surfaces: Surfaces, style: Style) -> None:
    shine = np.clip(spots.y * np.float32(0.9) - np.float32(0.85), 0, np.float32(0.6))
    streak = grainy(_level(spots) * np.float32(5), spots.y * np.float32(9))
    shine = shine * (np.float32(0.7) + streak * np.float32(0.35))
    for axis in range(3):
        spots.colour[axis] += (np.float32(style.sky_shine[axis]) - spots.colour[axis]) * shine


def _stripes(spots: Spots, surfaces: Surfaces, style: Style) -> None:
    part = np.divide(spots.along, np.maximum(_number(spots, surfaces, 0), np.float32(0.1)))
    is_light = _part(part) < np.float32(0.5)
    _blend(spots, is_light.astype(np.float32) * np.float32(0.9), surfaces)


def _facade(spots: Spots, surfaces: Surfaces, style: Style) -> None:
    """Draw storeys of windows, a shop or a door at the ground, a cornice, and bricks.

    Settings: bay width, storey height, window's share of either, height of the ground floor,
    height of the wall, whether there is a shop, the house's own number.
    """
    bay, storey, share_x, share_y, ground, top, shop, salt = (
        _number(spots, surfaces, n) for n in range(8)
    )
    y = spots.y
    column = spots.along / bay
    bay_number = np.floor(column)
    across = np.abs(column - bay_number - np.float32(0.5)) * bay
    floors = (y - ground) / storey
    floor_number = np.floor(floors)
    up = (floors - floor_number - np.float32(0.54)) * storey
    is_ground = floor_number < 0
    half_x, half_y = share_x * bay / 2, share_y * storey / 2
    own = scattered(bay_number, floor_number, salt)
    is_shop = is_ground & (shop > 0)
    is_door = is_ground & ~is_shop & (own < np.float32(0.3))
    up = np.where(is_ground, y - np.float32(1.65), up)
    half_x = np.where(is_shop, bay * np.float32(0.44), np.where(is_door, np.float32(0.5), half_x))
    half_y = np.where(is_shop, np.float32(1.0), half_y)
    up = np.where(is_door, y - np.float32(1.15), up)
    half_y = np.where(is_door, np.float32(1.1), half_y)
    is_wall_left = y < top - np.float32(0.5)
    inside = (across < half_x) & (np.abs(up) < half_y) & is_wall_left
    border = np.float32(0.13)
    frame = (across < half_x + border) & (np.abs(up) < half_y + border) & is_wall_left & ~inside
    bars = inside & ~is_shop & ~is_door & (across < np.float32(0.05))
    seen = _fade(spots, 0.4)
    _walls(spots, style, salt)
    trim = frame | bars
    trim |= (y > top - np.float32(0.32)) | (is_ground & (y > ground - np.float32(0.2)))
    sign_board = is_shop & (y > np.float32(2.75)) & (y < np.float32(3.3))
    _blend(spots, trim * seen, surfaces)
    _panes(
        spots, style, (inside & ~bars & ~is_door) * np.clip(seen + np.float32(0.3), 0, 1), own, up
    )
    wood = is_door & inside
    tints = [np.float32(0.5), np.float32(0.31), np.float32(0.77)]
    for axis, tint in enumerate(tints):
        hue = (
            scattered(salt, np.full_like(salt, np.float32(axis)), 11.0) * np.float32(0.75)
            + tint / 8
        )
        spots.colour[axis][:] = np.where(wood | sign_board, hue, spots.colour[axis])
    glow = spots.glow
    glow += sign_board * np.float32(0.25 if style.lit_share else 0.0)


def _walls(spots: Spots, style: Style, salt: Floats) -> None:
    """Lay bricks or plaster, and dirt that gathers towards the ground."""
    if style.texture < 0.3:
        return
    strength = np.float32(style.texture)
    is_brick = _part(salt * np.float32(0.37)) > np.float32(0.35)
    row = spots.y * np.float32(9)
    course = np.floor(row)
    brick = spots.along * np.float32(3.6) + course * np.float32(0.5)
    place = np.floor(brick)
    joint = (row - course < np.float32(0.2)) | (brick - place < np.float32(0.09))
    fine = _fade(spots, 0.1) * is_brick
    own = scattered(place, course, 13.0) - np.float32(0.5)
    dirt = blotched(spots.along * np.float32(12), spots.y * np.float32(12)) - np.float32(0.5)
    streaks = grainy(spots.along * np.float32(8), spots.y * np.float32(0.6)) - np.float32(0.5)
    low = np.clip(1 - spots.y * np.float32(0.5), 0, 1) * np.float32(0.2)
    shade = joint * fine * np.float32(0.22) + low
    _multiply(spots, 1 + strength * (own * fine * np.float32(0.35) + dirt * np.float32(0.14)
              + streaks * np.float32(0.12) - shade))  # fmt: skip


def _panes(spots: Spots, style: Style, share: Floats, own: Floats, up: Floats) -> None:
    """Fill windows: dark glass with the sky in it, curtains, or light from within."""
    dark = np.float32(0.11) + own * np.float32(0.16)
    mirror = np.clip(np.float32(0.3) + up * np.float32(0.25), 0, np.float32(0.55))
    mirror *= np.float32(0.45) + _part(own * 7) * np.float32(0.55)
    curtain = (_part(own * 13) < np.float32(0.25)) * (up > np.float32(-0.1)) * np.float32(0.45)
    lit = _part(own * 29) < np.float32(style.lit_share)
    warm = (1.0, 0.76, 0.42)
    for axis in range(3):
        sky = np.float32(style.sky_shine[axis])
        pane = dark + (sky - dark) * mirror
        pane = pane + (np.float32(0.8) - pane) * curtain
        pane = np.where(lit, np.float32(warm[axis]), pane)
        spots.colour[axis] += (pane - spots.colour[axis]) * share
    glow = spots.glow
    glow += lit * share * (np.float32(0.25) + _part(own * 5) * np.float32(0.6))


_PATTERNS: dict[Material, Callable[[Spots, Surfaces, Style], None]] = {
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
