"""Fixed noise patterns for textures: cheap to sample, the same on every machine.

Nothing here is random from call to call. Only operations that IEEE 754 rounds exactly are used, so
that two machines agree to the last bit.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
"""Arrays of float32, which stay so beside Python's numbers; the types of NumPy cannot tell that."""

_SIZE = 256
_BLOTCHES, _GRAINS = 4, 32


@lru_cache(maxsize=2)
def _tile(coarsest: int) -> Floats:
    """Make tileable noise, (256, 256) in [0, 1), of octaves from this many cells a side to 128."""
    generator = np.random.Generator(np.random.Philox(20190613))
    total = np.zeros((_SIZE, _SIZE))
    cells, weight = coarsest, 1.0
    while cells <= _SIZE // 2:
        coarse = generator.random((cells, cells))
        step = np.arange(_SIZE) * cells / _SIZE
        low = np.floor(step).astype(np.intp)
        part = step - low
        part = part * part * (3.0 - 2.0 * part)
        high = (low + 1) % cells
        rows = coarse[low] * (1.0 - part[:, None]) + coarse[high] * part[:, None]
        total += (rows[:, low] * (1.0 - part) + rows[:, high] * part) * weight
        cells, weight = cells * 2, weight / 2
    # Every value as often as any other: a threshold then says how much of a surface it takes.
    rank = np.empty(total.size, np.float32)
    rank[np.argsort(total, axis=None, kind="stable")] = np.arange(total.size)
    return (rank / np.float32(total.size)).reshape(total.shape)


def cloudy(x: Floats, y: Floats) -> Floats:
    """Sample smooth noise of many scales between the cells of its grid, as all here in [0, 1).

    The pattern of this and of the next two repeats after 256 cells; values are evenly spread.
    """
    tile = _tile(_BLOTCHES).reshape(-1)
    left, top = np.floor(x), np.floor(y)
    right_part, low_part = x - left, y - top
    column, row = left.astype(np.int32), top.astype(np.int32)
    column_0, column_1 = column & (_SIZE - 1), (column + 1) & (_SIZE - 1)
    row_0, row_1 = (row & (_SIZE - 1)) << 8, ((row + 1) & (_SIZE - 1)) << 8
    upper = tile[row_0 + column_0] * (1 - right_part) + tile[row_0 + column_1] * right_part
    lower = tile[row_1 + column_0] * (1 - right_part) + tile[row_1 + column_1] * right_part
    mixed: Floats = np.add(upper, (lower - upper) * low_part)
    return mixed


def blotched(x: Floats, y: Floats) -> Floats:
    """Sample the noise of `cloudy` at the nearest cell: cheaper, right for cells under a pixel."""
    return _nearest(_tile(_BLOTCHES), x, y)


def grainy(x: Floats, y: Floats) -> Floats:
    """Sample noise whose largest grains are 8 cells wide, at the nearest cell."""
    return _nearest(_tile(_GRAINS), x, y)


def _nearest(tile: Floats, x: Floats, y: Floats) -> Floats:
    column = x.astype(np.int32) & (_SIZE - 1)
    row = (y.astype(np.int32) & (_SIZE - 1)) << 8
    sampled: Floats = np.take(tile, row + column)
    return sampled


def scattered(x: Floats, y: Floats, salt: Floats | float = 0.0) -> Floats:
    """Give each cell of whole numbers (N,) a value of its own in [0, 1), unlike its neighbours'.

    Another salt, a whole number or (N,) of them, gives another pattern.
    """
    mixed = x.astype(np.int32).view(np.uint32) * np.uint32(0x9E3779B1)
    mixed ^= y.astype(np.int32).view(np.uint32) * np.uint32(0x85EBCA77)
    mixed ^= np.asarray(salt, np.float32).astype(np.int32).view(np.uint32) * np.uint32(0xC2B2AE3D)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x2C1B3C6D)
    mixed ^= mixed >> np.uint32(13)
    return (mixed >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
