"""Turns painted surface numbers into light: patterns, sun, shadows, lamps, haze and sky.

Everything is looked up by surface number and by the world point of each pixel. Knows no classes.
Per pixel there are only operations that IEEE 754 rounds exactly (+ − × ÷ √), so that two machines
make the same bytes.
"""

import numpy as np
from numpy.typing import NDArray

from cag_uda.scenes.camera import Camera, Vector
from cag_uda.scenes.looks import Light
from cag_uda.scenes.materials import PATTERNS, Spots
from cag_uda.scenes.noise import Floats
from cag_uda.scenes.painting import Numbers
from cag_uda.scenes.shadows import cast_shadows, contact_at, soft_contact, sunlit
from cag_uda.scenes.sky import sky_light
from cag_uda.scenes.surfaces import Material, Surfaces

_BLOCK_PX = 24_576
"""Pixels shaded at once: their arrays stay in the cache, and below the size for which the C
library asks the kernel for fresh memory each time."""
_MAX_LAMPS = 4
_HAZE_STEPS = 1024
_HAZE_STEP_M = 0.5


def shade(
    surfaces: Surfaces,
    numbers: Numbers,
    inverse_depth: Floats,
    camera: Camera,
    light: Light,
    lamps: list[Vector],
) -> Floats:
    """Give the linear light (3, H, W) that reaches the camera: red, green, blue.

    The numbers (H, W) of the surfaces seen, and their inverse depths (S, 3), are those that
    `paint_from_camera` gave for this camera; `lamps` are the places of street lamps.
    """
    stage = _Stage(surfaces, inverse_depth, camera, light, lamps)
    flat = numbers.reshape(-1)
    material = np.take(surfaces.material, flat)
    out = [np.empty(flat.size, np.float32) for _ in range(3)]
    for kind in Material:
        pixels = np.flatnonzero(material == kind)
        for start in range(0, len(pixels), _BLOCK_PX):
            pixel = pixels[start : start + _BLOCK_PX]
            if kind is Material.SKY:
                parts = sky_light(light, stage.rays(pixel))
            else:
                parts = stage.shade(kind, pixel, flat[pixel].astype(np.intp))
            for whole, part in zip(out, parts, strict=True):
                whole[pixel] = part
    return np.stack(out).reshape(3, *numbers.shape)


class _Stage:
    """A lit scene before a camera: all that shading looks up."""

    def __init__(
        self,
        surfaces: Surfaces,
        inverse_depth: Floats,
        camera: Camera,
        light: Light,
        lamps: list[Vector],
    ) -> None:
        self.surfaces, self.inverse_depth = surfaces, inverse_depth
        self.camera, self.light = camera, light
        ahead = sorted((lamp for lamp in lamps if lamp[2] > -5), key=lambda lamp: lamp[2])
        self.lamps = ahead[:_MAX_LAMPS]
        self.along = _along(surfaces)
        self.direct, self.open_sky = _exposure_to(surfaces, light.toward_sun)
        has_sun = max(light.sun) > 0
        self.shadows = cast_shadows(surfaces, light.toward_sun) if has_sun else None
        self.soft = soft_contact(surfaces)
        self.haze = _haze_table(light.haze_m)

    def rays(self, pixel: NDArray[np.intp]) -> list[Floats]:
        """Give the world direction through pixels, one metre forward: x, y, z."""
        return self.camera.rays(*self._place(pixel))

    def shade(
        self, kind: Material, pixel: NDArray[np.intp], surface: NDArray[np.intp]
    ) -> list[Floats]:
        """Give the light from pixels of one material: red, green, blue."""
        spots = self._spots(pixel, surface)
        PATTERNS[kind](spots, self.light)
        bright = self._falling_on(spots)
        if self.light.lamps > 0:
            self._add_lamps(bright, spots)
        step = np.minimum(spots.depth * (1 / _HAZE_STEP_M), _HAZE_STEPS - 1)
        veil = self.haze[step.astype(np.int32)]
        own = spots.glow * self.light.lamps
        seen = []
        for axis, part in enumerate(spots.colour):
            np.clip(part, 0, 1.2, out=part)
            part *= part
            part *= bright[axis] + own
            part += (self.light.horizon[axis] - part) * veil
            seen.append(part)
        return seen

    def _place(self, pixel: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Give the column and the row of pixels."""
        narrow = pixel.astype(np.int32)
        row = narrow // self.camera.width_px
        column = narrow - row * self.camera.width_px
        return column.astype(np.float32), row.astype(np.float32)

    def _spots(self, pixel: NDArray[np.intp], surface: NDArray[np.intp]) -> Spots:
        """Find the world points that pixels show, and the paint there."""
        column, row = self._place(pixel)
        a, b, c = (np.take(self.inverse_depth[:, axis], surface) for axis in range(3))
        inverse = a * column + b * row + c
        depth: Floats = np.reciprocal(np.clip(inverse, 1e-3, 10))
        x, y, z = (
            ray * depth + start
            for ray, start in zip(self.camera.rays(column, row), self.camera.position, strict=True)
        )
        a, b, c = (np.take(self.along[:, axis], surface) for axis in range(3))
        return Spots(
            surface=surface,
            x=x,
            y=y,
            z=z,
            depth=depth,
            along=np.abs(x * a + z * b + c),
            pixel_m=depth * (1 / self.camera.focal_px),
            colour=[np.take(self.surfaces.colour[:, axis], surface) for axis in range(3)],
            glow=np.take(self.surfaces.emission, surface),
            surfaces=self.surfaces,
        )

    def _falling_on(self, points: Spots) -> list[Floats]:
        """Give the light that falls on points from sun and sky."""
        sky = np.take(self.open_sky, points.surface)
        low = np.flatnonzero(points.y < 0.625)
        blocked = contact_at(self.soft, points.x[low], points.z[low])
        blocked *= np.clip(1 - points.y[low] * 1.6, 0, 1) * 0.85
        sky[low] *= 1 - blocked
        if self.shadows is None:
            return [sky * part for part in self.light.sky]
        sun = np.take(self.direct, points.surface)
        turned = np.flatnonzero(sun)
        place = (points.x[turned], points.y[turned], points.z[turned])
        sun[turned] *= sunlit(self.shadows, points.surface[turned], *place)
        return [
            sky * diffuse + sun * beam
            for diffuse, beam in zip(self.light.sky, self.light.sun, strict=True)
        ]

    def _add_lamps(self, bright: list[Floats], points: Spots) -> None:
        """Add the pools of street lamps and of the camera car's own headlights, in place."""
        lamp_tint, beam_tint = (1.0, 0.72, 0.40), (0.95, 0.92, 0.82)
        pools = np.zeros_like(points.depth)
        for x, y, z in self.lamps:
            away_x, down, away_z = points.x - x, y - points.y, points.z - z
            square = away_x * away_x + down * down + away_z * away_z + 1.5
            pools += np.maximum(down, 0) / (square * np.sqrt(square)) * (0.16 * y * y)
        width = 1.0 + np.maximum(points.z, 0) * 0.32
        off = (points.x - self.camera.position[0]) / width
        beam = np.maximum(1 - off * off, 0) * (points.z > 1)
        fall = points.z * (1 / 11)
        low = np.clip(1.5 - points.y * 0.6, 0.12, 1)
        beam *= low / (1 + fall * fall) * 0.42
        strength = self.light.lamps
        for part, lamp, head in zip(bright, lamp_tint, beam_tint, strict=True):
            part += pools * (lamp * strength) + beam * (head * strength)


def _exposure_to(surfaces: Surfaces, toward_sun: Vector) -> tuple[Floats, Floats]:
    """Give the shares of sun and sky that each surface takes by the way it is turned."""
    normal = surfaces.normal
    is_flat = np.isnan(normal[:, 0])
    slope = sum(normal[:, axis] * toward_sun[axis] for axis in range(3))
    # A flat figure stands for a round body, half of which is lit from anywhere.
    direct = np.where(is_flat, 0.55, np.maximum(slope, 0.0))
    upward = np.where(is_flat, 0.1, normal[:, 1])
    # The sky lights what looks up; a wall sees half of it, and east and west differ a little.
    side = np.where(is_flat, 0.0, normal[:, 0] * 0.08 - normal[:, 2] * 0.04)
    return direct.astype(np.float32), (0.76 + 0.24 * upward + side).astype(np.float32)


def _along(surfaces: Surfaces) -> Floats:
    """Give the level direction along each surface, from its first corner."""
    x, z = surfaces.normal[:, 0], surfaces.normal[:, 2]
    size = np.sqrt(x * x + z * z)
    is_level = ~(size > 1e-6)
    safe = np.where(is_level, 1.0, size)
    tangent_x, tangent_z = np.where(is_level, 1.0, z / safe), np.where(is_level, 0.0, -x / safe)
    corner = surfaces.first_corner
    origin = np.zeros(len(x))
    origin[1:] = corner[:, 0] * tangent_x[1:] + corner[:, 2] * tangent_z[1:]
    return np.stack([tangent_x, tangent_z, -origin], axis=1).astype(np.float32)


def _haze_table(haze_m: float) -> Floats:
    """Tabulate the share of haze by distance, rounded: libraries differ in the last bits."""
    shares = 1 - np.exp(np.arange(_HAZE_STEPS) * (-_HAZE_STEP_M / haze_m))
    table: Floats = np.floor(shares * 65536 + 0.5).astype(np.float32) * (1 / 65536)
    return table
