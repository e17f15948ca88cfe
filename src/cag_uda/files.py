"""Files that appear whole or not at all: write beside the place, fsync, rename."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cag_uda.errors import RunError


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
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
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


def unwritable(path: Path, error: OSError) -> RunError:
    """The error to raise where a file cannot be written: what happened and what to do."""
    reason = error.strerror or str(error)
    return RunError(
        f"cannot write {path}: {reason}; free space, or choose another folder; "
        "what was made before is safe, and a run goes on with --resume"
    )
