"""What `plan` foretells, against hand-worked values and against the runs that follow."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.data.domains.domain import Domain
from cag_uda.errors import DataError, UserError
from cag_uda.recipes import builtin_recipes, load_recipe
from cag_uda.runs.planning import fitting, plan
from cag_uda.runs.planning.fitting import (
    Growth,
    Trial,
    Way,
    available_mib,
    settings_that_fit,
    trial_crops,
)
from cag_uda.runs.planning.forecast import Measured, scaled, times
from cag_uda.runs.planning.rehearsal import FRAMES, FewFrames
from tests.support.trees import RECIPE, write_domain, write_recipe


def test_needs_grow_along_a_line_through_two_trials() -> None:
    growth = Growth(Trial(1000, 300.0, 0.2), Trial(4000, 600.0, 0.5))
    assert growth.at(16_000) == pytest.approx((16_000, 1800, 1.7))
    same = Growth(Trial(1024, 300.0, 0.2), Trial(1024, 300.0, 0.2))
    assert same.at(2048).mib == 300
    noisy = Growth(Trial(1000, 310.0, 0.2), Trial(4000, 300.0, 0.1))
    assert noisy.at(16_000).mib == 300, "less for more is noise"


def test_settings_that_fit_give_up_no_more_than_they_must() -> None:
    """200 MiB and 0.01 MiB a pixel, half of that in bf16: 18,550 at the recipe's sizes."""
    recipe = load_recipe("gta5-cityscapes")
    full = Growth(Trial(0, 200.0, 1.0), Trial(100_000, 1200.0, 1.0))
    half = Growth(Trial(0, 200.0, 1.0), Trial(100_000, 700.0, 1.0))
    third = Growth(Trial(0, 200.0, 1.0), Trial(100_000, 500.0, 1.0))
    small = Growth(Trial(0, 10.0, 1.0), Trial(100_000, 10.0, 1.0))
    growths = {
        Way("32", ()): [small, full],
        Way("bf16", ()): [half, small],
        Way("bf16", ("blocks",)): [third, small],
    }

    def told(available_mib: float) -> list[list[str]]:
        found = settings_that_fit(recipe, 1, growths, available_mib)
        return [each.changes() for each in found]

    bf16, blocks = 'compute.precision="bf16"', 'compute.checkpointing=["blocks"]'
    parts, halves = "compute.accumulation=2", "loading.batch_size=2"
    small_crop = "loading.crop_px=[256, 448]"
    # Three quarters of the crop's sides would be 10,522 MiB.
    assert told(10_000) == [[parts], [bf16], [halves], [small_crop]]
    less_crop = "loading.crop_px=[384, 672]"
    assert told(5_000) == [[bf16, parts], [bf16, blocks, less_crop], [bf16, halves], [small_crop]]
    # A batch norm wants two images, so that neither a half nor a part can be halved.
    assert told(3_500)[0] == [bf16, blocks, parts]
    assert told(100) == []
    first, second, *_ = settings_that_fit(recipe, 1, growths, 10_000)
    assert first.peak_memory_mib == pytest.approx(200 + 0.01 * 2 * 512 * 896)
    assert second.peak_memory_mib == pytest.approx(200 + 0.005 * 4 * 512 * 896)
    for changes in [*told(10_000), *told(3_500)]:
        load_recipe("gta5-cityscapes", changes)


def test_batches_are_halved_as_long_as_a_recipe_with_them_is_one() -> None:
    """A batch norm that trains wants two images, on one device or on several together.

    Told are the batches that are not taken in parts.
    """
    pixels = {Way("32", ()): [Growth(Trial(0, 0.0, 1.0), Trial(1, 1.0, 1.0))]}
    half_a_crop = 256 * 448

    def batches(devices: int, on_each: int, *changes: str) -> list[int]:
        """Batches that fit where each device has memory for so many crops of half the sides."""
        recipe = load_recipe("gta5-cityscapes", ["loading.batch_size=8", *changes])
        found = settings_that_fit(recipe, devices, pixels, on_each * half_a_crop)
        return [each.batch_size for each in found if each.accumulation == 1]

    assert batches(1, 2) == [2]
    assert batches(1, 1) == []
    assert batches(1, 1, "segmenter.norm=frozen") == [1]
    assert batches(2, 2) == [4]
    assert batches(2, 1) == [2]


def test_crops_hold_the_detail(tmp_path: Path) -> None:
    """Those that are tried differ, so that memory has a slope; those that are told can be had."""
    text = builtin_recipes()["cag-plus-gta5-cityscapes"].read_text()
    path = tmp_path / "hrda.toml"
    path.write_text(text[: text.index("# Adapts category anchors")])
    changes = ["loading.width_px=2048", "loading.crop_px=[1024,1024]", "segmenter.detail={}"]
    hrda = load_recipe(path, changes)
    assert trial_crops(hrda) == ((640, 640), (768, 768))
    assert trial_crops(load_recipe("gta5-cityscapes")) == ((128, 224), (256, 448))
    a_pixel = {Way("32", ()): [Growth(Trial(0, 0.0, 1.0), Trial(1, 1.0, 1.0))]}
    for detail_px, expected in ((512, [(512, 512)]), (704, [])):
        changes[-1] = f"segmenter.detail.crop_px=[{detail_px},{detail_px}]"
        recipe = load_recipe(path, changes)
        found = settings_that_fit(recipe, 1, a_pixel, 2 * 600 * 600)
        assert [each.crop_px for each in found] == expected
        for setting in found:
            load_recipe(path, [*changes, *setting.changes()])


@pytest.mark.slow
def test_one_image_a_device_is_planned_too(tmp_path: Path) -> None:
    """Alone it could not train batch norm; together with the other device's it can."""
    path = write_recipe(tmp_path, "[[stages]]".join(RECIPE.split("[[stages]]")[:2]))
    forecast = plan(load_recipe(path, ["segmenter.norm=shared", "compute.devices=2"]))
    assert forecast.fits
    assert forecast.total_s is not None


def test_what_was_measured_is_scaled_to_the_whole_stage() -> None:
    stage = load_recipe("gta5-cityscapes").stages[1]
    stage = stage.model_copy(update={"steps": 1001, "evaluate_every": 100, "checkpoint_every": 400})
    measured = Measured(
        load_s=0.1,
        prepare_s=107.0,
        step_s=0.25,
        once_s=13.0,
        save_s=1.5,
        evaluation_s=5.0,
        pictures_s=0.5,
        scoring_s=26.0,
        training_mib=900.0,
        scoring_mib=1000.0,
    )
    rest_s = 107 + 13 + 10 * 5 + 4 * 0.5 + 3 * 1.5
    done = scaled(stage, measured, 250)
    assert done.training_s == pytest.approx(1001 * 0.25 + rest_s)
    assert done.scoring_s == 26
    assert (done.peak_memory_mib, done.scoring_memory_mib, done.most_memory_mib) == (900, 1000, 1e3)

    slow_disk = scaled(stage, replace(measured, load_s=0.4), 250)
    assert slow_disk.step_s == 0.4, "training waits for the loader"
    assert slow_disk.training_s == pytest.approx(1001 * 0.4 + rest_s)

    # Prepared anew, and saved, after 500 and 1000 steps.
    renewed = stage.model_copy(update={"refresh_every": 500})
    assert done.training_s is not None
    again = scaled(renewed, measured, 250)
    assert again.training_s == pytest.approx(done.training_s + 2 * (107 + 1.5))


@pytest.mark.parametrize(
    ("steps", "every", "often"),
    [(10, 5, 1), (11, 5, 2), (4, 5, 0), (0, 5, 0), (10, None, 0), (1, 1, 0)],
)
def test_what_is_due_on_the_way_is_not_due_at_the_end(
    steps: int, every: int | None, often: int
) -> None:
    assert times(steps, every) == often


def test_few_frames_of_a_domain(tmp_path: Path) -> None:
    whole = Domain.open(write_domain(tmp_path, "day", FRAMES + 5))
    few = FewFrames(whole)
    keys = [item.key for item in whole.items("test")]
    shown = [item.key for item in few.items("test")]
    assert (len(shown), shown[0], shown[-1]) == (FRAMES, keys[0], keys[-1])
    assert len(set(shown)) == FRAMES
    assert len(whole.items("test")) == FRAMES + 5
    item = whole.items("test")[0]
    assert (few.read_label(item) == whole.read_label(item)).all()
    with pytest.raises(DataError, match="no split 'night'"):
        few.items("night")


def test_available_memory_is_what_limits_leave_and_what_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = torch.device("cpu")
    assert 100 < available_mib(device) < 1e9
    monkeypatch.setattr(fitting, "free_bytes", lambda _: 50 << 20)  # Groups are looked at there.
    assert 50 + 50 < available_mib(device) < 50 + 20_000


STAGES = RECIPE.partition("[[stages]]")[0] + (
    '[tracking]\nloggers = ["wandb"]\npictures_every = 2\n'
    '[[stages]]\nname = "first"\nsteps = 40\nevaluate_every = 10\n'
    'method = { name = "cag", margin = { kind = "clearest", value = 0.5 } }\n'
    '[[stages]]\nname = "second"\nsteps = 80\nevaluate_every = 10\n'
    'method = { name = "cag", margin = { kind = "clearest", value = 0.5 } }\n'
)


@pytest.mark.slow
def test_a_plan_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of one kind are rehearsed once, no service is told, and nothing is left behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    recipe, file = write_recipe(tmp_path, STAGES), tmp_path / "plan.json"
    before = sorted(tmp_path.iterdir())
    done = CliRunner().invoke(app, ["plan", str(recipe), "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert "rehearsing first\n" in done.output
    assert "in all; at most" in done.output
    told = json.loads(file.read_text())
    first, second = told["stages"]
    assert told["fits"] is True
    assert first["step_s"] == second["step_s"] > 0
    assert second["training_s"] > first["training_s"] + 39 * first["step_s"]
    parts = [told["start_s"], told["end_s"]]
    parts += [each[part] for each in told["stages"] for part in ("training_s", "scoring_s")]
    assert told["total_s"] == pytest.approx(sum(parts))
    assert told["peak_memory_mib"] >= first["peak_memory_mib"] > 50
    assert sorted(tmp_path.iterdir()) == sorted([*before, file])


@pytest.mark.slow
def test_what_does_not_fit_is_not_rehearsed(tmp_path: Path) -> None:
    recipe, file = write_recipe(tmp_path, STAGES), tmp_path / "plan.json"
    command = ["plan", str(recipe), "--memory", "0.1", "--json", str(file)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "it does not fit" in done.output
    assert "rehearsing" not in done.output
    told = json.loads(file.read_text())
    assert (told["fits"], told["total_s"], told["settings"]) == (False, None, [])


LOADING = "batch_size = 4\ncrop_px = [96, 160]\nphotometric = 0.5\nworkers = 1\n"
THREE_KINDS = """
[[stages]]
name = "warmup"
steps = 24
evaluate_every = 10
method = { name = "adversarial", discriminator_channels = 16 }
[[stages]]
name = "stage-1"
steps = 16
checkpoint_every = 6
method = { name = "cag", margin = { kind = "calibrated", value = 0.9 } }
[[stages]]
name = "stage-2"
steps = 16
refresh_every = 8
method = { name = "cag", margin = { kind = "calibrated", value = 0.9 } }
"""


def rendered_recipe(
    folder: Path, backbone: str, loading: str, stages: str, accelerator: str = "cpu"
) -> Path:
    """A recipe on rendered scenes, more of them than a rehearsal looks at."""
    for look in ("clean", "hard"):
        (folder / f"{look}.toml").write_text(
            f'name = "{look}"\nlabel_space = "camvid-11"\n[rendered]\nlook = "{look}"\n'
            "height_px = 96\nwidth_px = 192\nseed = 5\n"
            "[splits.train]\nscenes = [0, 40]\n[splits.test]\nscenes = [40, 70]\n"
        )
    path = folder / "rendered.toml"
    path.write_text(
        'name = "rendered"\n[source]\ndomain = "./clean.toml"\n[target]\ndomain = "./hard.toml"\n'
        f'[segmenter]\nbackbone = "{backbone}"\ndecoder = "light"\n[loading]\n{loading}'
        f'[compute]\naccelerator = "{accelerator}"\nprecision = "32"\nchannels_last = true\n'
        f"{stages}"
    )
    return path


RUN = """
import json, sys, time
from pathlib import Path
from cag_uda.recipes import load_recipe
from cag_uda.runs.runner import adapt
from cag_uda.training.process import prepare_process
prepare_process()
begun_s = time.perf_counter()
run = adapt(load_recipe(sys.argv[1]), sys.argv[2], progress=False)
total_s = time.perf_counter() - begun_s
# Since the last stage began: a stage's watch begins anew. The process's ru_maxrss would hold the
# peak of whoever started it.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"total_s": total_s, "last_mib": int(status["VmHWM"].split()[0]) / 1024}))
"""


def in_process(*arguments: object) -> str:
    """What a Python process of its own prints."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.quiet
@pytest.mark.timeout(900)
@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_run_needs_what_its_plan_foretold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accelerator: str
) -> None:
    """Memory within 15 % and time within 25 %, each in a process of its own."""
    if accelerator == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    recipe = rendered_recipe(tmp_path, "resnet-18", LOADING, THREE_KINDS, accelerator)
    file = tmp_path / "plan.json"
    in_process("-m", "cag_uda", "plan", recipe, "--json", file)
    run = json.loads(in_process("-c", RUN, recipe, tmp_path / "run").splitlines()[-1])
    told = json.loads(file.read_text())
    scores = json.loads((tmp_path / "run/scores.json").read_text())

    for expected, stage in zip(told["stages"], scores["stages"], strict=True):
        assert expected["name"] == stage["name"]
        assert expected["peak_memory_mib"] == pytest.approx(stage["peak_memory_mib"], rel=0.15)
    peaks = [stage["peak_memory_mib"] for stage in scores["stages"]]
    if accelerator == "cpu":
        peak_mib = max(run["last_mib"], *peaks)
        assert told["peak_memory_mib"] == pytest.approx(peak_mib, rel=0.15)
    training_s = sum(stage["elapsed_s"] for stage in scores["stages"])
    expected_s = sum(stage["training_s"] for stage in told["stages"])
    assert expected_s == pytest.approx(training_s, rel=0.25)
    assert told["total_s"] == pytest.approx(run["total_s"], rel=0.25)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_told_from_small_crops_is_that_of_a_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By it, what does not fit is never tried; and the settings that are told do fit."""
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    loading = "batch_size = 8\ncrop_px = [192, 320]\nworkers = 0\n"
    stage = '[[stages]]\nname = "source-only"\nsteps = 99\nmethod = { name = "source-only" }\n'
    recipe = rendered_recipe(tmp_path, "resnet-18-half", loading, stage)

    def told(*options: object) -> dict[str, Any]:
        file = tmp_path / "plan.json"
        # It exits with 2 where the recipe does not fit.
        code = "from cag_uda.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass"
        in_process("-c", code, "plan", recipe, *options, "--json", file)
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    # The smaller of two peaks: what the allocator keeps in addition differs by process.
    rehearsed = min((told() for _ in range(2)), key=lambda found: found["peak_memory_mib"])
    peak_gib = rehearsed["peak_memory_mib"] / 1024
    tried = told("--memory", f"{0.8 * peak_gib:.3f}")
    assert rehearsed["fits"]
    assert not tried["fits"]
    training_mib = [each["stages"][0]["peak_memory_mib"] for each in (tried, rehearsed)]
    assert training_mib[0] == pytest.approx(training_mib[1], rel=0.15)
    assert tried["settings"]
    for setting in tried["settings"]:
        assert setting["peak_memory_mib"] <= 0.8 * rehearsed["peak_memory_mib"]


def test_missing_data_is_an_error(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "day.toml").unlink()
    with pytest.raises(UserError, match=r"day\.toml"):
        plan(load_recipe(recipe))
