"""Two processes do what one does: same batches, same losses, one voice, one end."""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cag_uda.errors import DataError, RecipeError, RunError, UserError
from cag_uda.methods import METHODS
from cag_uda.recipes import load_recipe
from cag_uda.training.interrupt import Interrupted
from tests.support.few_labels import write_few_labels
from tests.support.forked import Run
from tests.support.run_folders import assert_same, metrics
from tests.support.trees import RECIPE, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Dropout draws other numbers in each process, and rounding grows with batch norm in training.
EXACT = (
    RECIPE.replace("batch_size = 2", "batch_size = 4")
    .replace('decoder = "light"', 'decoder = "deeplab-v2"\nnorm = "frozen"')
    .replace("steps = 3", "steps = 4")
)
EVERY_STEP = ("--set", "stages.*.log_every=1")

_TWO_LEVELS = """
[[stages]]
name = "adaptsegnet"
start = "initial"
steps = 3
method = { name = "adaptsegnet" }
"""
"""A stage whose network gives a second output, which only some losses are of."""


def adapt(recipe: Path, out: Path, *more: object, processes: int = 1, **keywords: Any) -> Run:
    return Run(recipe, "--out", out, *EVERY_STEP, *more, processes=processes, **keywords)


def assert_close_metrics(run: Path, other: Path) -> None:
    first, second = metrics(run), metrics(other)
    assert len(first) == len(second) > 0
    for one, two in zip(first, second, strict=True):
        assert one == pytest.approx(two, rel=1e-5, abs=1e-7)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe without dropout and with frozen batch norm, and its run on one process."""
    folder = tmp_path_factory.mktemp("exact")
    recipe = write_recipe(folder, EXACT)
    assert adapt(recipe, folder / "one").wait() == [0]
    return recipe, folder / "one"


def test_two_processes_train_as_one_does(exact: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, one = exact
    two, log = tmp_path / "two", tmp_path / "log"
    assert adapt(recipe, two, processes=2, log=log).wait() == [0, 0]
    assert_close_metrics(one, two)
    stage = Path("stages/3-stage-1")
    anchors = [load_file(run / stage / "anchors.safetensors") for run in (one, two)]
    assert np.array_equal(anchors[0]["counts"], anchors[1]["counts"])
    np.testing.assert_allclose(anchors[0]["vectors"], anchors[1]["vectors"], rtol=1e-4, atol=1e-5)
    quality, scores = (
        [json.loads((run / name).read_text()) for run in (one, two)]
        for name in (stage / "pseudo_labels.json", "scores.json")
    )
    shares = [json.loads((run / "class_shares.json").read_text()) for run in (one, two)]
    assert shares[0]["source"] == shares[1]["source"]
    assert shares[0]["target_cells"] == shares[1]["target_cells"]
    assert shares[0]["target"] == pytest.approx(shares[1]["target"], abs=1e-3)
    assert quality[0] == quality[1], "every pixel is counted once, by one of the processes"
    for first, second in zip(scores[0]["stages"], scores[1]["stages"], strict=True):
        assert first["iou"] == pytest.approx(second["iou"], abs=1e-3)
    frames = [np.load(run / stage / "frames.npz") for run in (one, two)]
    assert frames[0]["keys"].tolist() == frames[1]["keys"].tolist()
    assert frames[0]["confusions"].sum() == frames[1]["confusions"].sum()
    assert (two / "report.html").exists()
    said = log.read_text()
    assert said.count("network: ") == said.count("2 processes") == 1, "one process speaks"


@pytest.mark.parametrize("more", ["", _TWO_LEVELS], ids=["exact", "adaptsegnet"])
def test_two_processes_share_the_labelled_images_of_the_target(tmp_path: Path, more: str) -> None:
    recipe, log = write_few_labels(tmp_path, EXACT + more), tmp_path / "log"
    assert adapt(recipe, tmp_path / "one").wait() == [0]
    assert adapt(recipe, tmp_path / "two", processes=2, log=log).wait() == [0, 0], log.read_text()
    assert_close_metrics(tmp_path / "one", tmp_path / "two")
    assert any("labelled/ce" in losses for losses in metrics(tmp_path / "two"))


@pytest.mark.parametrize("launcher", ["two machines", "slurm"])
def test_launchers_tell_who_is_who(tmp_path: Path, launcher: Any) -> None:
    one_stage = "[[stages]]".join(EXACT.split("[[stages]]")[:2])
    recipe, log = write_recipe(tmp_path, one_stage), tmp_path / "log"
    run = adapt(recipe, tmp_path / "two", processes=2, launcher=launcher, log=log)
    assert run.wait() == [0, 0], log.read_text()
    assert adapt(recipe, tmp_path / "one").wait() == [0]
    assert_close_metrics(tmp_path / "one", tmp_path / "two")


def test_a_run_of_one_process_goes_on_with_two(exact: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, one = exact
    out = tmp_path / "elastic"
    stop = partial(stop_after, "2-warmup", 2)
    assert adapt(recipe, out, act=stop).wait() == [143]
    assert adapt(recipe, out, "--resume", processes=2).wait() == [0, 0]
    assert_close_metrics(one, out)


@pytest.mark.parametrize("norm", ["shared", "per-domain"])
def test_batch_norm_in_training_looks_at_the_images_of_both(tmp_path: Path, norm: str) -> None:
    """Even with one image a process, which alone could not train it."""
    text = EXACT.replace('norm = "frozen"', f'norm = "{norm}"').replace(
        "batch_size = 4", "batch_size = 2"
    )
    recipe, log = write_recipe(tmp_path, text), tmp_path / "log"
    assert adapt(recipe, tmp_path / "two", processes=2, log=log).wait() == [0, 0], log.read_text()
    assert adapt(recipe, tmp_path / "one").wait() == [0]
    first, second = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    for one, two in zip(first[:4], second[:4], strict=True):
        assert one == pytest.approx(two, rel=1e-3)


def replace(owner: object, name: str, replacement: object) -> None:
    """Put something in another's place for the life of this process."""
    pytest.MonkeyPatch().setattr(owner, name, replacement)


def stop_after(stage: str, records: int, number: int = signal.SIGTERM, rank: int = 0) -> None:
    """Let one process send itself a signal when a stage has taken some steps."""
    from cag_uda.training.log import StageLog

    add = StageLog.add

    def counted(self: StageLog, step: int, *arguments: Any) -> None:
        add(self, step, *arguments)
        is_here = os.environ.get("RANK", "0") == str(rank) and stage in str(self.folder)
        if is_here and step + 1 == records:
            os.kill(os.getpid(), number)

    replace(StageLog, "add", counted)


@pytest.mark.parametrize(
    ("rank", "number", "code"), [(0, signal.SIGTERM, 143), (1, signal.SIGTERM, 143), (1, 2, 130)]
)
def test_a_signal_to_one_process_stops_both_and_resumes_exactly(
    tmp_path: Path, rank: int, number: int, code: int
) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("batch_size = 2", "batch_size = 4"))
    stop = partial(stop_after, "3-stage-1", 2, number, rank)
    out, log = tmp_path / "stopped", tmp_path / "log"
    assert adapt(recipe, out, processes=2, act=stop, log=log).wait() == [code, code]
    assert log.read_text().count("go on with --resume") == 1
    assert adapt(recipe, out, "--resume", processes=2).wait() == [0, 0]
    assert adapt(recipe, tmp_path / "whole", processes=2).wait() == [0, 0]
    assert_same(out, tmp_path / "whole")


def break_reading(name: str, rank: int) -> None:
    """Let one process fail to read one file."""
    from cag_uda.data.domains.domain import Domain, Item

    read_image = Domain.read_image

    def broken(self: Domain, item: Item) -> Any:
        if item.image.name == name and os.environ["RANK"] == str(rank):
            raise DataError(f"{item.image} is damaged, cut off or no image")
        return read_image(self, item)

    replace(Domain, "read_image", broken)


def break_writing(rank: int) -> None:
    """Let a process find the disk full when it writes a checkpoint."""
    import torch

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    if os.environ["RANK"] == str(rank):
        replace(torch, "save", full)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (partial(break_reading, "003.png", 1), "003.png is damaged"),
        (partial(break_writing, 0), "No space left on device"),
    ],
)
def test_an_error_of_one_process_is_told_once_and_ends_both(
    tmp_path: Path, act: Callable[[], None], said: str
) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("batch_size = 2", "batch_size = 4"))
    log = tmp_path / "log"
    assert adapt(recipe, tmp_path / "run", processes=2, act=act, log=log).wait() == [2, 2]
    text = log.read_text()
    assert text.count("error: ") == 1
    assert said in text
    assert "Traceback" not in text


def tell_of_weights(folder: Path) -> None:
    """Let each process write down a digest of all that a method holds at the end of its stage."""
    from cag_uda.runs.results import Results

    keep = Results.keep

    def told(self: Results, stage: Any, start: str, method: Any, *arguments: Any) -> None:
        digest = hashlib.sha256()
        for name, value in method.state_dict().items():
            digest.update(name.encode() + value.numpy().tobytes())
        place = folder / f"{stage.name}-{os.environ['RANK']}"
        place.write_text(digest.hexdigest())
        keep(self, stage, start, method, *arguments)

    replace(Results, "keep", told)


def test_every_method_leaves_two_processes_with_one_network(tmp_path: Path) -> None:
    """Weights, statistics, anchors, thresholds and teachers alike, to the last bit."""
    head = RECIPE.split("[[stages]]")[0].replace("batch_size = 2", "batch_size = 4")
    stages = [
        f'[[stages]]\nname = "{name}"\nstart = "initial"\nmethod = {{ name = "{name}" }}\n'
        + ("steps = 3\nrefresh_every = 2\n" if method.trains else "")
        for name, method in METHODS.items()
    ]
    recipe, log = write_recipe(tmp_path, head + "".join(stages)), tmp_path / "log"
    act = partial(tell_of_weights, tmp_path)
    run = adapt(recipe, tmp_path / "run", processes=2, act=act, log=log)
    assert run.wait() == [0, 0], log.read_text()[-3000:]
    told = {
        name: [(tmp_path / f"{name}-{rank}").read_text() for rank in (0, 1)] for name in METHODS
    }
    assert [name for name, (first, second) in told.items() if first != second] == []


def disagree_about_speed() -> None:
    """Let each process find another precision the fastest."""
    from cag_uda.training import compute

    rank = os.environ["RANK"]
    found = ("bf16", False) if rank == "0" else ("32", True)
    replace(compute, "_fastest_on_cpu", lambda *_: found)


def test_what_is_auto_is_settled_once_for_all(tmp_path: Path) -> None:
    text = RECIPE.replace("batch_size = 2", "batch_size = 4")
    text = text.replace('precision = "32"', "").replace("channels_last = false", "")
    recipe, log = write_recipe(tmp_path, text), tmp_path / "log"
    out = tmp_path / "run"
    run = adapt(recipe, out, processes=2, act=disagree_about_speed, log=log)
    assert run.wait() == [0, 0]
    assert "computing on cpu in bfloat16, 2 processes" in log.read_text()
    assert load_recipe(out / "recipe.toml").compute.precision == "bf16"


def note_rendering(folder: Path) -> None:
    """Write down which process renders, and into an empty cache."""
    from cag_uda import scenes as rendering

    os.environ["CAG_UDA_CACHE"] = str(folder / "cache")
    render = rendering.render_folder

    def noted(*arguments: Any, **keywords: Any) -> None:
        with (folder / "rendered").open("a") as file:
            file.write(os.environ["RANK"] + "\n")
        render(*arguments, **keywords)

    replace(rendering, "render_folder", noted)


RENDERED = """
name = "{name}"
[rendered]
look = "{look}"
seed = 0
height_px = 32
width_px = 64
[splits.train]
scenes = [0, 4]
[splits.test]
scenes = [4, 6]
"""


def test_one_process_renders_and_the_other_waits(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("batch_size = 2", "batch_size = 4"))
    for name, look in (("day", "clean"), ("dusk", "hard")):
        text = 'label_space = "camvid-11"\n' + RENDERED.format(name=name, look=look)
        (tmp_path / f"{name}.toml").write_text(text)
    act, log = partial(note_rendering, tmp_path), tmp_path / "log"
    one_stage = ("--set", "stages.*.steps=1", "--set", "stages.adabn.steps=0")
    run = adapt(recipe, tmp_path / "run", *one_stage, processes=2, act=act, log=log)
    assert run.wait() == [0, 0], log.read_text()
    assert set((tmp_path / "rendered").read_text().split()) == {"0"}


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("batch_size = 2", "batch_size = 3"))
    log = tmp_path / "log"
    assert adapt(recipe, tmp_path / "run", processes=2, log=log).wait() == [2, 2]
    assert log.read_text().count("error: loading.batch_size 3 is no multiple of 2") == 1


def test_processes_that_the_command_starts_itself_keep_a_signals_exit_code(
    tmp_path: Path,
) -> None:
    """With `--devices 2`, from outside, as a user's shell sees it."""
    import subprocess

    recipe = write_recipe(tmp_path, RECIPE.replace("batch_size = 2", "batch_size = 4"))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "cag_uda", "adapt", str(recipe), "--out", str(out)]
    many = ["--devices", "2", "--set", "stages.source-only.steps=400", *EVERY_STEP]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, *many], stdout=log, stderr=log, text=True)
        deadline = time.monotonic() + 200
        metrics_file = out / "stages" / "0-source-only" / "metrics.jsonl"
        while not (metrics_file.exists() and metrics_file.stat().st_size):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert (out / "stages/0-source-only/checkpoint/state.pt").exists()


@pytest.mark.parametrize("error", [UserError(["one", "two"]), RecipeError("x"), RunError("y")])
def test_errors_survive_the_way_to_another_process(error: UserError) -> None:
    import pickle

    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.problems) == (type(error), error.problems)
    stopped = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM)))
    assert stopped.exit_code == 143
