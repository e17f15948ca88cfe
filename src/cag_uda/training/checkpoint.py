"""The resumable state of a stage: whole or not at all, verified, loaded without unpickling code.

While a stage runs the last two are kept. A kill cannot damage a checkpoint, but a disk can: one
whose checksums do not hold is passed over for the one before, from which the stage arrives at the
same end.
"""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeAlias
from zipfile import BadZipFile, ZipFile

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from cag_uda.errors import RunError
from cag_uda.files import write_with
from cag_uda.methods.base import Method

_FILE, _PREVIOUS = "state.pt", "previous.pt"
_FULL_BYTES = 1 << 20
"""A disk with less room than this is full: the writer keeps back less than a block of its own."""
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, BadZipFile, UnpicklingError)
"""What is raised where a checkpoint's checksums do not hold, or it is something else."""


Stateful: TypeAlias = Optimizer | GradScaler
"""What a stage goes on with besides its method."""

Rows = list[tuple[int, dict[str, float]]]
"""Losses of single steps, which are not in the log yet: step and values by name."""


@dataclass(frozen=True)
class Progress:
    """Progress of a stage."""

    step: int
    """Steps taken."""
    elapsed_s: float
    """Seconds spent on them, over all interruptions."""
    pending: tuple[Rows, ...] = ()
    """Losses of each process that are not in the log yet."""


def save_checkpoint(
    folder: Path, method: Method, optimizers: Mapping[str, Stateful], progress: Progress
) -> None:
    """Write the state of a stage; the one before it stays beside it, and stands on a full disk."""
    if not folder.parent.is_dir():
        # Made anew, it would lie on whatever disk is below the mount that has gone.
        raise RunError(
            f"the folder {folder.parent} has gone; bring it back and go on with --resume"
        )
    state = {
        "method": method.state_dict(),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "step": progress.step,
        "elapsed_s": progress.elapsed_s,
        "pending": list(progress.pending),
    }
    write_with(folder / _FILE, lambda path: _save(state, path, folder))


def load_checkpoint(
    folder: Path, method: Method, optimizers: Mapping[str, Stateful]
) -> Progress | None:
    """Restore the state of a stage in place; returns how far it was, None for nothing saved.

    Raises RunError if no checkpoint is sound, or they belong to another recipe.
    """
    reasons = []
    for path in (folder / _FILE, folder / _PREVIOUS):
        if not path.exists():
            continue
        try:
            state = _read(path)
        except _UNREADABLE as error:
            reasons.append(f"{path}: {_first_line(error)}")
            continue
        if reasons:
            logging.getLogger(__name__).warning(
                "%s; going on from the checkpoint before, of step %d", reasons[0], state["step"]
            )
        return _restore(state, path, method, optimizers)
    if reasons:
        raise RunError(
            f"no sound checkpoint to resume from ({'; '.join(reasons)}); "
            f"delete {folder} to take its stage anew"
        )
    return None


def drop_previous(folder: Path) -> None:
    """Free what only a stage that goes on may need: the checkpoint before the last."""
    with contextlib.suppress(OSError):
        (folder / _PREVIOUS).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint into memory, after its checksums: torch does not look at them."""
    with ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"its part {damaged} is damaged")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise ValueError("it is no checkpoint of a stage")
    return state


def _restore(
    state: dict[str, Any], path: Path, method: Method, optimizers: Mapping[str, Stateful]
) -> Progress:
    try:
        method.load_state_dict(state["method"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        return Progress(state["step"], state["elapsed_s"], tuple(state.get("pending", ())))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RunError(
            f"the checkpoint {path} does not fit its stage ({_first_line(error)}); it was made by "
            f"another recipe or version: delete {path.parent} to take the stage anew"
        ) from error


def _save(state: dict[str, Any], path: Path, folder: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:
        # torch's zip writer reports a full disk as a RuntimeError, in words of its own.
        if shutil.disk_usage(path.parent).free < _FULL_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise OSError(None, _first_line(error)) from error
    last = folder / _FILE
    if last.exists():
        last.replace(folder / _PREVIOUS)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
