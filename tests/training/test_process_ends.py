"""A command ends within seconds of any error, with a status and a line, whatever runs beside it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked import Run
from tests.support.trees import RECIPE, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SOON_S = 10.0
LONG = RECIPE.replace("batch_size = 2", "batch_size = 4").replace("steps = 3", "steps = 2000")
WORKERS = ("--set", "loading.workers=2", "--set", "stages.*.log_every=1")


def replace(owner: object, name: str, replacement: object) -> None:
    """Put something in another's place for the life of this process."""
    pytest.MonkeyPatch().setattr(owner, name, replacement)


def note_pids(folder: Path) -> None:
    """Let every loader process leave its id."""
    from cag_uda.data.loading import sampler

    begin = sampler._begin_worker

    def noted(number: int) -> None:
        begin(number)
        (folder / f"loader-{os.getpid()}").touch()

    replace(sampler, "_begin_worker", noted)


def hang_in_loaders() -> None:
    """Let loader processes hang from the sixth step on."""
    from cag_uda.data.loading.sampler import BatchSource

    load = BatchSource.__getitem__

    def hanging(self: BatchSource, step: int) -> Any:
        if step > 5:
            time.sleep(600)
        return load(self, step)

    replace(BatchSource, "__getitem__", hanging)


def fail_after(steps: int, error: Exception, folder: Path, rank: int = 0) -> None:
    """Let one process fail when a stage has taken some steps."""
    from cag_uda.training.log import StageLog

    note_pids(folder)
    add = StageLog.add

    def failing(self: StageLog, step: int, *arguments: Any) -> None:
        add(self, step, *arguments)
        if os.environ.get("RANK", "0") == str(rank) and step + 1 == steps:
            (folder / "failed").touch()
            raise error

    replace(StageLog, "add", failing)


def hanging_and_failing(steps: int, error: Exception, folder: Path) -> None:
    hang_in_loaders()
    fail_after(steps, error, folder)


def ended(run: Run, failed: Path) -> tuple[list[int | None], float]:
    """Exit codes, and seconds from the failure to the end of the last process."""
    deadline = time.monotonic() + 200
    while not failed.exists():
        assert time.monotonic() < deadline
        assert run.is_alive
        time.sleep(0.02)
    begun_s = time.monotonic()
    return run.wait(60), time.monotonic() - begun_s


def assert_loaders_ended(folder: Path) -> None:
    pids = [int(path.name.partition("-")[2]) for path in folder.glob("loader-*")]
    assert pids
    deadline = time.monotonic() + SOON_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("act", "error", "code", "said"),
    [
        (fail_after, RuntimeError("a bug"), 1, "RuntimeError: a bug"),
        (hanging_and_failing, RuntimeError("a bug"), 1, "RuntimeError: a bug"),
        (fail_after, MemoryError("no 4 GiB"), 2, "error: memory does not suffice: no 4 GiB"),
        (hanging_and_failing, MemoryError("no 4 GiB"), 2, "error: memory does not suffice"),
    ],
)
def test_an_error_ends_the_command_and_its_loaders(
    tmp_path: Path, act: Callable[..., None], error: Exception, code: int, said: str
) -> None:
    recipe, log = write_recipe(tmp_path, LONG), tmp_path / "log"
    act = partial(act, 4, error, tmp_path)
    run = Run(recipe, "--out", tmp_path / "run", *WORKERS, act=act, log=log)
    codes, took_s = ended(run, tmp_path / "failed")
    assert (codes, said in log.read_text()) == ([code], True), log.read_text()
    assert ("Traceback" in log.read_text()) == (code == 1)
    assert took_s < SOON_S
    assert_loaders_ended(tmp_path)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("a bug"), 1, "RuntimeError: a bug"),
        (MemoryError("no 4 GiB"), 2, "error: memory does not suffice"),
    ],
)
def test_a_process_that_fails_is_named_by_the_other(
    tmp_path: Path, rank: int, error: Exception, code: int, said: str
) -> None:
    recipe, log = write_recipe(tmp_path, LONG), tmp_path / "log"
    act = partial(fail_after, 4, error, tmp_path, rank)
    run = Run(recipe, "--out", tmp_path / "run", *WORKERS, processes=2, act=act, log=log)
    codes, took_s = ended(run, tmp_path / "failed")
    text = log.read_text()
    assert codes == ([code, 2] if rank == 0 else [2, code]), text
    assert said in text
    assert text.count(f"error: process {rank} of 2 has ended before its work was done") == 1
    assert took_s < SOON_S
    assert_loaders_ended(tmp_path)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_is_named_by_the_other(tmp_path: Path, rank: int) -> None:
    recipe, log = write_recipe(tmp_path, LONG), tmp_path / "log"
    out, act = tmp_path / "run", partial(note_pids, tmp_path)
    run = Run(recipe, "--out", out, *WORKERS, processes=2, act=act, log=log)
    wait_for_steps(out)
    run.send(signal.SIGKILL, rank)
    begun_s = time.monotonic()
    codes = run.wait(60)
    assert time.monotonic() - begun_s < SOON_S
    assert (codes[rank], codes[1 - rank]) == (-signal.SIGKILL, 2), log.read_text()
    assert log.read_text().count(f"error: process {rank} of 2 has ended") == 1
    assert "Traceback" not in log.read_text()
    assert_loaders_ended(tmp_path)


def wait_for_steps(out: Path) -> None:
    deadline = time.monotonic() + 200
    log = out / "stages" / "0-source-only" / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("is_first", [True, False])
def test_processes_of_the_command_itself_end_together(tmp_path: Path, is_first: bool) -> None:
    """With `--devices 2`, where Lightning starts the second process."""
    recipe, out = write_recipe(tmp_path, LONG), tmp_path / "run"
    command = [sys.executable, "-m", "cag_uda", "adapt", str(recipe), "--out", str(out)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--devices", "2", *WORKERS], stdout=log, stderr=log)
    try:
        wait_for_steps(out)
        # Loaders are children, too; the other rank is the one that was started by a command.
        pids = [int(pid) for pid in children(process.pid)]
        (other,) = [pid for pid in pids if b"--devices" in command_of(pid) and not forked(pid)]
        os.kill(process.pid if is_first else other, signal.SIGKILL)
        begun_s = time.monotonic()
        code = process.wait(60)
        while Path(f"/proc/{other}").exists():
            assert time.monotonic() - begun_s < SOON_S
            time.sleep(0.1)
        assert time.monotonic() - begun_s < SOON_S
    finally:
        process.kill()
    text = (tmp_path / "log").read_text()
    assert code == (-signal.SIGKILL if is_first else 2), text
    assert text.count(f"error: process {0 if is_first else 1} of 2 has ended") == 1
    assert "Traceback" not in text


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def forked(pid: int) -> bool:
    """Whether a process was forked without a program of its own: a loader."""
    return b"LOCAL_RANK=1" not in Path(f"/proc/{pid}/environ").read_bytes()
