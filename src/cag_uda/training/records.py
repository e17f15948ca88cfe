"""What a stage writes down of its losses, and the watch over them.

Losses stay on the device until the log or a checkpoint is due: no step waits for the device.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cag_uda.errors import RunError
from cag_uda.training.checkpoint import Progress, Rows
from cag_uda.training.metrics import MetricsLog
from cag_uda.training.processes import Processes
from cag_uda.training.tracking import Trackers

_SHOWN_FILES = 16


class Records:
    """Collects a stage's losses and writes down their means over steps and processes.

    Args:
        processes: of the run.
        folder: of the stage.
        done: how far the stage is; what its log had yet to tell is taken over.
        trackers: told what the log says.
    """

    def __init__(
        self, processes: Processes, folder: Path, done: Progress, trackers: Trackers
    ) -> None:
        self._processes, self.folder = processes, folder
        with processes.agreed():
            self._log = MetricsLog(folder, done.step, trackers) if processes.is_first else None
        self._begun_s = time.monotonic() - done.elapsed_s
        self._on_device: list[tuple[int, Mapping[str, Tensor]]] = []
        self._rows = _share(done.pending, processes)
        self._window_s, self._images = time.monotonic(), 0

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, over all interruptions."""
        return time.monotonic() - self._begun_s

    def add(self, step: int, losses: Mapping[str, Tensor], images: int) -> None:
        """Note the losses of a step (0-based) and how many images it took; waits for nothing."""
        self._on_device.append((step, losses))
        self._images += images

    def pending(self) -> tuple[Rows, ...]:
        """Of each process, what the log has yet to tell: for a checkpoint."""
        self._fetch()
        return tuple(self._processes.gather(self._rows))

    def first_broken(self) -> tuple[int, dict[str, float]] | None:
        """The first step since the last record with a loss that is not finite, with its losses."""
        for step, losses in _mean_rows(self.pending()):
            if not all(map(math.isfinite, losses.values())):
                return step, losses
        return None

    def latest(self) -> dict[str, float]:
        """The losses of the last step since the last record; none, if no step was taken since."""
        rows = _mean_rows(self.pending())
        return rows[-1][1] if rows else {}

    def flush(self, taken: int, rate: float) -> dict[str, float]:
        """Write down the mean losses since the last time, at `taken` steps; returns them."""
        rows = _mean_rows(self.pending())
        losses = {
            name: _mean([row[name] for _, row in rows if name in row])
            for name in dict.fromkeys(name for _, row in rows for name in row)
        }
        self.write(
            {
                "step": taken,
                "losses": losses,
                "learning_rate": rate,
                "images_per_s": self._processes.count
                * self._images
                / max(1e-9, time.monotonic() - self._window_s),
                "elapsed_s": self.elapsed_s,
            }
        )
        self._rows, self._images, self._window_s = [], 0, time.monotonic()
        return losses

    def write(self, record: dict[str, Any]) -> None:
        """Append a record to the log, in the first process. Raises RunError on a full disk."""
        with self._processes.agreed():
            if self._log:
                self._log.write(record)

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
    """The error for a step whose loss or gradient is not finite.

    Args:
        step: 0-based.
        losses: of the step.
        files: images of its batch.
    """
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


def _share(pending: Sequence[Rows], processes: Processes) -> Rows:
    """This process's share of what the log had yet to tell when a checkpoint was written."""
    if len(pending) == processes.count:
        return list(pending[processes.rank])
    return _mean_rows(pending)


def _mean_rows(pending: Sequence[Rows]) -> Rows:
    """Mean losses over processes, step by step; all processes hold the same steps."""
    return [
        (step, {name: _mean([rows[place][1][name] for rows in pending]) for name in losses})
        for place, (step, losses) in enumerate(pending[0] if pending else ())
    ]


def _mean(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    return math.fsum(values) / len(values)
