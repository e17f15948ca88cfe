"""Files that appear whole or not at all: write beside the place, fsync, rename."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cag_uda.errors import RunError

_PART = ".part"
"""How the names of unfinished files end; those of a killed process stay behind."""

_written: list[Path] = []
"""The first file that this process has finished, if there is one."""


def has_written() -> bool:
    """Tell whether this process has finished a file."""
    return bool(_written)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; rename it to `path` if the block succeeds.

    Args:
        path: where the finished file shall stand; parent folders are made.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(_PART, f".{path.name}.", path.parent)
        os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        if not _written:
            _written.append(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # The disk that has gone takes the unfinished file with it.
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises RunError as `whole_file` does."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all. Raises RunError as `whole_file` does."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_with(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a file, whole or not at all. Raises RunError as `whole_file` does."""
    with whole_file(path) as temporary:
        save(temporary)


def copy_file(origin: Path, path: Path) -> None:
    """Copy a file, whole or not at all. Raises RunError as `whole_file` does."""
    with whole_file(path) as temporary:
        shutil.copyfile(origin, temporary)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left unfinished below a folder that nobody writes to now."""
    for part in folder.rglob(f".*{_PART}"):
        part.unlink(missing_ok=True)


def is_part(path: Path) -> bool:
    """Whether a path is an unfinished file that a killed process left behind."""
    return path.name.startswith(".") and path.name.endswith(_PART)


def unwritable(path: Path, error: OSError) -> RunError:
    """The error to raise where a file cannot be written: what happened and what to do."""
    reason = error.strerror or str(error)
    is_in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
    advice = "a file is in the way of the folder;" if is_in_the_way else "free space, or"
    return RunError(
        f"cannot write {path}: {reason}; {advice} choose another folder; "
        "what was made before is safe, and a run goes on with --resume"
    )


def _sync_folder(folder: Path) -> None:
    """Make a renaming last, where the system lets a folder be opened for that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # Some network file systems refuse it; the file itself is safe.
    finally:
        os.close(handle)
