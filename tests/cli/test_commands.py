"""`evaluate`, `check`, `report`, `adapt` on small trees; others have files of their own."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.errors import UserError
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe
from tests.support.command_line import failure, run
from tests.support.trees import read_pixels, write_domain, write_recipe


@pytest.fixture
def model(segmenter: Segmenter, tmp_path: Path) -> Path:
    segmenter.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def day(tmp_path: Path) -> Path:
    return write_domain(tmp_path, "day", seed=1)


def test_evaluate_prints_and_writes_what_python_counts(model: Path, day: Path) -> None:
    out = model.parent / "scores.json"
    printed = run("evaluate", model, "--domain", day, "--json", out)
    written = json.loads(out.read_text())
    assert written["frames"] == 6
    assert f"{100 * written['miou']:.1f}" in printed

    from cag_uda import load

    segmenter = load(model)
    tally = np.zeros((4, 4), np.int64)
    for path in sorted((day.parent / "day" / "labels").iterdir()):
        truth = read_pixels(path)
        label = segmenter.predict(day.parent / "day" / "images" / path.name)
        np.add.at(tally, (truth.ravel(), label.ravel()), 1)
    union = tally.sum(0) + tally.sum(1) - tally.diagonal()
    expected = (tally.diagonal() / union).tolist()
    assert written["iou"] == pytest.approx(expected)
    assert written["miou"] == pytest.approx(np.mean(expected))


def test_evaluate_against_itself_is_no_gain(model: Path, day: Path) -> None:
    out = model.parent / "scores.json"
    other = model.parent / "other"
    model_files = {path.name: path.read_bytes() for path in model.iterdir()}
    other.mkdir()
    for name, content in model_files.items():
        (other / name).write_bytes(content)
    run("evaluate", model, "--domain", day, "--against", other, "--json", out)
    gain = json.loads(out.read_text())["gain"]
    assert (gain["points"], gain["low"], gain["high"]) == (0, 0, 0)


def test_evaluate_errors_say_what_to_do(
    model: Path, day: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = ("evaluate", model, "--domain")
    assert "train, test" in failure(capsys, *evaluate, day, "--split", "val")
    assert "camvid-day" in failure(capsys, *evaluate, "camvid-dya")
    assert "same classes" in failure(capsys, *evaluate, "rendered-clean")
    assert "synthia-16" in failure(capsys, *evaluate, day, "--protocol", "synthia-15")
    assert "cpu" in failure(capsys, *evaluate, day, "--accelerator", "tpu")
    assert "bf16" in failure(capsys, *evaluate, day, "--precision", "8")


def test_check_tells_good_from_bad(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    printed = run("check", recipe)
    assert "nothing is wrong" in printed
    assert "6 images" in printed
    (tmp_path / "day" / "images" / "003.png").write_bytes(b"junk")
    label = tmp_path / "day" / "labels" / "004.png"
    cv2.imwrite(str(label), np.full((48, 64), 77, np.uint8))
    (tmp_path / "dusk" / "images" / "001.png").write_bytes(b"")
    done = CliRunner().invoke(app, ["check", str(recipe)])
    assert done.exit_code == 2
    for expected in ("003", "77", "001"):
        assert expected in done.output


def test_report_is_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "run" in failure(capsys, "report", tmp_path)


def test_a_run_folder_is_resumed_by_its_name_unless_another_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, str]] = []

    def stop(recipe: Recipe, out: Path, **_: object) -> None:
        asked.append((recipe.seed, str(out)))
        raise UserError("this is far enough")

    monkeypatch.setattr("cag_uda.runs.runner.adapt", stop)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    recipe = "seed = 7\n" + write_recipe(tmp_path).read_text()
    (tmp_path / "demo" / "recipe.toml").write_text(recipe)
    for options in ((), ("--out", "demo"), ("--out", "demo-1")):
        assert "far enough" in failure(capsys, "adapt", "demo", "--resume", *options)
    assert asked == [(7, "demo"), (7, "demo"), (0, "demo-1")]
