"""The sky: brighter towards the horizon and the sun, with clouds in perspective."""

import numpy as np

from cag_uda.scenes.looks import Light
from cag_uda.scenes.noise import Floats, cloudy

_BEAM = (0.9, 0.55, 0.28)
"""Colour of the air around a low sun."""


def sky_light(light: Light, rays: list[Floats]) -> list[Floats]:
    """Give the linear light of the sky, red, green, blue, along world directions of any length."""
    x, y, z = rays
    level = np.sqrt(x * x + z * z)
    x_level, z_level = np.divide(x, level), np.divide(z, level)
    up = np.maximum(np.divide(y, level), 0)
    steep = up * 1.7
    rise = steep / (0.35 + steep)
    cover, shade = _clouds(light, x_level, z_level, up)
    halo, disc = _sun(light, x, y, z)
    parts: list[Floats] = []
    for axis in range(3):
        low, high = np.float32(light.horizon[axis]), np.float32(light.zenith[axis])
        base = low + (high - low) * rise
        base += (light.cloud[axis] * (1 - shade) - base) * cover
        if light.glow > 0:
            base += (halo * 0.7 + disc * 2) * (light.glow * _BEAM[axis])
        parts.append(base)
    return parts


def _clouds(light: Light, x: Floats, z: Floats, up: Floats) -> tuple[Floats, Floats]:
    """Give how much cloud covers each direction, and how dark its underside is."""
    # Seen at an angle the cloud layer shrinks towards the horizon.
    over = 3.2 / (up + 0.14)
    shift = light.clouds * 977 % 113
    shape = cloudy(x * over * 3 + shift, z * over * 3 + shift)
    wisps = cloudy(x * over * 11, z * over * 11) - 0.5
    shape += wisps * 0.2
    edge = 5.0 if light.texture < 0.5 else 1.6
    cover = np.clip((shape - (1 - light.clouds)) * edge, 0, 1)
    cover *= np.clip(up * 7, 0, 1)
    depth = 0.3 if light.texture < 0.5 else 0.8
    return cover, np.clip((shape - 0.6) * depth, 0, 0.25)


def _sun(light: Light, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Give the glow around the sun, and its disc."""
    a, b, c = light.toward_sun
    toward = (x * a + y * b + z * c) / np.sqrt(x * x + y * y + z * z)
    halo = np.maximum(toward, 0)
    for _ in range(4):
        halo = halo * halo
    return halo, np.clip((toward - 0.9985) * 2500, 0, 1)
