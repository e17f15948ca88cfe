"""Turns painted surface numbers into light: patterns, sun, shadows, lamps, haze and sky.

Everything is looked up by surface number and by the world point of each pixel. Knows no classes.
Per pixel there are only operations that IEEE 754 rounds exactly (+ − × ÷ √), so that two machines
make the same bytes.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cag_uda.data.rendering.camera import Camera, Vector
from cag_uda.data.rendering.looks import Light
from cag_uda.data.rendering.materials import Spots, Style, apply
from cag_uda.data.rendering.noise import Floats, cloudy
from cag_uda.data.rendering.painting import Numbers
from cag_uda.data.rendering.shadows import cast_shadows, contact_at, soft_contact, sunlit
from cag_uda.data.rendering.surfaces import Material, Surfaces

_MAX_LAMPS = 5
_HAZE_STEPS = 1024
_HAZE_STEP_M = 0.5


class _Ground(NamedTuple):
    """World points of the pixels below the sky, N of them."""

    pixel: NDArray[np.intp]
    surface: NDArray[np.intp]
    depth: Floats
    x: Floats
    y: Floats
    z: Floats


def shade(
    surfaces: Surfaces,
    numbers: Numbers,
    inverse_depth: Floats,
    camera: Camera,
    light: Light,
    lamps: list[Vector],
) -> Floats:
    """Give the light that reaches the camera.

    Args:
        surfaces: the scene.
        numbers: (H, W) surface seen at each pixel.
        inverse_depth: (S, 3) from `paint_from_camera`.
        camera: of that painting.
        light: sun, sky, air.
        lamps: where street lamps hang, in world metres.

    Returns:
        (3, H, W) float32 linear light, red, green, blue.
    """
    rays = camera.rays()
    flat = numbers.reshape(-1)
    is_sky = flat == 0
    ground = _points(flat, np.flatnonzero(~is_sky), inverse_depth, camera, rays)
    colour, glow = _colours(surfaces, ground, camera, light)
    bright = _lit(surfaces, ground, light)
    if light.lamps > 0:
        _add_lamps(bright, ground, camera, light, lamps)
    haze = _haze_table(light.haze_m)
    step = np.minimum(ground.depth * np.float32(1 / _HAZE_STEP_M), _HAZE_STEPS - 1)
    veil = haze[step.astype(np.int32)]
    out = np.empty((3, flat.size), np.float32)
    above = np.flatnonzero(is_sky)
    sky = _sky(light, [ray.reshape(-1)[above] for ray in rays])
    emission = np.take(surfaces.emission, ground.surface) * np.float32(light.lamps)
    emission += glow * np.float32(light.lamps)
    for axis in range(3):
        reflected = colour[axis] * colour[axis]
        seen = reflected * bright[axis] + reflected * emission
        seen += (np.float32(light.horizon[axis]) - seen) * veil
        out[axis, ground.pixel] = seen
        out[axis, above] = sky[axis]
    return out.reshape(3, *numbers.shape)


def _points(
    flat: Numbers,
    pixel: NDArray[np.intp],
    inverse_depth: Floats,
    camera: Camera,
    rays: tuple[Floats, Floats, Floats],
) -> _Ground:
    surface = flat[pixel].astype(np.intp)
    row = pixel // camera.width_px
    column = pixel - row * camera.width_px
    a, b, c = (np.take(inverse_depth[:, axis], surface) for axis in range(3))
    inverse = a * column.astype(np.float32) + b * row.astype(np.float32) + c
    depth = 1 / np.clip(inverse, np.float32(1e-3), np.float32(10))
    x, y, z = (
        ray.reshape(-1)[pixel] * depth + np.float32(start)
        for ray, start in zip(rays, camera.position, strict=True)
    )
    return _Ground(pixel, surface, depth, x, y, z)


def _colours(
    surfaces: Surfaces, ground: _Ground, camera: Camera, light: Light
) -> tuple[list[Floats], Floats]:
    """Give the screen colour of every pixel with its pattern, and the light of lit windows."""
    red, green, blue = (
        math.sqrt((h + z) / 2) for h, z in zip(light.horizon, light.zenith, strict=True)
    )
    style = Style(light.texture, light.lit_share, (red, green, blue))
    colour = [np.take(surfaces.colour[:, axis], ground.surface) for axis in range(3)]
    glow = np.zeros_like(ground.depth)
    tangent_x, tangent_z, origin = _tangents(surfaces)
    kinds = np.take(surfaces.material, ground.surface)
    order = np.argsort(kinds, kind="stable")
    bounds = np.searchsorted(kinds[order], np.arange(len(Material) + 1))
    for material in Material:
        chosen = order[bounds[material] : bounds[material + 1]]
        if not len(chosen):
            continue
        surface, x, z = ground.surface[chosen], ground.x[chosen], ground.z[chosen]
        spots = Spots(
            surface=surface,
            x=x,
            y=ground.y[chosen],
            z=z,
            along=np.abs(
                x * np.take(tangent_x, surface)
                + z * np.take(tangent_z, surface)
                - np.take(origin, surface)
            ),
            pixel_m=ground.depth[chosen] * np.float32(1 / camera.focal_px),
            colour=[part[chosen] for part in colour],
            glow=glow[chosen],
        )
        apply(material, spots, surfaces, style)
        for part, changed in zip(colour, spots.colour, strict=True):
            part[chosen] = changed
        glow[chosen] = spots.glow
    for part in colour:
        np.clip(part, 0, 1.2, out=part)
    return colour, glow


def _tangents(surfaces: Surfaces) -> tuple[Floats, Floats, Floats]:
    """Give the level direction along each surface, and where its first corner lies on it."""
    x, z = surfaces.normal[:, 0], surfaces.normal[:, 2]
    size = np.sqrt(x * x + z * z)
    is_level = ~(size > 1e-6)
    safe = np.where(is_level, 1.0, size)
    tangent_x, tangent_z = np.where(is_level, 1.0, z / safe), np.where(is_level, 0.0, -x / safe)
    contour = np.searchsorted(surfaces.contour_surface, np.arange(1, len(x)))
    corner = surfaces.vertices[surfaces.contour_start[contour]]
    origin = np.zeros(len(x))
    origin[1:] = corner[:, 0] * tangent_x[1:] + corner[:, 2] * tangent_z[1:]
    return tangent_x.astype(np.float32), tangent_z.astype(np.float32), origin.astype(np.float32)


def _lit(surfaces: Surfaces, ground: _Ground, light: Light) -> list[Floats]:
    """Give the light that falls on each pixel from sun and sky."""
    normal = surfaces.normal
    is_flat = np.isnan(normal[:, 0])
    upward = np.where(is_flat, 0.1, normal[:, 1])
    slope = sum(normal[:, axis] * light.toward_sun[axis] for axis in range(3))
    # A flat figure stands for a round body, half of which is lit from anywhere.
    direct = np.where(is_flat, 0.55, np.maximum(slope, 0.0)).astype(np.float32)
    # The sky lights what looks up; a wall sees half of it. East and west differ a little.
    side = np.where(is_flat, 0.0, normal[:, 0] * 0.08 - normal[:, 2] * 0.04)
    open_sky = (0.74 + 0.26 * upward + side).astype(np.float32)
    blocked = contact_at(soft_contact(surfaces), ground.x, ground.z)
    near_ground = np.clip(1 - ground.y * np.float32(1.6), 0, 1)
    ambient = np.take(open_sky, ground.surface) * (1 - blocked * near_ground * np.float32(0.8))
    if max(light.sun) <= 0:
        return [ambient * np.float32(part) for part in light.sky]
    shadows = cast_shadows(surfaces, light.toward_sun)
    sun = np.take(direct, ground.surface)
    reached = np.flatnonzero(sun > 0)
    sun[reached] *= sunlit(shadows, ground.x[reached], ground.y[reached], ground.z[reached])
    return [
        ambient * np.float32(sky) + sun * np.float32(beam)
        for sky, beam in zip(light.sky, light.sun, strict=True)
    ]


def _add_lamps(
    bright: list[Floats], ground: _Ground, camera: Camera, light: Light, lamps: list[Vector]
) -> None:
    """Add the pools of street lamps and of the camera car's own headlights, in place."""
    tints = ((1.0, 0.72, 0.40), (0.95, 0.92, 0.82))
    nearest = sorted((lamp for lamp in lamps if lamp[2] > -5), key=lambda lamp: lamp[2])
    pools = np.zeros_like(ground.depth)
    for x, y, z in nearest[:_MAX_LAMPS]:
        away_x, away_y, away_z = (
            ground.x - np.float32(x),
            np.float32(y) - ground.y,
            ground.z - np.float32(z),
        )
        square = away_x * away_x + away_y * away_y + away_z * away_z + np.float32(1.5)
        pools += np.maximum(away_y, 0) / (square * np.sqrt(square)) * np.float32(0.55 * y * y / 4)
    ahead_x = ground.x - np.float32(camera.position[0])
    width = np.float32(1.0) + np.maximum(ground.z, 0) * np.float32(0.32)
    off = ahead_x / width
    beam = np.maximum(1 - off * off, 0) * (ground.z > 1)
    fall = ground.z * np.float32(1 / 11)
    low = np.clip(np.float32(1.5) - ground.y * np.float32(0.6), np.float32(0.12), 1)
    beam *= low / (1 + fall * fall) * np.float32(0.42)
    for axis, part in enumerate(bright):
        part += (
            pools * np.float32(tints[0][axis]) + beam * np.float32(tints[1][axis])
        ) * np.float32(light.lamps)


def _haze_table(haze_m: float) -> Floats:
    """Tabulate the share of haze by distance: a table rounds away what libraries differ in."""
    shares = [1 - math.exp(-step * _HAZE_STEP_M / haze_m) for step in range(_HAZE_STEPS)]
    return np.floor(np.asarray(shares) * 65536 + 0.5).astype(np.float32) * np.float32(1 / 65536)


def _sky(light: Light, rays: list[Floats]) -> list[Floats]:
    """Give the sky: brighter towards the horizon and the sun, with clouds in perspective."""
    x, y, z = rays
    level = np.sqrt(x * x + z * z)
    up = np.maximum(y / level, 0)
    rise = up * np.float32(1.7) / (np.float32(0.35) + up * np.float32(1.7))
    over = np.float32(3.2) / (up + np.float32(0.14))
    shift = np.float32(light.clouds * 977 % 113)
    shape = cloudy(x / level * over * 3 + shift, z / level * over * 3 + shift)
    shape += (cloudy(x / level * over * 11, z / level * over * 11) - np.float32(0.5)) * np.float32(
        0.35
    )
    edge = np.float32(9.0 if light.texture < 0.5 else 3.0)
    cover = np.clip((shape - np.float32(0.78 - 0.45 * light.clouds)) * edge, 0, 1)
    cover *= np.clip(up * np.float32(7), 0, 1)
    lower = np.clip((shape - np.float32(0.6)) * np.float32(1.2), 0, np.float32(0.25))
    sun = light.toward_sun
    toward = (x * np.float32(sun[0]) + y * np.float32(sun[1]) + z * np.float32(sun[2])) / np.sqrt(
        x * x + y * y + z * z
    )
    halo = np.maximum(toward, 0)
    for _ in range(4):
        halo = halo * halo
    disc = np.clip((toward - np.float32(0.9985)) * np.float32(2500), 0, 1)
    beams = (0.9, 0.55, 0.28)
    parts = []
    for axis in range(3):
        base = np.float32(light.horizon[axis]) * (1 - rise) + np.float32(light.zenith[axis]) * rise
        base += (np.float32(light.cloud[axis]) * (1 - lower) - base) * cover
        if light.glow > 0:
            base += (halo * np.float32(0.7) + disc * 2) * np.float32(light.glow * beams[axis])
        parts.append(base)
    return parts
