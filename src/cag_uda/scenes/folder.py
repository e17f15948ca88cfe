"""Writes rendered scenes as PNG files, on several processes where that pays. Knows no recipe."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cag_uda.errors import DataError, RunError
from cag_uda.files import LOCK, owned, remove_parts, write_with
from cag_uda.scenes.looks import Look
from cag_uda.scenes.picture import check_arguments, render

_BATCH = 16
"""Pictures that a process takes at once."""
_PAYING_PX = 3_000_000
"""Pixels under which starting processes takes longer than they save."""


@dataclass(frozen=True)
class _Job:
    """Settings that are the same for all pictures of a folder; sent to the processes."""

    folder: Path
    look: Look
    seed: int
    height_px: int
    width_px: int

    def paths(self, index: int) -> tuple[Path, Path]:
        name = f"{index:06d}.png"
        return self.folder / "images" / name, self.folder / "labels" / name

    def missing(self, indices: range) -> list[int]:
        """The scenes that are not there yet."""
        return [each for each in indices if not all(path.exists() for path in self.paths(each))]

    def write(self, batch: Sequence[int]) -> None:
        """Render some pictures while those before are being written: disks take their time."""
        with ThreadPoolExecutor(2) as writers:
            pending = [
                writers.submit(
                    self._save,
                    index,
                    *render(self.seed, index, self.look, self.height_px, self.width_px),
                )
                for index in batch
            ]
        for written in pending:
            written.result()

    def _save(self, index: int, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
        image_path, label_path = self.paths(index)
        _write_png(image_path, image[:, :, ::-1])
        _write_png(label_path, label)


def render_folder(
    folder: Path,
    look: Look,
    indices: range,
    seed: int,
    height_px: int,
    width_px: int,
    processes: int | None = None,
) -> None:
    """Write `images/000123.png` and `labels/000123.png` (8-bit train ids) for each index.

    Each file appears whole or not at all, and pairs that are there already are left alone, so an
    interrupted call is taken up by repeating it.

    With more than one process, a script must call this under `if __name__ == "__main__":`, as
    every use of processes that start afresh.

    Args:
        folder: receives the folders `images` and `labels`; made if need be.
        look: `clean` or `hard`.
        indices: which scenes of the collection.
        seed: of the collection.
        height_px: image height, at least 32.
        width_px: image width, at least 32.
        processes: how many to use; None takes one for each core that this process may use, or
            none besides itself where starting them would take longer than it saves.

    Raises:
        DataError: if an argument is out of range.
        RunError: if the folder cannot be written, or the processes died.
    """
    if processes is not None and processes < 1:
        raise DataError(f"cannot render on {processes} processes; give 1 or more, or None")
    if not isinstance(indices, range):
        raise DataError(f"indices of scenes must be a range such as range(0, 100), got {indices!r}")
    if not indices:
        return
    check_arguments(seed, min(indices[0], indices[-1]), look, height_px, width_px)
    job = _Job(folder, look, seed, height_px, width_px)
    if job.missing(indices):
        with owned(folder / LOCK, "scenes are being rendered", waits=True):
            remove_parts(folder)
            _render(job, job.missing(indices), processes)


def _render(job: _Job, missing: list[int], processes: int | None) -> None:
    if not missing:
        return
    if processes is None:
        is_small = len(missing) * job.height_px * job.width_px < _PAYING_PX
        processes = 1 if is_small else _usable_cores()
    processes = min(processes, len(missing))
    size = min(_BATCH, max(1, len(missing) // (4 * processes))) if processes > 1 else _BATCH
    batches = [missing[start : start + size] for start in range(0, len(missing), size)]
    if processes == 1:
        for batch in batches:
            job.write(batch)
        return
    # They start afresh, so that no thread's lock is inherited. They share the cores already:
    # OpenCV's own threads would only get in the way.
    pool = ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    )
    try:
        for _ in pool.map(job.write, batches):
            pass
    except BrokenProcessPool as error:
        raise RunError(
            f"the processes that render into {job.folder} died; render with processes=1, or call "
            'render_folder under `if __name__ == "__main__":`'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    # OpenCV's own settings are its fastest; asking for a low level makes it twice as slow.
    is_coded, coded = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not is_coded:
        raise RunError(f"OpenCV could not code {path} as PNG; install a build of it with PNG")
    write_with(path, lambda temporary: temporary.write_bytes(coded.tobytes()))
