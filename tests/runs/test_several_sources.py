"""Several sources of unequal classes: one that lacks a class is read by the label space of all."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cag_uda.errors import UserError
from cag_uda.models.pack import read_pack
from cag_uda.recipes import load_recipe
from cag_uda.runs.anchor_files import load_anchors
from cag_uda.runs.runner import adapt
from cag_uda.runs.scenario import Scenario
from cag_uda.types import IGNORE
from tests.support.command_line import run
from tests.support.trees import RECIPE, read_pixels, write_domain, write_recipe

HEAD, FIRST, _, _, CAG = RECIPE.split("[[stages]]")
OTHER = """[[source]]
domain = "{name}.toml"
"""
TREE = 2
"""Train id of the class that the second source lacks."""
LACKS_TREES = {0: 2, 1: 0, 3: 1, TREE: 255}
"""What the second source's labels hold for the ids of the first: sky, road, car are in another
order there."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Day, dusk, and evening twice: by classes of its own, and by those of the day."""
    folder = tmp_path_factory.mktemp("world")
    write_recipe(folder)
    write_domain(folder, "evening", light=0.7, seed=3)
    for path in sorted((folder / "evening" / "labels").iterdir()):
        label = read_pixels(path)
        cv2.imwrite(str(path), np.where(label == TREE, IGNORE, label).astype(np.uint8))
    shutil.copytree(folder / "evening", folder / "own")
    for path in sorted((folder / "own" / "labels").iterdir()):
        label, mine = read_pixels(path), np.full((48, 64), IGNORE, np.uint8)
        for theirs, own in LACKS_TREES.items():
            mine[label == theirs] = own
        cv2.imwrite(str(path), mine)
    head, *classes = (folder / "evening.toml").read_text().split("[[classes]]")
    road, car, _, sky = classes
    text = "[[classes]]".join([head, car, sky, road])
    (folder / "own.toml").write_text(text.replace('"evening"', '"own"'))
    return folder


def recipe_of(world: Path, *others: str) -> Path:
    """A recipe of the day and further sources, with a stage by anchors; the smallest one first."""
    day = '[source]\ndomain = "day.toml"\n'
    sources = "".join(OTHER.format(name=each) for each in (*others, "day"))
    path = world / f"from-{'-'.join(others)}.toml"
    text = HEAD.replace(day, sources) + "[[stages]]" + FIRST + "[[stages]]" + CAG
    path.write_text(text.replace("steps = 3", "steps = 2"))
    return path


def test_a_source_is_read_by_the_classes_of_the_widest(world: Path) -> None:
    scenario = Scenario.open(load_recipe(recipe_of(world, "own")))
    assert scenario.label_space.names == ("road", "car", "tree", "sky")
    own, day = scenario.sources
    assert len(day) == len(own) == 6
    for index in range(len(own)):
        expected = read_pixels(world / "evening" / "labels" / f"{index:03}.png")
        assert np.array_equal(own.read(index)[1], expected)
        assert not (own.read(index)[1] == TREE).any()
    assert (day.read(0)[1] == TREE).any()


def test_the_network_is_that_of_sources_with_one_label_space(world: Path) -> None:
    """To the last bit, warm-up, anchors and pseudo-labels included."""
    for name in ("own", "evening"):
        adapt(recipe_of(world, name), world / f"run-{name}")
    one, other = (
        world / f"run-{name}" / "model" / "model.safetensors" for name in ("own", "evening")
    )
    assert one.read_bytes() == other.read_bytes()
    anchors = load_anchors(world / "run-own" / "stages" / "1-stage-1" / "anchors.safetensors")
    of_trees = sum(
        int((read_pixels(path)[2::4, 2::4] == TREE).sum())
        for path in (world / "day" / "labels").iterdir()
    )
    assert int(anchors.counts[TREE]) == of_trees, "the anchor of a class is of those that show it"
    assert (anchors.counts > 0).all()

    file = world / "both.safetensors"
    run("pack", world / "run-own", "--stage", "source-only", "--out", file)
    assert read_pack(file).source == "own/train + day/train"
    assert (read_pack(file).figures.counts > 0).all()


def test_a_class_that_only_one_of_them_has_cannot_be_read_by_the_other(world: Path) -> None:
    text = (world / "own.toml").read_text()
    (world / "odd.toml").write_text(text.replace('name = "sky"', 'name = "cloud"'))
    with pytest.raises(UserError, match="has the classes"):
        Scenario.open(load_recipe(recipe_of(world, "odd")))
