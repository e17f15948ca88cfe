"""Files from strangers: nothing in them is executed, and nothing is written where they say."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cag_uda.data.domains.domain import Domain
from cag_uda.errors import DataError, ModelError, RecipeError, UserError
from cag_uda.evaluation.evaluate import load_frames
from cag_uda.models import load
from cag_uda.recipes import load_recipe
from cag_uda.runs.anchor_files import ANCHORS, load_anchors
from cag_uda.runs.runner import adapt
from tests.support.trees import RECIPE, write_domain, write_recipe


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """The folder that a trap makes."""
    return tmp_path / "sprung"


def test_anchors_that_are_a_pickle_are_refused(tmp_path: Path, sprung: Path) -> None:
    path = tmp_path / ANCHORS
    path.write_bytes(pickle.dumps({"vectors": Trap(sprung), "counts": Trap(sprung)}))
    with pytest.raises(UserError, match="anchors"):
        load_anchors(path)
    assert not sprung.exists()


def test_a_model_that_is_a_pickle_is_refused(tmp_path: Path, sprung: Path) -> None:
    folder = adapt(write_recipe(tmp_path, first_stage()), tmp_path / "run").folder / "model"
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(sprung)))
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(ModelError, match="damaged or foreign"):
        load(folder)
    assert not sprung.exists()


def test_frames_that_hold_a_pickle_are_refused(tmp_path: Path, sprung: Path) -> None:
    array = tmp_path / "keys.npy"
    np.save(array, np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    path = tmp_path / "frames.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("keys", "confusions", "names"):
            archive.write(array, f"{name}.npy")
    with pytest.raises(DataError, match="cannot read the frames"):
        load_frames(path)
    assert not sprung.exists()


def first_stage() -> str:
    return "[[stages]]".join(RECIPE.split("[[stages]]")[:2]).replace("steps = 3", "steps = 1")


@pytest.mark.parametrize(
    "pattern", ["../secret/*", "/etc/*", "~/x/*", "a/../../b/*", "..\\\\x\\\\*"]
)
@pytest.mark.parametrize("what", ["images", "labels"])
def test_patterns_of_a_domain_file_stay_below_its_root(
    tmp_path: Path, what: str, pattern: str
) -> None:
    toml = write_domain(tmp_path, "day")
    toml.write_text(toml.read_text().replace(f'{what} = "{what}/*"', f'{what} = "{pattern}"'))
    with pytest.raises(DataError, match=r"root|backslash"):
        Domain.open(toml)


@pytest.mark.parametrize("entry", ["../dusk/images/000", "/etc/passwd", "images/../../dusk/x"])
def test_entries_of_a_file_list_stay_below_the_root(tmp_path: Path, entry: str) -> None:
    toml = write_domain(tmp_path, "day")
    write_domain(tmp_path, "dusk")
    (tmp_path / "day" / "list.txt").write_text(f"{entry}\n")
    split = '[splits.train]\nlist = "list.txt"'
    toml.write_text(toml.read_text().replace("[splits.train]", split))
    with pytest.raises(DataError, match="root"):
        Domain.open(toml).items("train")


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/b", "..", ".", ""])
def test_stages_are_no_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write_recipe(tmp_path), [f'stages.warmup.name="{name}"'])


def test_a_run_writes_into_its_folder_alone_and_its_report_escapes_names(tmp_path: Path) -> None:
    """Whatever domains, folders, images and recipes are called."""
    nasty = "<img src=x onerror=alert(1)>"
    folder = tmp_path / "work"
    folder.mkdir()
    write_recipe(folder, first_stage().replace('name = "tiny"', f'name = "../{nasty}"'))
    for domain in ("day", "dusk"):
        toml = folder / f"{domain}.toml"
        text = toml.read_text().replace(f'root = "{domain}"', f'root = "{nasty}{domain}"')
        toml.write_text(text.replace('name = "car"', f'name = "{nasty}"'))
        (folder / domain).rename(folder / f"{nasty}{domain}")
        images = folder / f"{nasty}{domain}" / "images"
        (images / "000.png").rename(images / f"{nasty}.png")
        labels = folder / f"{nasty}{domain}" / "labels"
        (labels / "000.png").rename(labels / f"{nasty}.png")
    before = set(tmp_path.rglob("*"))
    run = adapt(folder / "tiny.toml", tmp_path / "run").folder
    made = set(tmp_path.rglob("*")) - before
    assert made
    assert all(path.is_relative_to(run) for path in made)
    page = (run / "report.html").read_text()
    assert "&lt;img src=x" in page
    assert "<img src=x" not in page
