"""Files from strangers: nothing in them is executed, and nothing is written where they say."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cag_uda.data.domains.domain import Domain
from cag_uda.errors import DataError, ModelError, RecipeError, UserError
from cag_uda.evaluation.evaluate import load_frames
from cag_uda.models import load
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import load_recipe
from cag_uda.runs.anchor_files import ANCHORS, load_anchors
from cag_uda.runs.runner import adapt
from tests.support.command_line import failure
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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([[[[]]]], "a list"),
        ({"model": [1, 2]}, "model"),
        ({"\x1b[31m" * 10**5: torch.zeros(1)}, "is no checkpoint"),
        ({"x" * 10**6: 1}, "holds no network"),
        ({"backbone.conv1.weight": torch.zeros(3, device="meta")}, "holds no network"),
        ({}, "holds no network"),
        ("just text", "a str"),
    ],
    ids=["lists", "list", "escapes", "long", "meta", "empty", "text"],
)
def test_odd_checkpoints_are_refused_in_few_words(
    content: Any, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "odd.pth")
    message = failure(capsys, "import", tmp_path / "odd.pth", "--out", tmp_path / "model")
    assert says in message
    assert len(message) < 4000
    assert "\x1b" not in message


def test_nested_beyond_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep: Any = torch.zeros(1)
    for _ in range(200):
        deep = [deep]
    torch.save({"model": {"a": torch.zeros(1)}, "optimizer": deep}, tmp_path / "deep.pth")
    message = failure(capsys, "import", tmp_path / "deep.pth", "--out", tmp_path / "model")
    assert "is no checkpoint" in message


def test_what_is_no_file_is_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    (tmp_path / "folder.pth").mkdir()
    for name in ("pipe.pth", "loop.pth", "folder.pth"):
        message = failure(capsys, "import", tmp_path / name, "--out", tmp_path / "model")
        assert name in message


@pytest.mark.parametrize(
    "change",
    [
        {"classes": {"names": [], "palette": []}},
        {"classes": {"names": ["a", "a"], "palette": [[0, 0, 0], [1, 1, 1]]}},
        {"classes": {"names": ["a", "b"], "palette": [[0, 0, 256], [1, 1, -1]]}},
        {"classes": {"names": ["a"], "palette": [[0, 0, 0]], "label_ids": [999]}},
        {"segmenter": {"input_width_px": 10**9}},
        {"segmenter": {"mean": [float("nan"), 0, 0]}},
        {"segmenter": {"std": [1, 1, float("inf")]}},
        {"segmenter": {"multi_grid": [10**9]}},
        {"segmenter": {"detail": {"crop_px": [10**9, 64]}}},
        {"segmenter": {"lora_rank": 10**9}},
    ],
    ids=str,
)
def test_values_of_a_models_configuration_that_are_out_of_range(
    change: dict[str, dict[str, Any]], segmenter: Segmenter, tmp_path: Path
) -> None:
    segmenter.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    for table, values in change.items():
        config[table].update(values)
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError) as refused:
        Segmenter.from_pretrained(tmp_path / "model")
    assert str(refused.value)
