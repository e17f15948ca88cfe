"""The sky: brighter towards the horizon and the sun, with clouds in perspective."""

import numpy as np

from cag_uda.scenes.looks import Light
from cag_uda.scenes.noise import Floats, cloudy

_BEAM = (0.9, 0.55, 0.28)
"""Colour of the air around a low sun."""


def sky_light(light: Light, rays: list[Floats]) -> list[Floats]:
    """Give the light of the sky.

    Args:
        light: its colours, clouds and sun.
        rays: x, y and z of the world directions, each (N,) float32, of any length.

    Returns:
        Red, green, blue, each (N,) float32 linear light.
    """
    x, y, z = rays
    level = np.sqrt(x * x + z * z)
    x_level, z_level = np.divide(x, level), np.divide(z, level)
    up = np.maximum(np.divide(y, level), 0)
    steep = up * np.float32(1.7)
    rise = steep / (np.float32(0.35) + steep)
    cover, shade = _clouds(light, x_level, z_level, up)
    halo, disc = _sun(light, x, y, z)
    parts = []
    for axis in range(3):
        low, high = np.float32(light.horizon[axis]), np.float32(light.zenith[axis])
        base = low + (high - low) * rise
        base += (np.float32(light.cloud[axis]) * (1 - shade) - base) * cover
        if light.glow > 0:
            base += (halo * np.float32(0.7) + disc * 2) * np.float32(light.glow * _BEAM[axis])
        parts.append(base)
    return parts


def _clouds(light: Light, x: Floats, z: Floats, up: Floats) -> tuple[Floats, Floats]:
    """Give how much cloud covers each direction, and how dark its underside is."""
    # Seen at an angle the cloud layer shrinks towards the horizon.
    over = np.float32(3.2) / (up + np.float32(0.14))
    shift = np.float32(light.clouds * 977 % 113)
    shape = cloudy(x * over * 3 + shift, z * over * 3 + shift)
    wisps = cloudy(x * over * 11, z * over * 11) - np.float32(0.5)
    shape += wisps * np.float32(0.2)
    edge = np.float32(5.0 if light.texture < 0.5 else 1.6)
    cover = np.clip((shape - np.float32(1 - light.clouds)) * edge, 0, 1)
    cover *= np.clip(up * np.float32(7), 0, 1)
    depth = np.float32(0.3 if light.texture < 0.5 else 0.8)
    return cover, np.clip((shape - np.float32(0.6)) * depth, 0, np.float32(0.25))


def _sun(light: Light, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Give the glow around the sun, and its disc."""
    a, b, c = (np.float32(part) for part in light.toward_sun)
    toward = (x * a + y * b + z * c) / np.sqrt(x * x + y * y + z * z)
    halo = np.maximum(toward, 0)
    for _ in range(4):
        halo = halo * halo
    return halo, np.clip((toward - np.float32(0.9985)) * np.float32(2500), 0, 1)
