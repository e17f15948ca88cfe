"""The cache: what is made once and can be made again, such as rendered scenes and class counts."""

import io
import logging
import os
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cag_uda.errors import RunError
from cag_uda.files import write_with

VARIABLE = "CAG_UDA_CACHE"
"""The environment variable that names another folder."""
_MARK = b"CRC1"
_sound: set[Path] = set()
"""Entries that this process has compared with their checksums: once, as crops read few rows."""


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
        array = np.asarray(np.load(place, "r" if map_file else None, allow_pickle=False))
        is_whole = place in _sound or _has_its_checksum(place)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        is_whole = False
    if not is_whole:
        _note_damage(place.parent)
        return None
    _sound.add(place)
    return array


def keep_array(place: Path, array: NDArray[Any], otherwise: str) -> None:
    """Write an array into the cache; where that fails, warn once.

    Args:
        place: a `.npy` file below `cache_folder()`.
        array: what is kept.
        otherwise: what happens without it, for the warning.
    """

    def save(path: Path) -> None:
        held = io.BytesIO()  # np.save would add an extension to the name.
        np.save(held, array, allow_pickle=False)
        content = held.getbuffer()
        with path.open("wb") as file:
            file.write(content)
            file.write(_checksum(content))

    _sound.discard(place)
    try:
        write_with(place, save)
    except RunError as error:
        _warn_once(error.problems[0].split(";")[0], otherwise)


def _checksum(content: memoryview) -> bytes:
    """The last bytes of an entry of the cache: 4 of a mark, 4 of CRC-32 of all before."""
    return _MARK + zlib.crc32(content).to_bytes(4, "big")


def _has_its_checksum(place: Path) -> bool:
    content = memoryview(place.read_bytes())
    return content[-8:] == _checksum(content[:-8])


@cache
def _note_damage(folder: Path) -> None:
    logging.getLogger(__name__).warning(
        "entries of the cache in %s are damaged, or of an earlier version: they are made anew",
        folder,
    )


@cache
def _warn_once(problem: str, otherwise: str) -> None:
    text = f"{problem}; {otherwise}, unless {VARIABLE} names another folder"
    logging.getLogger(__name__).warning(text)
