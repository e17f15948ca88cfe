"""Files that appear whole or not at all: write beside the place, fsync, rename.

A sealed file has its SHA-256 in `SHA256SUMS` beside it, in the form of the tool `sha256sum`. The
digest is written before the file is renamed into place, so that a kill between the two leaves a
file whose digest, old or new, is there.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from cag_uda.errors import InUseError, RunError

SUMS, LOCK = "SHA256SUMS", ".lock"
_PART = ".part"
"""Ending of the names of unfinished files; those of a killed process stay behind."""
_RENEWED_EVERY_S = 4.0
_owned: set[Path] = set()
"""Lock files of this process."""

_written: list[Path] = []
"""The first file that this process has finished, if there is one."""


def has_written() -> bool:
    """Tell whether this process has finished a file."""
    return bool(_written)


@contextmanager
def whole_file(path: Path, *, sealed: bool = False) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; rename it to `path` if the block succeeds.

    Args:
        path: where the finished file shall stand; parent folders are made.
        sealed: whether its digest is kept beside it.

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
        if sealed:
            _add_digest(path, digest(temporary))
        temporary.replace(path)
        if not _written:
            _written.append(path)
        if sealed:
            _drop_old_digests(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # The disk that has gone takes the unfinished file with it.
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, sealed: bool = False) -> None:
    """Write a text file, whole or not at all. Raises RunError as `whole_file` does."""
    with whole_file(path, sealed=sealed) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, sealed: bool = False) -> None:
    """Write a JSON file, whole or not at all. Raises RunError as `whole_file` does."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", sealed=sealed)


def write_with(path: Path, save: Callable[[Path], object], *, sealed: bool = False) -> None:
    """Let `save` write a file, whole or not at all. Raises RunError as `whole_file` does."""
    with whole_file(path, sealed=sealed) as temporary:
        save(temporary)


def copy_file(origin: Path, path: Path, *, sealed: bool = False) -> None:
    """Copy a file, whole or not at all. Raises RunError as `whole_file` does."""
    write_with(path, lambda temporary: shutil.copyfile(origin, temporary), sealed=sealed)


def seal(path: Path) -> None:
    """Keep the digest of a file that is finished, beside it. Raises RunError on a full disk."""
    try:
        _add_digest(path, digest(path))
        _drop_old_digests(path)
    except OSError as error:
        raise unwritable(path, error) from error


def is_sound(path: Path) -> bool | None:
    """Tell whether a file is as it was written; None where no digest of it is kept."""
    known = [each for each, name in _digests(path.parent) if name == path.name]
    try:
        return digest(path) in known if known else None
    except OSError:
        return False


def _digests(folder: Path) -> list[tuple[str, str]]:
    """Return the digests that are kept in a folder, each with the name of its file."""
    try:
        text = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = (line.partition("  ") for line in text.splitlines())
    return [(digest, name) for digest, _, name in lines if name]


def digest(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add_digest(path: Path, digest: str) -> None:
    if dict((name, each) for each, name in _digests(path.parent)).get(path.name) == digest:
        return
    sums = path.parent / SUMS
    # A line that a killed process has cut short must not swallow this one.
    is_torn = sums.exists() and not sums.read_bytes().endswith(b"\n")
    with sums.open("a", encoding="utf-8") as file:
        file.write(("\n" if is_torn else "") + f"{digest}  {path.name}\n")
        file.flush()
        os.fsync(file.fileno())


def _drop_old_digests(path: Path) -> None:
    """Keep one digest of each file: the last."""
    held = _digests(path.parent)
    last = {name: digest for digest, name in held}
    if len(last) < len(held):
        lines = sorted(f"{digest}  {name}\n" for name, digest in last.items())
        write_text(path.parent / SUMS, "".join(lines))


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left unfinished below a folder that nobody writes to now."""
    for part in folder.rglob(f".*{_PART}"):
        part.unlink(missing_ok=True)


def is_part(path: Path) -> bool:
    """Tell whether a path is an unfinished file that a killed process left behind."""
    return path.name.startswith(".") and path.name.endswith(_PART)


@contextmanager
def owned(lock: Path, what: str, *, waits: bool = False) -> Iterator[None]:
    """Own what a lock file stands for: one process at a time may write to it.

    The file holds process and host. The system drops the lock of a process that has died, and the
    next owner takes it over. The lock of a process on another host, which this system may not see,
    is watched: as long as it is renewed, its process lives.

    Args:
        lock: the file, whose folder is made if need be.
        what: goes on, to be said, for example "this run is going on".
        waits: whether to wait for another owner.

    Raises:
        InUseError: naming the process that owns it.
        RunError: if the file cannot be written.
    """
    path = lock.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                file = _locked(path, what)
                break
            except InUseError:
                if not waits:
                    raise
                time.sleep(0.5)
    except OSError as error:
        raise unwritable(path, error) from error
    _owned.add(path)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        _owned.discard(path)
        path.unlink(missing_ok=True)
        file.close()


def _locked(path: Path, what: str) -> TextIO:
    """Open and lock a lock file, and write into it who owns it."""
    if path in _owned:  # Opening it again in this process would drop its lock.
        raise InUseError(f"{path.parent}: {what} in this very process; wait until it has ended")
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            # Of the process: loader processes that outlive it for a moment do not inherit it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        except (BlockingIOError, PermissionError):
            is_free = False
        file.seek(0)
        owner = file.read(200).strip()
        is_elsewhere = bool(owner) and not owner.endswith(f" on {platform.node()}")
        if not is_free or (is_elsewhere and _is_renewed(path)):
            file.close()
            raise InUseError(
                f"{path.parent}: {what} in {owner or 'another process'}; wait until that has "
                "ended, or stop it"
            )
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # The owner before has removed this very file in between.
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    return file


def _renew(path: Path, ended: threading.Event) -> None:
    while not ended.wait(_RENEWED_EVERY_S):
        with suppress(OSError):
            os.utime(path)


def _is_renewed(path: Path) -> bool:
    """Tell whether the owner of a lock renews it, which takes a while to see."""
    before, end_s = path.stat().st_mtime_ns, time.monotonic() + 2.5 * _RENEWED_EVERY_S
    while time.monotonic() < end_s:
        time.sleep(0.2)
        if path.exists() and path.stat().st_mtime_ns != before:
            return True
    return False


def unwritable(path: Path, error: OSError) -> RunError:
    """Make the error to raise where a file cannot be written: what happened, what to do."""
    reason = error.strerror or str(error)
    is_in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
    advice = "a file is in the way of the folder;" if is_in_the_way else "free space, or"
    return RunError(
        f"cannot write {path}: {reason}; {advice} choose another folder; "
        "what was made before is safe, and a run goes on with --resume"
    )


def _sync_folder(folder: Path) -> None:
    """Make a renaming last, where the system can: the file itself is safe in any case."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
