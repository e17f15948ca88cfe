"""What stands in `examples/` works as it is written there."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cag_uda
from cag_uda.cli.app import app
from cag_uda.methods import METHODS
from cag_uda.models.segmenter import Segmenter
from cag_uda.scenes import render, render_folder
from cag_uda.types import Batch, Labelled, Unlabelled
from tests.support.places import REPOSITORY
from tests.support.trees import RECIPE, read_pixels, write_recipe

OWN_FOLDERS = REPOSITORY / "examples" / "own-folders"


def two_folders(folder: Path) -> None:
    """The example's files with what they speak of: a labelled game, photographs of a street."""
    for path in OWN_FOLDERS.glob("*.toml"):
        shutil.copy(path, folder)
    render_folder(folder / "my-game", "clean", range(4), 0, 48, 96)
    (folder / "my-street").mkdir()
    for index in range(4):
        image, _ = render(0, index, "hard", 48, 96)
        cv2.imwrite(str(folder / "my-street" / f"{index}.jpg"), image[:, :, ::-1])


def test_own_folders_adapt_without_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_folders(tmp_path)
    for name in ("my-game.toml", "my-street.toml"):
        assert len((tmp_path / name).read_text().splitlines()) <= 12

    monkeypatch.chdir(tmp_path)
    recipe = "my-game-to-my-street.toml"
    checked = CliRunner().invoke(app, ["check", recipe])
    assert checked.exit_code == 0, checked.output
    small = ["--set", "stages.*.steps=2", "--set", "loading.width_px=96"]
    small += ["--set", "loading.crop_px=[32,64]", "--set", "loading.workers=0"]
    done = CliRunner().invoke(app, ["adapt", recipe, "--out", "run", *small])
    assert done.exit_code == 0, done.output
    assert "no mIoU: the target has no labelled split to score" in done.output
    predicted = CliRunner().invoke(
        app, ["predict", "run", "my-street", "--out", "predictions", "--as", "train-ids"]
    )
    assert predicted.exit_code == 0, predicted.output
    for index in range(4):
        label = read_pixels(f"predictions/{index}.png")
        assert label.shape == (48, 96)
        assert label.max() < 11


def test_the_recipe_of_own_folders_is_what_recipes_new_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of images of 1280×720."""
    for name in ("my-game.toml", "my-street.toml"):
        shutil.copy(OWN_FOLDERS / name, tmp_path)
    for name, shape in (
        ("my-game/images/1.png", (720, 1280, 3)),
        ("my-game/labels/1.png", (720, 1280)),
        ("my-street/1.png", (720, 1280, 3)),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name), np.zeros(shape, np.uint8))
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["recipes", "new", "my-game.toml", "my-street.toml"])
    assert made.exit_code == 0, made.output
    schema, _, written = Path("my-game-to-my-street.toml").read_text().partition("\n")
    assert schema.startswith("#:schema")
    assert written == (OWN_FOLDERS / "my-game-to-my-street.toml").read_text()


@pytest.mark.slow
def test_own_folders_adapt_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_folders(tmp_path)
    recipe = tmp_path / "my-game-to-my-street.toml"
    small = [
        ("width_px = 256", "width_px = 96"),
        ("[96, 176]", "[32, 64]"),
        ("batch_size = 4", "workers = 0"),
    ]
    text = re.sub(r"steps = \d+", "steps = 2", recipe.read_text())
    for old, new in small:
        assert old in text
        text = text.replace(old, new)
    recipe.write_text(text)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(OWN_FOLDERS / "adapt.py"))
    segmenter = cag_uda.load("run")
    painted = read_pixels("painted/3.png")
    label = segmenter.predict("my-street/3.jpg")
    assert (painted == np.array(segmenter.classes.palette)[label]).all()


@pytest.mark.slow
def test_anchors_help_in_ones_own_training_loop() -> None:
    script = REPOSITORY / "examples" / "own-loop" / "train.py"
    done = subprocess.run(
        [sys.executable, str(script)], check=True, capture_output=True, text=True, timeout=60
    )
    shares = [float(value) for value in re.findall(r"(?:only|stage \d): ([\d.]+)", done.stdout)]
    assert len(shares) == 4, done.stdout
    assert shares[-1] > shares[0] + 0.1, done.stdout


def test_a_method_in_one_file_is_one_of_the_methods(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(METHODS)
    example = runpy.run_path(str(REPOSITORY / "examples" / "own-method" / "agreement.py"))
    assert METHODS.pop("agreement") is example["Agreement"]
    assert before == METHODS
    method: Any = example["Agreement"](segmenter, example["AgreementConfig"]())
    image, label = torch.rand(2, 3, 32, 32), torch.randint(4, (2, 32, 32))
    batch = Batch(Labelled(image, label), Unlabelled(image, image))
    names: list[str] = []
    for losses in method.losses(batch):
        names += losses
        torch.stack(list(losses.values())).sum().backward()
    assert names == ["source/ce", "target/ce"]
    assert segmenter.training
    agreed = method.agreed(image)
    mirrored = method.agreed(image.flip(-1)).flip(-1)
    assert torch.equal(agreed, mirrored), "agreement does not know left from right"


@pytest.mark.slow
def test_a_method_in_one_file_runs_a_recipe(tmp_path: Path) -> None:
    own = '[[stages]]\nname = "own"\nsteps = 2\nmethod = { name = "agreement" }\n'
    recipe = write_recipe(tmp_path, RECIPE.partition("[[stages]]")[0] + own)
    script = REPOSITORY / "examples" / "own-method" / "agreement.py"
    run = tmp_path / "run"
    subprocess.run([sys.executable, str(script), str(recipe), str(run)], check=True, timeout=100)
    assert json.loads((run / "scores.json").read_text())["stages"][0]["method"] == "agreement"
    stages = tomllib.loads((script.parent / "clean-to-hard.toml").read_text())["stages"]
    assert [stage["method"]["name"] for stage in stages] == ["source-only", "agreement"]
