"""Runs that are killed at any moment and resumed end as if nothing had happened."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from cag_uda.methods.cag import AnchorLabels
from tests.support.forked import Run
from tests.support.run_folders import assert_same
from tests.support.trees import RECIPE, write_recipe

KILLS = 30
"""At random moments, of one process and of two together."""
SHORT = RECIPE.replace("batch_size = 2", "batch_size = 4").replace("steps = 3", "steps = 6")
MANY_EVENTS = [
    *("--set", "stages.*.checkpoint_every=2"),
    *("--set", "stages.*.log_every=4"),
    *("--set", "stages.*.evaluate_every=3"),
    *("--set", "stages.stage-1.refresh_every=4"),
    *("--set", "stages.stage-1.keep_networks=true"),
]


def kill_at_renaming(number: int, *, after: bool) -> None:
    """Let this process kill itself before or after the n-th file that it finishes."""
    replace, left = Path.replace, [number]

    def counted(path: Path, target: Path) -> Any:
        left[0] -= 1
        if not left[0] and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = replace(path, target)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    Path.replace = counted  # type: ignore[assignment]  # for the life of this process


def kill_in_checkpoint(number: int) -> None:
    """Let this process kill itself with the n-th checkpoint half written."""
    import torch

    save, left = torch.save, [number]

    def half(state: Any, path: Path) -> None:
        save(state, path)
        left[0] -= 1
        if not left[0]:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half  # type: ignore[assignment]  # for the life of this process


def kill_after_call(owner: type | str, name: str, number: int) -> None:
    """Let this process kill itself at the end of the n-th call of a method, or a module's function.

    A module goes by its name.
    """
    place = import_module(owner) if isinstance(owner, str) else owner
    method, left = getattr(place, name), [number]

    def counted(*arguments: Any, **keywords: Any) -> Any:
        done = method(*arguments, **keywords)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(place, name, counted)


CERTAIN = {
    "the renaming of a file": partial(kill_at_renaming, 30, after=False),
    "a step, with its gradients made": partial(
        kill_after_call, "cag_uda.training.step", "backpropagate", 3
    ),
    "a checkpoint, half written": partial(kill_in_checkpoint, 2),
    "the sweep for a stage's first anchors": partial(kill_after_call, AnchorLabels, "prepare", 1),
    "the sweep for its later ones": partial(kill_after_call, AnchorLabels, "prepare", 2),
}
"""Deaths that one run dies one after the other, each in the process that resumes it."""


def some_act(dice: random.Random) -> Callable[[], None] | None:
    """A way to die at a moment of the run's own, or none: then it is killed from outside."""
    return dice.choice(
        [
            None,
            None,
            partial(kill_at_renaming, dice.randint(1, 60), after=dice.random() < 0.5),
            partial(kill_in_checkpoint, dice.randint(1, 8)),
        ]
    )


def begin(recipe: Path, out: Path, processes: int, act: Callable[[], None] | None = None) -> Run:
    """Begin a run, or resume it where it has begun; only the first process acts."""
    resume = ["--resume"] if (out / "recipe.toml").exists() else []
    arguments = [recipe, "--out", out, *MANY_EVENTS, *resume]
    return Run(*arguments, processes=processes, act=act, log=out.with_suffix(".log"))


def killed_within(run: Run, time_s: float) -> bool:
    """Kill a run after some time, if it has not killed itself by then; whether it was killed."""
    deadline = time.monotonic() + time_s
    while run.is_alive and time.monotonic() < deadline:
        time.sleep(0.002)
    run.send(signal.SIGKILL)
    return any(run.wait())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path, processes: int
) -> None:
    recipe, whole, killed = write_recipe(tmp_path, SHORT), tmp_path / "whole", tmp_path / "killed"
    assert begin(recipe, whole, processes).wait() == [0] * processes
    begun_s = time.monotonic()
    assert begin(recipe, tmp_path / "timed", processes).wait() == [0] * processes
    takes_s = time.monotonic() - begun_s
    assert_same(tmp_path / "timed", whole)

    for place, act in CERTAIN.items():
        dying = begin(recipe, killed, processes, act)
        killed_within(dying, 100)
        assert dying.wait()[0] == -signal.SIGKILL, place
    assert begin(recipe, killed, processes).wait() == [0] * processes
    assert_same(killed, whole)

    dice, kills, runs = random.Random(processes), 0, 0
    while kills < KILLS // 2:
        out = tmp_path / f"{killed.name}-{runs}"
        runs += 1
        for _ in range(5):  # Killed up to five times in a row before it may end.
            run = begin(recipe, out, processes, some_act(dice))
            if not killed_within(run, dice.uniform(0.05, 1.1) * takes_s):
                break
            kills += 1
        # Where it has ended, there is nothing left to do.
        assert begin(recipe, out, processes).wait() == [0] * processes, out.with_suffix(
            ".log"
        ).read_text()[-3000:]
        assert_same(out, whole)
        assert not list(out.rglob(".*.part"))
    assert begin(recipe, out, processes).wait() == [0] * processes
    assert_same(out, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", place)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=False)


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_space(
    tmp_path: Path, small_disk: Path, processes: int
) -> None:
    recipe, whole = write_recipe(tmp_path, SHORT), tmp_path / "whole"
    out, log = small_disk / "run", tmp_path / "log"
    arguments = [recipe, "--out", out, *MANY_EVENTS]
    failed = Run(*arguments, processes=processes, log=log)
    assert failed.wait() == [2, 2][:processes]
    said = log.read_text()
    assert said.count("error: ") == 1
    assert "cannot write" in said
    assert "--resume" in said
    assert "Traceback" not in said
    mount("-o", "remount,size=64m", small_disk)
    resumed = Run(*arguments, "--resume", processes=processes, log=log)
    assert resumed.wait() == [0] * processes, log.read_text()
    assert begin(recipe, whole, processes).wait() == [0] * processes
    assert_same(out, whole)


def move_away_after(steps: int, folder: Path) -> None:
    """Let the run folder vanish, as that of a mount that breaks, after some steps."""
    from cag_uda.training.log import StageLog

    add = StageLog.add

    def counted(self: StageLog, step: int, losses: Mapping[str, Any], images: int) -> None:
        add(self, step, losses, images)
        if step + 1 == steps and "2-warmup" in str(self.folder):
            folder.rename(folder.with_name("elsewhere"))

    StageLog.add = counted  # type: ignore[method-assign]  # for the life of this process


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_folder_that_vanishes_is_one_line_and_is_not_made_anew(tmp_path: Path) -> None:
    recipe, out, log = write_recipe(tmp_path, SHORT), tmp_path / "run", tmp_path / "log"
    act = partial(move_away_after, 5, out)
    assert Run(recipe, "--out", out, *MANY_EVENTS, act=act, log=log).wait() == [2]
    said = log.read_text()
    assert said.count("error: ") == 1
    assert "Traceback" not in said
    assert not out.exists()
    out.with_name("elsewhere").rename(out)
    assert begin(recipe, out, 1).wait() == [0]
    assert begin(recipe, tmp_path / "whole", 1).wait() == [0]
    assert_same(out, tmp_path / "whole")
