"""What `cag-uda suggest` writes: list, page and proposals; and what it never reads."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.data.annotations import cvat
from cag_uda.errors import UserError
from cag_uda.models.segmenter import Segmenter
from cag_uda.prediction.suggest import Asked, suggest
from cag_uda.recipes import dump_recipe, load_recipe
from cag_uda.report import write_suggestions
from tests.support.few_labels import FEW, write_few_labels
from tests.support.trees import read_pixels, write_recipe

HOSTILE = "<script>window.hacked=1</script>'\"><img src=x onerror=alert(1)>"


def run_of(recipe: Path, segmenter: Segmenter) -> Path:
    """A run folder as far as `suggest` reads it: a recipe and a network."""
    run = recipe.parent / "run"
    torch.nn.init.normal_(segmenter.get_parameter("classifier.weight"), std=1.0)
    segmenter.save_pretrained(run / "model")
    (run / "recipe.toml").write_text(dump_recipe(load_recipe(recipe)))
    return run


def test_suggest_through_the_command_line(tmp_path: Path, segmenter: Segmenter) -> None:
    run = run_of(write_recipe(tmp_path), segmenter)
    criteria = "anchors,uncertainty,disagreement,diversity"
    asked = ["suggest", str(run), "--images", "3", "--as", "cvat,labelme", "--criteria", criteria]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    out = run / "suggestions"
    record = json.loads((out / "suggestions.json").read_text())
    assert record["candidates"] == 6
    keys = [each["key"] for each in record["images"]]
    assert len(set(keys)) == 3
    for each in record["images"]:
        assert set(each["ranks"]) == {"anchors", "uncertainty", "disagreement"}
        assert all(0 <= rank <= 1 for rank in each["ranks"].values())
        assert each["classes"]
        assert (out / "images" / f"{each['key']}.png").read_bytes() == Path(
            each["image"]
        ).read_bytes()
        label = read_pixels(out / "labels" / f"{each['key']}.png")
        assert (label == segmenter.predict(each["image"])).all()
        assert (out / "labelme" / f"{each['key']}.json").is_file()
        assert all((out / place).is_file() for place in each["pictures"].values())
    drawings = cvat.read(out / "cvat" / "annotations.xml")
    assert [drawing.image for drawing in drawings] == [f"{key}.png" for key in keys]

    page = (out / "suggestions.html").read_text()
    assert all(key in page for key in keys)
    assert page.count("data:image/jpeg") == 9
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    again = CliRunner().invoke(app, asked)
    assert isinstance(again.exception, UserError)
    assert "--overwrite" in str(again.exception)


def test_labels_beside_the_target_are_not_read(tmp_path: Path, segmenter: Segmenter) -> None:
    run = run_of(write_recipe(tmp_path), segmenter)
    first = suggest(str(run), tmp_path / "first")
    for path in (tmp_path / "dusk" / "labels").iterdir():
        path.write_bytes(b"not even an image")
    second = suggest(str(run), tmp_path / "second")
    assert first.images == second.images


def test_images_that_have_labels_are_not_suggested_again(
    tmp_path: Path, segmenter: Segmenter
) -> None:
    run = run_of(write_few_labels(tmp_path), segmenter)
    made = suggest(str(run), tmp_path / "out", Asked(images=9, criteria=("diversity",)))
    assert made.labelled == len(FEW)
    assert {each.key.rpartition("/")[2] for each in made.images} == {"001", "003"}
    assert all(each.apart for each in made.images)


def test_random_is_a_criterion(tmp_path: Path, segmenter: Segmenter) -> None:
    run = run_of(write_recipe(tmp_path), segmenter)
    keys = [
        [
            each.key
            for each in suggest(
                str(run), tmp_path / str(n), Asked(3, ("random",), (), seed=seed)
            ).images
        ]
        for n, seed in enumerate((0, 0, 5))
    ]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_names_become_no_markup(tmp_path: Path, segmenter: Segmenter) -> None:
    run = run_of(write_recipe(tmp_path), segmenter)
    out = tmp_path / "out"
    made = suggest(str(run), out, Asked(images=2))
    hostile = [each.with_changes(key=HOSTILE, classes=[HOSTILE]) for each in made.images]
    record = made.with_changes(images=hostile, recipe=HOSTILE, domain=HOSTILE, left_out=[HOSTILE])
    (out / "suggestions.json").write_text(json.dumps(record.plain()))
    page = write_suggestions(out).read_text()
    assert "<script>window" not in page
    assert "<img src=x" not in page


def test_what_cannot_be_suggested_is_said(tmp_path: Path, segmenter: Segmenter) -> None:
    with pytest.raises(UserError, match=r"--criteria is of anchors, .*, got entropy"):
        Asked(criteria=("entropy",))
    with pytest.raises(UserError, match="no run folder"):
        suggest(str(tmp_path), tmp_path / "out")
    recipe = write_recipe(tmp_path)
    run = run_of(recipe, segmenter)
    shutil.rmtree(tmp_path / "day")
    with pytest.raises(UserError, match="day"):
        suggest(str(run), tmp_path / "out")
