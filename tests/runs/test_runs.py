"""Whole runs on small trees: by the command line, resumed, without labels, with wrong ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

import cag_uda
from cag_uda.cli.app import app, main
from cag_uda.errors import RunError, UserError
from cag_uda.recipes import load_recipe
from cag_uda.runs.runner import adapt
from cag_uda.training.interrupt import Interrupted
from tests.support.forked import Run
from tests.support.stopping import StopAt
from tests.support.trees import RECIPE, write_domain, write_recipe

STAGES = ["source-only", "adabn", "warmup", "stage-1"]


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model" / "model.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert np.array_equal(value, other[name]), name


def test_adapt_through_the_command_line(tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path), tmp_path / "run"
    done = CliRunner().invoke(app, ["adapt", str(recipe), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "source-only" in done.output

    scores = json.loads((out / "scores.json").read_text())
    assert [stage["name"] for stage in scores["stages"]] == STAGES
    assert [stage["start"] for stage in scores["stages"]] == [
        "initial",
        "source-only",
        "initial",
        "warmup",
    ]
    for stage in scores["stages"]:
        assert 0 <= stage["miou"] <= 1
        assert len(stage["iou"]) == 4
    assert scores["stages"][3]["gain"]["over"] == "source-only"

    last = out / "stages" / "3-stage-1"
    quality = json.loads((last / "pseudo_labels.json").read_text())
    assert set(quality) == {"anchor", "confidence", "intersection"}
    assert quality["anchor"]["coverage"] == pytest.approx(0.5, abs=0.1)
    assert load_file(last / "anchors.safetensors")["vectors"].shape == (4, 128)
    assert (last / "pseudo_labels" / "4-confidence.png").is_file()
    assert load_file(last / "features.safetensors")["distances"].shape == (4, 4)
    record = json.loads((last / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["step"] == 3
    assert {"source/ce", "source/distance", "target/anchor", "target/confidence"} <= set(
        record["losses"]
    )
    assert list((last / "tensorboard").glob("events*"))
    assert "<!doctype html>" in (out / "report.html").read_text()
    assert json.loads((out / "environment.json").read_text())["packages"]["torch"]

    label = cag_uda.load(out).predict(tmp_path / "dusk" / "images" / "000.png")
    assert label.shape == (48, 64)
    assert load_recipe(out / "recipe.toml").compute.precision == "32"


@pytest.mark.slow
def test_the_resolved_recipe_repeats_the_run(tmp_path: Path) -> None:
    first = adapt(write_recipe(tmp_path), tmp_path / "first")
    adapt(first.folder / "recipe.toml", tmp_path / "second")
    assert_same_weights(tmp_path / "first", tmp_path / "second")
    assert (tmp_path / "first/recipe.toml").read_text() == (
        tmp_path / "second/recipe.toml"
    ).read_text()


@pytest.mark.slow
def test_another_seed_is_another_network(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    one = adapt(load_recipe(recipe, ["stages.*.steps=1", "stages.adabn.steps=0"]), tmp_path / "one")
    other = adapt(
        load_recipe(recipe, ["stages.*.steps=1", "stages.adabn.steps=0", "seed=2147483647"]),
        tmp_path / "other",
    )
    a, b = weights(one.folder), weights(other.folder)
    assert not np.array_equal(a["classifier.weight"], b["classifier.weight"])


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(("source-only", 1), marks=pytest.mark.slow),
        ("warmup", 2),
        pytest.param(("stage-1", 1), marks=pytest.mark.slow),
        pytest.param(("stage-1", 3), marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path, place: tuple[str, int]
) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ["stages.*.log_every=1"])
    with pytest.raises(Interrupted) as stopped:
        adapt(recipe, tmp_path / "stopped", progress=StopAt(*place))
    assert stopped.value.exit_code == 143
    adapt(recipe, tmp_path / "stopped", resume=True)
    adapt(recipe, tmp_path / "whole")
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")
    # A stage that goes on keeps two checkpoints; a finished one does not want the older.
    assert not list(tmp_path.glob("stopped/stages/*/checkpoint/previous.pt"))
    one, other = (
        json.loads((tmp_path / name / "scores.json").read_text()) for name in ("stopped", "whole")
    )
    for first, second in zip(one["stages"], other["stages"], strict=True):
        assert first["iou"] == second["iou"]
    anchors = [
        load_file(tmp_path / name / "stages/3-stage-1/anchors.safetensors")["vectors"]
        for name in ("stopped", "whole")
    ]
    assert np.array_equal(anchors[0], anchors[1])


def test_a_log_that_was_damaged_before_the_run_went_on_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ["stages.*.log_every=1"])
    with pytest.raises(Interrupted):
        adapt(recipe, tmp_path / "run", progress=StopAt("warmup", 2))
    log = tmp_path / "run/stages/2-warmup/metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[1:]))
    adapt(recipe, tmp_path / "run", resume=True)
    assert "metrics.jsonl is damaged: what it lost of the steps before 2" in caplog.text
    lines = [json.loads(line) for line in log.open()]
    assert [line["step"] for line in lines] == [2, 2, 3]
    assert lines[1]["is_incomplete"]
    page = (tmp_path / "run/report.html").read_text()
    assert "2-warmup/metrics.jsonl is incomplete: it was damaged before" in page


@pytest.mark.slow
def test_a_stage_begins_alike_whether_or_not_the_ones_before_ran_in_this_process(
    tmp_path: Path,
) -> None:
    """Stopped between stages, so that the discriminator is made by another process's generator."""
    recipe = load_recipe(write_recipe(tmp_path), ["stages.*.log_every=1"])
    with pytest.raises(Interrupted):
        adapt(recipe, tmp_path / "stopped", progress=StopAt("source-only", 3))
    torch.rand(17)
    adapt(recipe, tmp_path / "stopped", resume=True)
    adapt(recipe, tmp_path / "whole")
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


def test_wrong_labels_beside_the_targets_training_images_change_nothing(tmp_path: Path) -> None:
    """The claim of the whole method: no label of the target reaches training."""
    networks = []
    for case in ("right", "wrong"):
        folder = tmp_path / case
        folder.mkdir()
        recipe = write_recipe(folder)
        if case == "wrong":
            for path in (folder / "dusk" / "labels").iterdir():
                path.write_bytes(b"not even an image")
        networks.append(_adapt_without_test(folder, recipe))
    assert_same_weights(*networks)


def _adapt_without_test(folder: Path, recipe: Path) -> Path:
    """Adapt to the train split alone: the domain file names no other split."""
    dusk = folder / "dusk.toml"
    before, _, rest = dusk.read_text().partition("[splits.test]")
    dusk.write_text(before + "[labels]" + rest.partition("[labels]")[2])
    return adapt(recipe, folder / "run").folder


def test_a_target_without_any_labels(tmp_path: Path) -> None:
    write_domain(tmp_path, "day", seed=1)
    write_domain(tmp_path, "dusk", light=0.4, labels=False, seed=2)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    run = adapt(tmp_path / "tiny.toml", tmp_path / "run")
    assert run.scores.target is None
    assert [stage.miou for stage in run.scores.stages] == [None] * 4
    quality = json.loads((run.folder / "stages/3-stage-1/pseudo_labels.json").read_text())
    assert quality["anchor"]["precision"] is None
    assert quality["anchor"]["coverage"] == pytest.approx(0.5, abs=0.1)
    assert (run.folder / "stages/3-stage-1/samples/0.png").exists()
    assert (run.folder / "report.html").exists()


def test_runs_in_the_way_and_of_other_recipes_are_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    short = ["stages.*.steps=1", "stages.adabn.steps=0"]
    with pytest.raises(RunError, match="nothing to resume"):
        adapt(load_recipe(recipe, short), tmp_path / "run", resume=True)
    run = adapt(load_recipe(recipe, short), tmp_path / "run")
    before = weights(run.folder)
    with pytest.raises(RunError, match="--resume"):
        adapt(load_recipe(recipe, short), tmp_path / "run")
    with pytest.raises(RunError, match="stages"):
        adapt(recipe, tmp_path / "run", resume=True)
    adapt(load_recipe(recipe, short), tmp_path / "run", resume=True)
    assert all(np.array_equal(value, before[name]) for name, value in weights(run.folder).items())


def test_a_data_root_holds_for_a_recipe_in_hand_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path / "nowhere")):
        adapt(load_recipe("camvid-day-dusk"), tmp_path / "run", data_root=tmp_path / "nowhere")


def test_unequal_classes_and_missing_domains_are_all_reported(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    dusk = tmp_path / "dusk.toml"
    dusk.write_text(dusk.read_text().replace('name = "car"', 'name = "bus"'))
    with pytest.raises(UserError, match=r"dusk.*bus.*same label space"):
        adapt(recipe, tmp_path / "run")
    (tmp_path / "day.toml").unlink()
    dusk.unlink()
    with pytest.raises(UserError) as caught:
        adapt(recipe, tmp_path / "run")
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "run").exists()


def test_user_errors_end_with_code_2_and_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["cag-uda", "adapt", "no-such-recipe"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    written = capsys.readouterr().err
    assert written.startswith("error: no built-in recipe 'no-such-recipe'")
    assert "Traceback" not in written


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, cag_uda, cag_uda.cli; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'cv2', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.quiet
def test_help_answers_within_half_a_second() -> None:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cag_uda", "--help"], check=True, stdout=-3)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cag_uda", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(path: Path, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


MANY_STEPS = [
    *("--set", "stages.warmup.steps=40"),
    *("--set", "stages.*.log_every=1"),
    *("--set", "stages.*.checkpoint_every=5"),
    *("--set", "loading.workers=1"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of many steps that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    recipe, run = write_recipe(folder), folder / "run"
    assert Run(recipe, "--out", run, *MANY_STEPS).wait() == [0]
    return run


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_a_signalled_process_keeps_its_code_and_resumes_to_the_same_weights(
    tmp_path: Path, whole: Path, number: int, code: int
) -> None:
    recipe, out = write_recipe(tmp_path), tmp_path / "killed"
    process = start("adapt", recipe, "--out", out, *MANY_STEPS)
    wait_for(out / "stages" / "2-warmup" / "metrics.jsonl")
    # To the whole group, loaders included, as a terminal and a scheduler do.
    os.killpg(process.pid, number)
    assert process.wait(60) == code
    assert not (out / "model").exists(), "the signal came before the end"
    assert Run(recipe, "--out", out, "--resume", *MANY_STEPS).wait() == [0]
    assert_same_weights(out, whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_adaptation_beats_source_only_on_rendered_scenes(tmp_path: Path) -> None:
    """The product's reason to be, in a minute: a short demo gains on the hard look."""
    short = ["stages.source-only.steps=80", "stages.cag-plus.steps=80"]
    run = adapt(load_recipe("demo", short), tmp_path / "run")
    scores = {stage["name"]: stage for stage in run.scores.plain()["stages"]}
    assert scores["answer"]["gain"]["low"] > 0
    assert scores["answer"]["miou"] > scores["statistics"]["miou"]
