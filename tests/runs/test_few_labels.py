"""Runs that train on a few labels of the target: those that the recipe names, and no other."""

import json
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from cag_uda.data.domains.label_reader import LabelReader
from cag_uda.errors import UserError
from cag_uda.recipes import changed, dump_recipe, load_recipe
from cag_uda.runs.planning import plan
from cag_uda.runs.runner import adapt
from tests.support.few_labels import FEW, write_few_labels
from tests.support.trees import read_pixels

SHORT = ["stages.*.steps=1", "stages.adabn.steps=0"]


def network_of(folder: Path, recipe: Path) -> dict[str, np.ndarray]:
    """What comes of a recipe whose target is not scored."""
    dusk = folder / "dusk.toml"
    before, _, rest = dusk.read_text().partition("[splits.test]")
    dusk.write_text(before + "[labels]" + rest.partition("[labels]")[2])
    run = adapt(load_recipe(recipe, SHORT), folder / "run")
    return load_file(run.model / "model.safetensors")


def are_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(value, other[name]) for name, value in one.items())


def test_only_the_labels_that_the_recipe_names_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    whole = LabelReader.read

    def noted(self: LabelReader, path: Path) -> np.ndarray:
        read.add(f"{path.parent.parent.name}/{path.stem}")
        return whole(self, path)

    monkeypatch.setattr(LabelReader, "read", noted)
    networks = {}
    for case in ("right", "others wrong", "named wrong"):
        recipe = write_few_labels(tmp_path / case)
        for path in (tmp_path / case / "dusk" / "labels").iterdir():
            if path.stem not in FEW and case == "others wrong":
                path.write_bytes(b"not even an image")
            if path.stem in FEW and case == "named wrong":
                cv2.imwrite(str(path), (read_pixels(path) + 1) % 4)
        networks[case] = network_of(tmp_path / case, recipe)
    assert {name for name in read if name.startswith("dusk")} == {f"dusk/{name}" for name in FEW}
    assert are_equal(networks["right"], networks["others wrong"])
    assert not are_equal(networks["right"], networks["named wrong"])


def test_a_run_tells_that_it_was_trained_on_labels_of_the_target(tmp_path: Path) -> None:
    recipe = write_few_labels(tmp_path)
    run = adapt(load_recipe(recipe, SHORT), tmp_path / "run")
    assert json.loads((run.folder / "data.json").read_text())["splits"]["dusk/few, labelled"][
        "files"
    ] == 2 * len(FEW)
    resolved = tomllib.loads((run.folder / "recipe.toml").read_text())
    assert resolved["target"]["labelled"] == {"split": "few"}
    card = (run.model / "README.md").read_text()
    assert "**dusk/few**, were trained on too" in card
    assert "Labels of a few images of the target" in (run.folder / "report.html").read_text()
    lines = (run.folder / "stages/4-cag-plus/metrics.jsonl").read_text().splitlines()
    assert "labelled/ce" in json.loads(lines[-1])["losses"]
    lines = (run.folder / "stages/0-source-only/metrics.jsonl").read_text().splitlines()
    assert "labelled/ce" not in json.loads(lines[-1])["losses"]


def test_images_that_are_scored_are_not_trained_on(tmp_path: Path) -> None:
    recipe = write_few_labels(tmp_path)
    with pytest.raises(UserError, match=r"2 images of target.labelled .* 'test' too"):
        adapt(load_recipe(recipe, ["target.labelled=test"]), tmp_path / "run")


def test_labels_may_be_told_by_a_domain_file_of_their_own(tmp_path: Path) -> None:
    path = write_few_labels(tmp_path)
    few = tmp_path / "few.toml"
    few.write_text((tmp_path / "dusk.toml").read_text())
    recipe = load_recipe(path, ['target.labelled={ domain = "few.toml", split = "few" }'])
    assert recipe.target.labelled_domain == str(few)
    assert changed(recipe, ["seed=0"]) == recipe
    run = adapt(changed(recipe, SHORT), tmp_path / "run")
    assert (run.folder / "domains" / "few.toml").is_file()
    assert 'domain = "domains/few.toml"' in (run.folder / "recipe.toml").read_text()


def test_a_share_that_devices_cannot_part_is_refused(tmp_path: Path) -> None:
    path = write_few_labels(tmp_path)
    with pytest.raises(UserError, match=r"3 labelled images of the target"):
        load_recipe(
            path,
            ["loading.batch_size=8", "compute.accumulation=2", "loading.labelled_share=0.3"],
        )
    whole = load_recipe(path, ["loading.batch_size=8", "loading.labelled_share=0.3"])
    assert whole.loading.labelled_images == 3
    assert "labelled" in dump_recipe(whole)


@pytest.mark.slow
def test_a_plan_counts_the_labelled_images_too(tmp_path: Path) -> None:
    recipe = load_recipe(write_few_labels(tmp_path), ["stages.*.steps=100", "stages.adabn.steps=0"])
    forecast = plan(recipe)
    assert forecast.total_s is not None
    assert [stage.name for stage in forecast.stages][-1] == "cag-plus"
