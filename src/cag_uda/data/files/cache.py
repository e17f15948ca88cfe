"""The cache: what is made once and can be made again, such as rendered scenes and class counts."""

import io
import logging
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from hashlib import sha256
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


def cache_entry(kind: str, extension: str, salt: str, files: Iterable[Path]) -> Path:
    """Give the place of what is made of some files: another one where one of them has changed.

    Args:
        kind: of the entry, a folder of the cache.
        extension: of the entry, with the dot.
        salt: all that it depends on besides the files.
        files: what it is made of; one that is not there counts by its path alone.
    """
    digest = sha256(f"{salt}\n".encode())
    for path in files:
        digest.update(f"{path.absolute()}\n".encode(errors="surrogateescape"))
        with suppress(OSError):
            state = path.stat()
            digest.update(f"{state.st_size} {state.st_mtime_ns}\n".encode())
    name = digest.hexdigest()[:32]
    return cache_folder() / kind / name[:2] / f"{name}{extension}"


def kept_array(place: Path, *, map_file: bool = False) -> NDArray[Any] | None:
    """Read a `.npy` file from the cache; None where there is none, or it is damaged.

    With `map_file` each part is read only when it is used.
    """
    try:
        array = np.asarray(np.load(place, "r" if map_file else None, allow_pickle=False))
        is_whole = place in _sound or _has_its_checksum(place)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        is_whole = False
    if not is_whole:
        warn_once(
            f"entries of the cache in {place.parent.parent} are damaged, or of an earlier version: "
            "they are made anew"
        )
        return None
    _sound.add(place)
    return array


def keep_array(place: Path, array: NDArray[Any], otherwise: str) -> None:
    """Write a `.npy` file into the cache; where that fails, warn once of what happens otherwise."""

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
        reason = error.problems[0].split(";")[0].removeprefix(f"cannot write {place}: ")
        warn_once(
            f"cannot write into the cache below {cache_folder()}: {reason}; {otherwise}, unless "
            f"{VARIABLE} names another folder"
        )


def _checksum(content: memoryview) -> bytes:
    """Make the last bytes of an entry of the cache: 4 of a mark, 4 of CRC-32 of all before."""
    return _MARK + zlib.crc32(content).to_bytes(4, "big")


def _has_its_checksum(place: Path) -> bool:
    content = memoryview(place.read_bytes())
    return content[-8:] == _checksum(content[:-8])


@cache
def warn_once(text: str) -> None:
    """Log a warning that this process has not given yet."""
    logging.getLogger(__name__).warning(text)
