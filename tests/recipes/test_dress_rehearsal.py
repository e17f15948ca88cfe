"""Recipes for Cityscapes from `check` to `report`, as somebody with the data would, but small.

ResNet-101, MiT-B5 and the rest of each recipe as it is; a dozen images in the published layouts,
crops and widths of a few pixels, and one step a stage. test_paper_recipes.py runs all six recipes
with tiny networks.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.recipes import load_recipe
from tests.support.hub_weights import write_weights
from tests.support.published_trees import LAYOUTS

RECIPES = ("gta5-cityscapes", "synthia-cityscapes-released", "cag-plus-gta5-cityscapes")
"""One of each form, and of both sources."""
IMAGES = 4
"""Of each split: a dozen that a recipe reads, of the source and two splits of the target."""


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three data sets, as they are published."""
    root = tmp_path_factory.mktemp("data")
    for name in ("gta5", "synthia", "cityscapes"):
        LAYOUTS[name].write(root / LAYOUTS[name].folder, IMAGES)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Files such as the hub has of the backbones, with random weights."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {name: write_weights(folder, name) for name in ("resnet-101", "mit-b5")}
    yield paths
    for path in paths.values():
        path.unlink()


def small(weights: Path) -> list[str]:
    """What makes a recipe small enough for a CPU."""
    changes = [
        f"segmenter.weights={str(weights)!r}",
        "loading.width_px=128",
        "loading.scale_width_px=128",
        "loading.crop_px=[48, 64]",
        "loading.batch_size=2",
        "loading.workers=0",
        "stages.*.steps=1",
        "compute={accelerator='cpu', precision='32', channels_last=false}",
    ]
    return [word for change in changes for word in ("--set", change)]


def call(*arguments: object) -> str:
    """What a command prints; it must succeed."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{arguments}: {done.output}{done.exception}"
    return done.output


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_from_check_to_report(
    name: str, tmp_path: Path, data_root: Path, weights: dict[str, Path]
) -> None:
    run, data = tmp_path / "run", ("--data-root", data_root)
    recipe = load_recipe(name)
    backbone, stages = recipe.segmenter.backbone, [stage.name for stage in recipe.stages]
    changes = small(weights[backbone])
    num_classes = 19 if "gta5" in name else 16
    try:
        assert "nothing is wrong" in call("check", name, *data)

        call("plan", name, *data, *changes, "--json", tmp_path / "plan.json")
        plan = json.loads((tmp_path / "plan.json").read_text())
        assert [stage["name"] for stage in plan["stages"]] == stages
        assert plan["fits"]
        # Weights and momenta of the smaller network's 59 million parameters alone are 450 MiB.
        assert all(stage["peak_memory_mib"] > 700 for stage in plan["stages"])
        assert plan["total_s"] > sum(stage["training_s"] for stage in plan["stages"]) > 0

        call("adapt", name, *data, *changes, "--out", run)
        scores = json.loads((run / "scores.json").read_text())
        assert [stage["name"] for stage in scores["stages"]] == stages
        assert len(scores["classes"]) == num_classes
        config = json.loads((run / "model/config.json").read_text())
        assert config["segmenter"]["backbone"] == backbone

        protocol = "cityscapes-19" if num_classes == 19 else "synthia-16"
        evaluation = ("--split", "val", "--protocol", protocol, "--json", tmp_path / "scores.json")
        printed = call("evaluate", run, "--domain", "cityscapes", *evaluation, *data)
        assert "(published)" in printed
        evaluated = json.loads((tmp_path / "scores.json").read_text())
        assert evaluated["frames"] == IMAGES
        assert evaluated["miou"] == pytest.approx(scores["stages"][-1]["miou"])
        assert len(evaluated["iou"]) == num_classes

        images = data_root / "cityscapes/leftImg8bit/test"
        call("predict", run, images, "--as", "label-ids", "--out", tmp_path / "submission")
        assert len(list((tmp_path / "submission").rglob("*.png"))) == IMAGES
        submission = ("--submission", tmp_path / "submission")
        assert "nothing is wrong" in call("check", "cityscapes", *submission, *data)

        (run / "report.html").unlink()
        call("report", run)
        page = (run / "report.html").read_text()
        assert all(stage in page for stage in stages)
    finally:
        # Networks and checkpoints of four stages are some GB.
        shutil.rmtree(tmp_path, ignore_errors=True)
