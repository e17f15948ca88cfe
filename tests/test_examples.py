"""What stands in `examples/` works as it is written there."""

import shutil
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from cag_uda.cli import app
from cag_uda.data.rendering import render, render_folder

from .conftest import REPOSITORY

OWN_FOLDERS = REPOSITORY / "examples" / "own-folders"


def test_own_folders_adapt_without_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in OWN_FOLDERS.glob("*.toml"):
        shutil.copy(path, tmp_path)
    for name in ("my-game.toml", "my-street.toml"):
        assert len((tmp_path / name).read_text().splitlines()) <= 12
    render_folder(tmp_path / "my-game", "clean", range(4), 0, 48, 96)
    (tmp_path / "my-street").mkdir()
    for index in range(4):
        image, _ = render(0, index, "hard", 48, 96)
        cv2.imwrite(str(tmp_path / "my-street" / f"{index}.jpg"), image[:, :, ::-1])

    monkeypatch.chdir(tmp_path)
    recipe = "my-game-to-my-street.toml"
    checked = CliRunner().invoke(app, ["check", recipe])
    assert checked.exit_code == 0, checked.output
    small = ["--set", "segmenter.backbone=resnet-tiny", "--set", "stages.*.steps=2"]
    small += ["--set", "loading.crop_px=[32,64]", "--set", "loading.workers=0"]
    done = CliRunner().invoke(app, ["adapt", recipe, "--out", "run", *small])
    assert done.exit_code == 0, done.output
    predicted = CliRunner().invoke(
        app, ["predict", "run", "my-street", "--out", "predictions", "--as", "train-ids"]
    )
    assert predicted.exit_code == 0, predicted.output
    for index in range(4):
        label = cv2.imread(f"predictions/{index}.png", cv2.IMREAD_UNCHANGED)
        assert label.shape == (48, 96)
        assert label.max() < 11
