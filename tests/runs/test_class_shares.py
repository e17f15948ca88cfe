"""Class shares of a run's two domains: recorded once at its end, without a label of the target."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import cag_uda
from cag_uda.errors import RunError
from cag_uda.files import is_sound
from cag_uda.models.inference import prepare
from cag_uda.recipes import load_recipe
from cag_uda.runs.records.run import CLASS_SHARES, read_class_shares
from cag_uda.runs.runner import adapt
from tests.support.trees import NAMES, RECIPE, read_pixels, write_recipe

SHORT = "[[stages]]".join(RECIPE.split("[[stages]]")[:3])


def adapted(folder: Path) -> Path:
    return adapt(load_recipe(write_recipe(folder, SHORT)), folder / "run", progress=False).folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted(tmp_path_factory.mktemp("shares"))


def test_the_record_is_what_labels_of_the_source_and_the_network_say(made: Path) -> None:
    found = read_class_shares(made)
    assert found is not None
    assert is_sound(made / CLASS_SHARES)
    assert (found.network, found.classes) == ("stages/1-adabn/model", list(NAMES))
    labels = [read_pixels(path) for path in sorted((made.parent / "day/labels").iterdir())]
    source = np.bincount(np.stack(labels).ravel(), minlength=4) / np.stack(labels).size
    assert found.source == pytest.approx(source.tolist())
    network = cag_uda.load(made / "model").eval()
    cells = []
    for path in sorted((made.parent / "dusk/images").iterdir()):
        pixels = prepare(read_pixels(path), network.config.input_width_px).float() / 255
        with torch.no_grad():
            cells.append(network(pixels, "target").logits[0].flatten(1).argmax(dim=0).numpy())
    target = np.bincount(np.concatenate(cells), minlength=4) / sum(map(len, cells))
    assert found.target == pytest.approx(target.tolist())
    assert found.total_variation == pytest.approx(np.abs(source - target).sum() / 2)
    assert (found.target_images, found.target_cells) == (6, sum(map(len, cells)))
    assert "Class shares" in (made / "report.html").read_text()


def test_a_resumed_run_estimates_only_what_is_missing_or_damaged(made: Path) -> None:
    path = made / CLASS_SHARES
    before, changed = path.read_bytes(), path.stat().st_mtime_ns
    adapt(made / "recipe.toml", made, resume=True, progress=False)
    assert path.stat().st_mtime_ns == changed
    for content in (None, before.replace(b"target", b"tarqet"), b"{}"):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
            with pytest.raises(RunError, match="--resume then estimates them anew"):
                read_class_shares(made)
        adapt(made / "recipe.toml", made, resume=True, progress=False)
        assert path.read_bytes() == before


def test_labels_of_the_target_have_no_part_in_it(made: Path, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, SHORT))
    for path in (tmp_path / "dusk" / "labels").iterdir():
        cv2.imwrite(str(path), np.zeros_like(read_pixels(path)))
    other = adapt(recipe, tmp_path / "run", progress=False).folder
    assert json.loads((other / "scores.json").read_text()) != json.loads(
        (made / "scores.json").read_text()
    )
    assert (other / CLASS_SHARES).read_bytes() == (made / CLASS_SHARES).read_bytes()
