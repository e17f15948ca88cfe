"""Checkpoints: whole or not at all, verified, one before them kept, and never unpickled code."""

import errno
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from cag_uda.errors import RunError
from cag_uda.methods.base import Method
from cag_uda.methods.optim import OptimConfig
from cag_uda.methods.source_only import SourceOnly, SourceOnlyConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.training.checkpoint import Progress, load_checkpoint, save_checkpoint

PENDING = ([(6, {"source/ce": 0.1}), (7, {"source/ce": 1 / 3})],)


class Stage:
    """A method with its optimiser, and where its checkpoints are."""

    def __init__(self, segmenter: Segmenter, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder / "checkpoint"
        self.method: Method = SourceOnly(segmenter, SourceOnlyConfig())
        self.optimizers: dict[str, Optimizer] = self.method.optimizers(OptimConfig())

    def save(self, step: int) -> None:
        """Save with weights that tell the step."""
        self.fill(step)
        save_checkpoint(self.folder, self.method, self.optimizers, Progress(step, 0.5, PENDING))

    def load(self) -> Progress | None:
        return load_checkpoint(self.folder, self.method, self.optimizers)

    def fill(self, value: float) -> None:
        for parameter in self.method.parameters():
            parameter.data.fill_(value)
            self.optimizers["segmenter"].state[parameter]["momentum_buffer"] = torch.full_like(
                parameter, value / 2
            )

    def weights(self) -> list[Tensor]:
        return [each.detach().clone() for each in self.method.parameters()]

    def is_of(self, step: int) -> bool:
        """Whether weights and momenta are exactly those of a step."""
        state = self.optimizers["segmenter"].state
        return all(
            bool((each == step).all() and (state[each]["momentum_buffer"] == step / 2).all())
            for each in self.method.parameters()
        )


@pytest.fixture
def stage(segmenter: Segmenter, tmp_path: Path) -> Stage:
    return Stage(segmenter, tmp_path / "stage")


def test_a_checkpoint_gives_back_weights_momenta_progress_and_what_the_log_awaits(
    stage: Stage,
) -> None:
    assert stage.load() is None
    stage.save(8)
    stage.fill(-1)
    assert stage.load() == Progress(8, 0.5, PENDING)
    assert stage.is_of(8)


@pytest.mark.slow
def test_of_a_damaged_checkpoint_nothing_is_taken_and_the_one_before_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """A bit flipped at any of 200 places, or the end cut off: never another network, silently."""
    stage.save(3)
    stage.save(5)
    path, rng = stage.folder / "state.pt", np.random.default_rng(0)
    whole = path.read_bytes()
    passed_over = 0
    for place in rng.integers(0, len(whole), 200):
        if rng.random() < 0.2:
            path.write_bytes(whole[:place])
        else:
            flipped = whole[place] ^ (1 << int(rng.integers(8)))
            path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        stage.fill(-1)
        progress = stage.load()
        assert progress is not None
        assert progress.step in (3, 5)
        assert stage.is_of(progress.step)
        passed_over += progress.step == 3
    assert passed_over > 150
    assert "going on from the checkpoint before, of step 3" in caplog.text


def test_two_damaged_checkpoints_are_one_clear_error(stage: Stage) -> None:
    stage.save(3)
    stage.save(5)
    for path in stage.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"no sound checkpoint.*state\.pt.*previous\.pt.*delete"):
        stage.load()


def test_a_checkpoint_of_another_network_is_one_clear_error(
    stage: Stage, classes: Any, tmp_path: Path
) -> None:
    from cag_uda.models.config import SegmenterConfig

    stage.save(3)
    other = Segmenter(SegmenterConfig(backbone="resnet-tiny", decoder="deeplab-v2"), classes)
    with pytest.raises(RunError, match="does not fit its stage"):
        Stage(other, tmp_path / "stage").load()


class Hostile:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "legacy", "bare"])
def test_a_hostile_checkpoint_is_refused_and_executes_nothing(
    stage: Stage, tmp_path: Path, how: str
) -> None:
    stage.save(1)
    path, trap = stage.folder / "state.pt", tmp_path / "trap"
    state = {"step": 1, "elapsed_s": 0.0, "method": Hostile(trap), "optimizers": {}}
    if how == "bare":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(RunError, match="no sound checkpoint"):
        stage.load()
    assert not trap.exists()
    pickle.loads(pickle.dumps(Hostile(trap)))
    assert trap.exists(), "the trap works"


# ---- disks ------------------------------------------------------------------------------------


def test_a_full_disk_is_one_clear_error_and_the_last_checkpoint_stands(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.save(3)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"cannot write .*No space left.*--resume"):
            stage.save(5)
    assert not list(stage.folder.glob(".*.part"))
    progress = stage.load()
    assert progress is not None
    assert progress.step == 3
    assert stage.is_of(3)
    stage.save(5)
    assert stage.load() == Progress(5, 0.5, PENDING)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_disk_that_is_really_full(stage: Stage, segmenter: Segmenter, small_disk: Path) -> None:
    stage.save(1)
    whole = (stage.folder / "state.pt").stat().st_size
    on_disk = Stage(segmenter, small_disk / "stage")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((8 << 20) - whole - whole // 2))
    on_disk.save(3)
    with pytest.raises(RunError, match=r"cannot write .*state\.pt: No space left.*--resume"):
        on_disk.save(5)
    progress = on_disk.load()
    assert progress is not None
    assert progress.step == 3
    ballast.unlink()
    on_disk.save(5)
    assert on_disk.load() == Progress(5, 0.5, PENDING)


def test_a_mount_that_has_gone_is_not_written_below(stage: Stage) -> None:
    stage.save(3)
    stage.folder.parent.rename(stage.folder.parent.with_name("elsewhere"))
    with pytest.raises(RunError, match="has gone"):
        stage.save(5)
    assert not stage.folder.parent.exists()
