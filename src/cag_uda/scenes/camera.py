"""A pinhole camera over a ground plane. Knows no objects.

World: x to the right, y up, z along the street, in metres, the ground at y = 0. Image: u to the
right, v down, in pixels, whole numbers at pixel centres. Products are written out instead of
called through a matrix library, whose rounding differs between machines.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cag_uda.scenes.dice import Dice
from cag_uda.scenes.noise import Floats

Vector = tuple[float, float, float]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """Position and direction of a camera, independent of the size of the image."""

    x_m: float
    height_m: float
    heading_rad: float
    """Turn to the right of the street's direction."""
    pitch_rad: float
    """Downward tilt."""
    roll_rad: float
    focal: float
    """Focal length over the geometric mean of the image's sides."""

    @classmethod
    def sample(cls, dice: Dice, x_m: float) -> Self:
        """Draw a pose as on a dashboard, seldom turned far, at a place across the street."""
        turn = dice.uniform(-0.3, 0.3) if dice.chance(0.2) else dice.uniform(-0.1, 0.1)
        return cls(
            x_m=x_m,
            height_m=dice.uniform(1.3, 2.1),
            heading_rad=turn,
            pitch_rad=dice.uniform(-0.03, 0.07),
            roll_rad=dice.uniform(-0.02, 0.02),
            focal=dice.uniform(0.78, 1.1),
        )


class Camera:
    """A pose and an image size: projects points, and knows the ray through every pixel."""

    def __init__(self, pose: Pose, height_px: int, width_px: int) -> None:
        self.height_px, self.width_px = height_px, width_px
        self.focal_px = pose.focal * math.sqrt(height_px * width_px)
        self.centre_u, self.centre_v = (width_px - 1) / 2, (height_px - 1) / 2
        self.position: Vector = (pose.x_m, pose.height_m, 0.0)
        turn_sin, turn_cos = math.sin(pose.heading_rad), math.cos(pose.heading_rad)
        tilt_sin, tilt_cos = math.sin(pose.pitch_rad), math.cos(pose.pitch_rad)
        roll_sin, roll_cos = math.sin(pose.roll_rad), math.cos(pose.roll_rad)
        level_right = (turn_cos, 0.0, -turn_sin)
        level_up = (turn_sin * tilt_sin, tilt_cos, turn_cos * tilt_sin)
        self.forward: Vector = (turn_sin * tilt_cos, -tilt_sin, turn_cos * tilt_cos)
        self.right: Vector = mixed(level_right, roll_cos, level_up, roll_sin)
        self.up: Vector = mixed(level_up, roll_cos, level_right, -roll_sin)

    def to_camera(self, points: Points) -> Points:
        """Turn world points (N, 3) in metres into the camera's axes: right, up and forward."""
        offset = points - np.asarray(self.position)
        x, y, z = offset[:, 0], offset[:, 1], offset[:, 2]
        axes = (self.right, self.up, self.forward)
        return np.stack([x * axis[0] + y * axis[1] + z * axis[2] for axis in axes], axis=1)

    def to_image(self, seen: Points) -> Points:
        """Project points (N, 3) of `to_camera`, in front of it, to u and v (N, 2) in pixels."""
        scale = self.focal_px / seen[:, 2]
        return np.stack(
            [self.centre_u + seen[:, 0] * scale, self.centre_v - seen[:, 1] * scale], axis=1
        )

    def inverse_depth(self, normal: Points, point: Points) -> Points:
        """Describe planes by their inverse depth, which is linear in the image.

        Args:
            normal: (S, 3) normals in the camera's axes, any length.
            point: (S, 3) a point of each plane in the camera's axes.

        Returns:
            (S, 3) a, b, c: at pixel (u, v) a plane's forward distance is 1 / (a u + b v + c).
            A plane seen edge-on gets the distance of its point.
        """
        reach = normal[:, 0] * point[:, 0] + normal[:, 1] * point[:, 1] + normal[:, 2] * point[:, 2]
        size = np.sqrt((normal * normal).sum(axis=1)) * np.sqrt((point * point).sum(axis=1))
        is_edge_on = np.abs(reach) <= 1e-4 * size + 1e-12
        safe = np.where(is_edge_on, 1.0, reach)
        across, down = normal[:, 0] / safe, -normal[:, 1] / safe
        slope_u = np.where(is_edge_on, 0.0, across / self.focal_px)
        slope_v = np.where(is_edge_on, 0.0, down / self.focal_px)
        offset = normal[:, 2] / safe - slope_u * self.centre_u - slope_v * self.centre_v
        flat = 1.0 / np.maximum(point[:, 2], 0.1)
        return np.stack([slope_u, slope_v, np.where(is_edge_on, flat, offset)], axis=1)

    def rays(self, column: Floats, row: Floats) -> list[Floats]:
        """Give the world directions through pixels (N,), one metre forward: x, y, z, each (N,)."""
        scale = 1 / self.focal_px
        across = (column - self.centre_u) * scale
        above = (self.centre_v - row) * scale
        return [
            across * self.right[axis] + above * self.up[axis] + self.forward[axis]
            for axis in range(3)
        ]


def mixed(first: Vector, first_share: float, second: Vector, second_share: float) -> Vector:
    """Add two vectors, or colours, each by its share."""
    a, b, c = (
        one * first_share + other * second_share for one, other in zip(first, second, strict=True)
    )
    return (a, b, c)
