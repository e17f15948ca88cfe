"""The log of a stage: the losses of its steps, and `metrics.jsonl`.

Losses stay on the device until the log or a checkpoint is due: no step waits for the device.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from cag_uda.errors import RunError
from cag_uda.files import unwritable, write_text
from cag_uda.methods.base import Method
from cag_uda.runs.records.base import line_of, parse_line, write_record
from cag_uda.runs.records.stage import METRICS, REACHED, LeftOut, MetricsLine, Reached, read_reached
from cag_uda.training.callbacks import Callbacks
from cag_uda.training.checkpoint import Progress, Rows
from cag_uda.training.processes import Processes

_SHOWN_FILES = 16
_MOST_SKIPPED = 10
"""Steps in a row that may be skipped: more are no accident."""

Files: TypeAlias = Callable[[int], Sequence[str]]
"""The images of a step's whole batch."""


class StageLog:
    """Collects a stage's losses and writes down their means over steps and processes.

    It goes on from the checkpoint `done`: it takes over the losses that were not written yet, and
    drops records beyond that step. Raises RunError if the disk is full or gone.
    """

    def __init__(
        self, processes: Processes, folder: Path, done: Progress, callbacks: Callbacks
    ) -> None:
        self._processes, self.folder, self._callbacks = processes, folder, callbacks
        with processes.agreed():
            if processes.is_first:
                _take_up(folder, done.step)
        self._begun_s = time.monotonic() - done.elapsed_s
        self._on_device: list[tuple[int, Mapping[str, Tensor]]] = []
        # Checkpoints of another number of processes hold no rows of this one alone.
        is_alike = len(done.pending) == processes.count
        self._rows = [*done.pending[processes.rank]] if is_alike else _mean_rows(done.pending)
        self._window_s, self._images, self._skipped = time.monotonic(), 0, 0

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, over all interruptions."""
        return time.monotonic() - self._begun_s

    def add(self, step: int, losses: Mapping[str, Tensor], images: int) -> None:
        """Note the losses of a step (0-based) and how many images it took; waits for nothing."""
        self._on_device.append((step, losses))
        self._images += images
        self._skipped = 0

    def mark(self, step: int) -> None:
        """Note beside a checkpoint, in the first process, what the log is at its step."""
        write_record(self.folder / REACHED, Reached.of(step, _bytes_of(self.folder / METRICS)))

    def pending(self) -> tuple[Rows, ...]:
        """Gather from all processes the losses that are not written yet, for a checkpoint."""
        self._fetch()
        return tuple(self._processes.gather(self._rows))

    def skip(self, step: int, losses: Mapping[str, Tensor], files: Files) -> None:
        """Write down a step (0-based) that was skipped as its loss or gradient is not finite.

        Raises RunError on all processes alike if too many were skipped in a row.
        """
        self._skipped += 1
        values = {name: float(loss) for name, loss in losses.items()}
        if self._skipped > _MOST_SKIPPED:
            with self._processes.agreed():
                raise not_finite(step, values, files(step))
        spoken = {name: str(value) for name, value in values.items()}
        left_out = LeftOut(losses=spoken, files=list(files(step)))
        self.write(MetricsLine(step=step + 1, left_out=left_out))

    def refuse_broken(self, taken: int, files: Files, method: Method | None) -> None:
        """Stop at a loss that is not finite or, before they are saved, at weights that are not.

        The gradient of a finite loss may not be; the next step's loss tells, too late for a
        checkpoint between the two. Raises RunError on all processes alike.
        """
        rows = _mean_rows(self.pending())
        broken = next((row for row in rows if not all(map(math.isfinite, row[1].values()))), None)
        if broken is None and method is not None:
            norm = nn.utils.get_total_norm(method.parameters())
            if self._processes.largest(not norm.isfinite()):
                broken = rows[-1] if rows else (max(0, taken - 1), {})
        if broken is not None:
            step, losses = broken
            with self._processes.agreed():
                raise not_finite(step, losses, files(step))

    def flush(self, taken: int, rate: float) -> None:
        """Write down the mean losses since the last time, at `taken` steps."""
        rows = _mean_rows(self.pending())
        losses = {
            name: _mean([row[name] for _, row in rows if name in row])
            for name in dict.fromkeys(name for _, row in rows for name in row)
        }
        images = self._processes.count * self._images
        record = MetricsLine(
            step=taken,
            losses=losses,
            learning_rate=rate,
            images_per_s=images / max(1e-9, time.monotonic() - self._window_s),
            elapsed_s=self.elapsed_s,
        )
        self.write(record)
        self._rows, self._images, self._window_s = [], 0, time.monotonic()

    def write(self, record: MetricsLine) -> None:
        """Append a record to the log, in the first process. Raises RunError on a full disk."""
        with self._processes.agreed():
            if not self._processes.is_first:
                return
            path = self.folder / METRICS
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(line_of(record))
            except OSError as error:
                raise unwritable(path, error) from error
            for callback in self._callbacks:
                callback.on_log(record)

    def _fetch(self) -> None:
        """Bring the losses that are still on the device to the host, in one transfer."""
        if self._on_device:
            every = [loss for _, losses in self._on_device for loss in losses.values()]
            values = iter(torch.stack([loss.float() for loss in every]).tolist() if every else ())
            self._rows += [
                (step, {name: next(values) for name in losses}) for step, losses in self._on_device
            ]
            self._on_device = []


def not_finite(step: int, losses: Mapping[str, float], files: Sequence[str]) -> RunError:
    """Make the error for a step (0-based) whose loss or gradient is not finite."""
    broken = [name for name, loss in losses.items() if not math.isfinite(loss)]
    what = f"the loss {', '.join(broken)}" if broken else "the gradient"
    terms = ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
    shown = ", ".join(files[:_SHOWN_FILES])
    more = f" and {len(files) - _SHOWN_FILES} more" if len(files) > _SHOWN_FILES else ""
    return RunError(
        f"{what} is not finite at step {step + 1} ({terms}), in the batch of {shown}{more}; lower "
        'the learning rate or set clip_norm and begin anew, or set on_nonfinite = "skip" in '
        "RUN/recipe.toml and go on with --resume"
    )


def _take_up(folder: Path, step: int) -> None:
    """Cut a log off after a step, or begin it; where lines before it are lost, it says so."""
    path = folder / METRICS
    log = _bytes_of(path)
    kept = _kept(log, step)
    if not step:
        (folder / REACHED).unlink(missing_ok=True)
    else:
        if not _is_whole(folder, log):
            logging.getLogger(__name__).warning(
                "%s is damaged: what it lost of the steps before %d is not logged again", path, step
            )
            kept += line_of(MetricsLine(step=step, is_incomplete=True))
        # First: a kill between the two leaves a log that begins with what is noted.
        write_record(folder / REACHED, Reached.of(step, kept.encode()))
    write_text(path, kept)


def _is_whole(folder: Path, log: bytes) -> bool:
    """Tell whether a log holds all that it held at the checkpoint, where that was noted."""
    try:
        reached = read_reached(folder)
    except RunError as error:
        logging.getLogger(__name__).warning("%s; it is made again", error.problems[0])
        return True
    return reached is None or reached.is_begun_by(log)


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _kept(log: bytes, step: int) -> str:
    """Complete records up to a step; what a crash cut short, or a disk damaged, is dropped."""
    lines = log.decode("utf-8", errors="replace").splitlines()
    records = ((line, parse_line(MetricsLine, line)) for line in lines)
    return "".join(f"{line}\n" for line, record in records if record and record.step <= step)


def _mean_rows(pending: Sequence[Rows]) -> Rows:
    """Average losses over processes, step by step; all processes hold the same steps."""
    return [
        (step, {name: _mean([rows[place][1][name] for rows in pending]) for name in losses})
        for place, (step, losses) in enumerate(pending[0] if pending else ())
    ]


def _mean(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    return math.fsum(values) / len(values)
