"""The resumable state of a stage: one file, whole or not at all, loaded without unpickling code."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from cag_uda.errors import RunError
from cag_uda.files import write_with
from cag_uda.methods.base import Method

_FILE = "state.pt"


@dataclass(frozen=True)
class Progress:
    """How far a stage is."""

    step: int
    """Steps taken."""
    elapsed_s: float
    """Seconds spent on them, over all interruptions."""


def save_checkpoint(
    folder: Path, method: Method, optimizers: Mapping[str, Optimizer], progress: Progress
) -> None:
    """Write the state of a stage. Raises RunError if the disk is full; the last one then stays."""
    state = {
        "method": method.state_dict(),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "step": progress.step,
        "elapsed_s": progress.elapsed_s,
    }
    write_with(folder / _FILE, lambda path: _save(state, path))


def load_checkpoint(
    folder: Path, method: Method, optimizers: Mapping[str, Optimizer]
) -> Progress | None:
    """Restore the state of a stage in place.

    Returns:
        How far it was, or None where nothing has been saved.

    Raises:
        RunError: if the file is damaged or belongs to another recipe.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        method.load_state_dict(state["method"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        return Progress(state["step"], state["elapsed_s"])
    except (
        KeyError,
        ValueError,
        RuntimeError,
        OSError,
        EOFError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"the checkpoint {path} cannot be resumed ({reason}); delete it to take its stage anew"
        ) from error


def _save(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:
        # torch's zip writer reports a full disk as a RuntimeError.
        raise OSError(None, str(error).strip().splitlines()[0]) from error
