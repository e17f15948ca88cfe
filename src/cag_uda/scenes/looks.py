"""The two looks: what light, air and camera response an image of each is made with.

`clean` is the source domain, a game: high sun, clear air, flat saturated colours. `hard` is the
target domain, a drive at dusk: low sun, heavy cloud, nightfall or fog, with textures and a sensor.
Both are drawn anew for every image. Knows no geometry.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cag_uda.scenes.camera import Vector
from cag_uda.scenes.dice import Dice
from cag_uda.scenes.palettes import blended, scaled
from cag_uda.scenes.surfaces import Colour

Look: TypeAlias = Literal["clean", "hard"]
"""The look of an image: `clean` for a source domain, `hard` for a target domain."""


@dataclass(frozen=True)
class Light:
    """Sun, sky and air. Colours are linear light, in which a white wall in the sun is about 1."""

    toward_sun: Vector
    sun: Colour
    sky: Colour
    """Light that comes from above on everything."""
    zenith: Colour
    horizon: Colour
    clouds: float
    """Share of the sky under cloud."""
    cloud: Colour
    glow: float
    """Brightness of the air around the sun."""
    haze_m: float
    """Distance at which the air hides about two thirds of a thing."""
    texture: float
    """Strength of surface textures, 0 … 1."""
    lamps: float
    """Strength of lamps, headlights and lit windows; 0 by day."""
    lit_share: float
    """Share of windows with light behind them."""

    @property
    def shine(self) -> Colour:
        """Screen colour of the sky in window panes."""
        red, green, blue = (
            math.sqrt((low + high) / 2) for low, high in zip(self.horizon, self.zenith, strict=True)
        )
        return red, green, blue


@dataclass(frozen=True)
class Sensor:
    """Response of a camera: light to 8-bit numbers. The default changes nothing."""

    mean: float | None = None
    """Mean brightness that the exposure aims at, in [0, 1] on a screen; None for a fixed one."""
    gains: Colour = (1.0, 1.0, 1.0)
    """White balance."""
    saturation: float = 1.0
    contrast: float = 1.0
    lift: float = 0.0
    """Stray light in the blacks, in [0, 1] on a screen."""
    vignette: float = 0.0
    """Loss of brightness in the corners."""
    blur: float = 0.0
    """Standard deviation in thousandths of the image's mean side."""
    noise: float = 0.0
    """Standard deviation on a screen of [0, 1] in the dark parts."""
    bloom: float = 0.0
    """Share of the brightest light that spreads."""


def sample_look(look: Look, dice: Dice) -> tuple[Light, Sensor]:
    """Draw light and camera response of one image."""
    return _clean(dice) if look == "clean" else _hard(dice)


def _clean(dice: Dice) -> tuple[Light, Sensor]:
    blue = blended((0.10, 0.30, 0.80), (0.25, 0.52, 0.92), dice.unit())
    light = Light(
        toward_sun=_direction(dice, dice.uniform(0.75, 1.15)),
        sun=blended((0.95, 0.90, 0.78), (1.0, 0.84, 0.62), dice.unit()),
        sky=scaled((0.42, 0.47, 0.55), dice.uniform(0.85, 1.15)),
        zenith=blue,
        horizon=blended(blue, (0.86, 0.93, 0.98), dice.uniform(0.6, 0.85)),
        clouds=dice.uniform(0.15, 0.55),
        cloud=(0.97, 0.98, 1.0),
        glow=0.0,
        haze_m=dice.uniform(500.0, 1200.0),
        texture=0.12,
        lamps=0.0,
        lit_share=0.0,
    )
    return light, Sensor(saturation=dice.uniform(1.15, 1.35))


def _hard(dice: Dice) -> tuple[Light, Sensor]:
    mood = dice.weighted({"sunset": 0.4, "overcast": 0.22, "nightfall": 0.25, "fog": 0.13})
    warm = dice.unit()
    lamps = {"sunset": 0.25, "overcast": 0.5, "nightfall": 1.0, "fog": 0.8}[mood]
    lamps = lamps * dice.uniform(0.6, 1.2) if mood == "nightfall" or dice.chance(0.7) else 0.0
    sky_level = {"sunset": 0.15, "overcast": 0.2, "nightfall": 0.06, "fog": 0.22}[mood]
    sky_tint = blended((0.62, 0.74, 1.0), (0.92, 0.9, 0.94), dice.unit())
    zenith, horizon = _dusk_sky(dice, mood, warm)
    light = Light(
        toward_sun=_direction(dice, dice.uniform(0.1, 0.3)),
        sun=blended((1.0, 0.70, 0.40), (1.0, 0.46, 0.24), warm) if mood == "sunset" else (0.0,) * 3,
        sky=scaled(sky_tint, sky_level * dice.uniform(0.75, 1.3)),
        zenith=zenith,
        horizon=horizon,
        clouds=dice.uniform(0.2, 0.75),
        cloud=blended(horizon, zenith, dice.uniform(0.1, 0.7)),
        glow=dice.uniform(0.5, 1.4) if mood == "sunset" else 0.0,
        haze_m=dice.uniform(28.0, 65.0) if mood == "fog" else dice.uniform(90.0, 400.0),
        texture=dice.uniform(0.7, 1.0),
        lamps=lamps,
        lit_share=dice.uniform(0.1, 0.45) if lamps else 0.0,
    )
    cast = dice.uniform(-0.16, 0.16)
    sensor = Sensor(
        mean=dice.uniform(0.2, 0.3) if mood == "nightfall" else dice.uniform(0.25, 0.42),
        gains=(1.0 + cast, 1.0 + dice.uniform(-0.06, 0.06), 1.0 - cast),
        saturation=dice.uniform(0.55, 1.1),
        contrast=dice.uniform(0.85, 1.25),
        lift=dice.uniform(0.0, 0.05),
        vignette=dice.uniform(0.1, 0.5),
        blur=dice.uniform(0.4, 2.0) if dice.chance(0.7) else dice.uniform(2.0, 4.2),
        noise=dice.uniform(0.008, 0.035),
        bloom=dice.uniform(0.3, 0.8),
    )
    return light, sensor


def _dusk_sky(dice: Dice, mood: str, warm: float) -> tuple[Colour, Colour]:
    """Give the linear colours of zenith and horizon."""
    if mood == "sunset":
        low = blended((0.98, 0.66, 0.36), (0.92, 0.40, 0.24), warm)
        return scaled((0.16, 0.26, 0.52), dice.uniform(0.7, 1.5)), scaled(
            low, dice.uniform(0.6, 1.0)
        )
    if mood == "nightfall":
        blue = scaled((0.025, 0.04, 0.10), dice.uniform(0.8, 2.0))
        return blue, blended(scaled(blue, 2.5), (0.24, 0.15, 0.12), dice.uniform(0.2, 0.8))
    grey = blended((0.34, 0.38, 0.46), (0.40, 0.37, 0.36), dice.unit())
    grey = scaled(grey, dice.uniform(0.7, 1.2))
    return scaled(grey, 0.75 if mood == "overcast" else 0.92), scaled(grey, dice.uniform(1.0, 1.3))


def _direction(dice: Dice, elevation_rad: float) -> Vector:
    """Draw where the sun stands, at a given height."""
    turn = dice.uniform(0.0, 2 * math.pi)
    level = math.cos(elevation_rad)
    return (math.sin(turn) * level, math.sin(elevation_rad), math.cos(turn) * level)
