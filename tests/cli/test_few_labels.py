"""`recipes new --labelled`: a domain file that lists what a tool has labels of, and no more."""

import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from cag_uda.data.annotations import cvat
from cag_uda.data.annotations.drawing import Drawing, Shape
from cag_uda.data.domains.domain import Domain
from cag_uda.prediction.shapes import WRITABLE, LabelFile, write_shapes
from cag_uda.recipes import load_recipe
from tests.support.command_line import failure, run
from tests.support.trees import NAMES, hold_out, read_pixels, write_domain


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A day with labels, and a dusk without."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    write_domain(tmp_path, "day", seed=1)
    hold_out(write_domain(tmp_path, "dusk", light=0.4, seed=2))
    return tmp_path


def written_in(form: str, folder: Path, keys: tuple[str, ...] = ("000", "002")) -> Path:
    """The labels of two images, as a tool exports them."""
    labels = [
        LabelFile(Path(f"dusk/labels/{key}.png"), f"images/{key}", f"images/{key}.png")
        for key in keys
    ]
    write_shapes(form, folder / form, labels, NAMES, tolerance_px=0.0)
    if WRITABLE[form].is_of_split:
        (file,) = (folder / form).iterdir()
        return file
    return folder / form


@pytest.mark.parametrize("form", list(WRITABLE))
def test_labels_of_every_tool_become_labels_that_are_trained_on(folder: Path, form: str) -> None:
    exported = written_in(form, folder / "exports")
    said = run("recipes", "new", "day.toml", "dusk.toml", "--labelled", exported)
    assert "2 images" in said
    recipe = load_recipe(folder / "day-to-dusk.toml")
    domain = Domain.open(recipe.target.labelled_domain)
    assert recipe.target.labelled is not None
    items = domain.items(recipe.target.labelled.split)
    assert [item.image.stem for item in items] == ["000", "002"]
    for item in items:
        truth = read_pixels(folder / "dusk" / "labels" / item.image.name)
        assert (domain.read_label(item) == truth).mean() > 0.97
    tables = tomllib.loads((folder / "dusk-labelled.toml").read_text())
    assert "*" not in str(tables["splits"])


def test_png_masks_are_train_ids(folder: Path) -> None:
    masks = folder / "masks" / "images"
    masks.mkdir(parents=True)
    label = read_pixels("dusk/labels/001.png").copy()
    label[:8] = 255
    cv2.imwrite(str(masks / "001.png"), label)
    run("recipes", "new", "day.toml", "dusk.toml", "--labelled", "masks", "--out", "r/few.toml")
    recipe = load_recipe(folder / "r" / "few.toml")
    (item,) = Domain.open(recipe.target.labelled_domain).items("train")
    assert (Domain.open(recipe.target.labelled_domain).read_label(item) == label).all()


def test_what_is_not_drawn_on_is_ignored_and_images_without_a_shape_are_left_out(
    folder: Path,
) -> None:
    corner = Shape("car", (np.array([[0.0, 0], [16, 0], [16, 8], [0, 8]]),))
    drawings = [Drawing("001.png", (48, 64), (corner,)), Drawing("000.png", (48, 64), ())]
    cvat.write(folder / "some.xml", drawings, NAMES)
    run("recipes", "new", "day.toml", "dusk.toml", "--labelled", "some.xml")
    domain = Domain.open(folder / "dusk-labelled.toml")
    (item,) = domain.items("train")
    label = domain.read_label(item)
    assert (label[:8, :16] == 1).all()
    assert (label == 255).sum() == label.size - 16 * 8


def test_labels_that_cannot_be_used_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(labels: str | Path) -> str:
        return failure(capsys, "recipes", "new", "day.toml", "dusk.toml", "--labelled", labels)

    assert "no file or folder at nowhere" in said("nowhere")
    (folder / "empty").mkdir()
    assert "holds no labels" in said("empty")
    cvat.write(folder / "none.xml", [Drawing("000.png", (48, 64), ())], NAMES)
    assert "no shape on any image" in said("none.xml")
    shape = Shape("car", (np.array([[0.0, 0], [16, 0], [16, 8]]),))
    cvat.write(folder / "other.xml", [Drawing("elsewhere.png", (48, 64), (shape,))], NAMES)
    assert "none of these is an image of dusk/train" in said("other.xml")
    both = [Drawing(name, (48, 64), (shape,)) for name in ("000.png", "held-004.png")]
    cvat.write(folder / "both.xml", both, NAMES)
    assert "1 images that are not, or not once, in dusk/train: held-004" in said("both.xml")
