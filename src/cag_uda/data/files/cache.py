"""The cache: what is made once and can be made again, such as rendered scenes and class counts."""

import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cag_uda.errors import RunError
from cag_uda.files import write_with

VARIABLE = "CAG_UDA_CACHE"
"""The environment variable that names another folder."""


def cache_folder() -> Path:
    """Give the folder, which need not be there yet."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "cag-uda"


def kept_array(place: Path, *, map_file: bool = False) -> NDArray[Any] | None:
    """Read an array from the cache.

    Args:
        place: a `.npy` file.
        map_file: read each part only when it is used.

    Returns:
        The array; None where there is none, or it is damaged.
    """
    try:
        return np.asarray(np.load(place, "r" if map_file else None, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None


def keep_array(place: Path, array: NDArray[Any], otherwise: str) -> None:
    """Write an array into the cache; where that fails, warn once.

    Args:
        place: a `.npy` file below `cache_folder()`.
        array: what is kept.
        otherwise: what happens without it, for the warning.
    """

    def save(path: Path) -> None:
        with path.open("wb") as file:  # np.save would add an extension to the name.
            np.save(file, array, allow_pickle=False)

    try:
        write_with(place, save)
    except RunError as error:
        _warn_once(error.problems[0].split(";")[0], otherwise)


@cache
def _warn_once(problem: str, otherwise: str) -> None:
    text = f"{problem}; {otherwise}, unless {VARIABLE} names another folder"
    logging.getLogger(__name__).warning(text)
