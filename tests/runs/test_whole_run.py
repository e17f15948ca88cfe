"""A run folder is whole: it moves to another machine, and knows its data and its owner."""

import os
import shutil
from pathlib import Path

import pytest
import torch

import cag_uda
from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.adaptation.tensors import downsample
from cag_uda.errors import InUseError, RunError
from cag_uda.files import LOCK
from cag_uda.recipes import load_recipe
from cag_uda.runs.anchor_files import ANCHORS, load_anchors
from cag_uda.runs.runner import Run, adapt
from cag_uda.runs.scenario import Scenario
from tests.support.command_line import run as command
from tests.support.run_folders import contents
from tests.support.trees import write_recipe

pytestmark = pytest.mark.timeout(400)
CHANGES = ["stages.*.steps=2", "stages.adabn.steps=0"]


class Notes:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    def update(self, label: str, done: int, total: int, values: object = None) -> None:
        pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("whole")
    return adapt(load_recipe(write_recipe(folder), CHANGES), folder / "run", progress=False)


@pytest.fixture
def elsewhere(made: Run, tmp_path: Path) -> tuple[Path, Path]:
    """The run on another machine: its folder, and the data below another one, nothing else."""
    shutil.copytree(made.folder, tmp_path / "moved")
    for name in ("day", "dusk"):
        source = made.folder.parent / name
        shutil.copytree(source, tmp_path / "data" / name, copy_function=shutil.copy)
    for name in ("moved/domains/day.toml", "moved/domains/dusk.toml"):
        path = tmp_path / name
        text = path.read_text().replace(str(made.folder.parent), "/no/such/machine")
        path.write_text(text)
    return tmp_path / "moved", tmp_path / "data"


def test_a_stage_of_cag_keeps_the_means_of_the_sources_features(made: Run) -> None:
    stages = made.folder / "stages"
    start = cag_uda.load(stages / "2-warmup" / "model")
    (images,) = Scenario.open(load_recipe(made.folder / "recipe.toml")).sources
    expected = CategoryAnchors(4, start.feature_channels)
    for index in range(len(images)):
        image, label = images.read(index)
        picture = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            features = start(picture, "source").features
        size = (features.shape[2], features.shape[3])
        expected.update(features, downsample(torch.from_numpy(label)[None].long(), size))
    kept = load_anchors(stages / "3-stage-1" / ANCHORS)
    torch.testing.assert_close(kept.vectors, expected.vectors, rtol=1e-4, atol=1e-5)


def test_nothing_in_the_scores_and_the_report_names_a_folder_of_this_machine(made: Run) -> None:
    assert made.scores.source == "day/train"
    assert made.scores.target == "dusk/test"
    for name in ("scores.json", "recipe.toml", "report.html", "model/README.md"):
        text = (made.folder / name).read_text()
        assert str(made.folder.parent) not in text.split("<h3>Environment")[0] or name == (
            "report.html"
        ), name
    assert 'domain = "domains/day.toml"' in (made.folder / "recipe.toml").read_text()


def test_a_moved_run_is_repeated_given_the_root_of_its_data(
    made: Run, elsewhere: tuple[Path, Path], tmp_path: Path
) -> None:
    moved, data = elsewhere
    again = adapt(moved / "recipe.toml", tmp_path / "again", data_root=data, progress=False)
    first, second = (
        {name: held for name, held in contents(each).items() if not name.startswith("domains/")}
        for each in (made.folder, again.folder)
    )
    assert first == second, "all but where the images lie"


def test_a_moved_run_is_resumed_by_its_folder_alone(elsewhere: tuple[Path, Path]) -> None:
    moved, data = elsewhere
    for name in ("scores.json", "report.html"):
        (moved / name).unlink()
    shutil.rmtree(moved / "model")
    told = command("adapt", moved, "--resume", "--data-root", data)
    assert "the data have changed" in told, "copies have other times"
    assert (moved / "model" / "model.safetensors").is_file()
    assert (moved / "report.html").is_file()


def test_a_resumed_run_says_that_its_data_changed(elsewhere: tuple[Path, Path]) -> None:
    moved, data = elsewhere
    shutil.copy(data / "dusk/images/000.png", data / "dusk/images/100.png")
    shutil.copy(data / "dusk/labels/000.png", data / "dusk/labels/100.png")
    os.utime(data / "day/images/001.png", (1, 1))
    notes = Notes()
    adapt(moved / "recipe.toml", moved, resume=True, data_root=data, progress=notes)
    told = next(text for text in notes.told if "the data have changed since the run began" in text)
    assert "dusk/train has 7 files, and had 6" in told
    assert "dusk/test has 14 files, and had 12" in told
    assert "day/train has files of other times" in told
    assert "The data changed while the run was stopped: " in (moved / "report.html").read_text()


def test_an_unchanged_resume_says_nothing_of_data(made: Run, tmp_path: Path) -> None:
    shutil.copytree(made.folder, tmp_path / "run")
    notes = Notes()
    recipe = load_recipe(made.folder.parent / "tiny.toml", CHANGES)
    adapt(recipe, tmp_path / "run", resume=True, progress=notes)
    assert not any("data have changed" in text for text in notes.told)


def test_a_lost_stage_is_made_again_in_its_place(made: Run, tmp_path: Path) -> None:
    shutil.copytree(made.folder, tmp_path / "run")
    first = made.scores.stages[0]
    shutil.rmtree(tmp_path / "run" / "stages" / first.folder)
    notes = Notes()
    recipe = load_recipe(made.folder.parent / "tiny.toml", CHANGES)
    again = adapt(recipe, tmp_path / "run", resume=True, progress=notes)
    assert any(f"stage {first.name!r} is lost" in text for text in notes.told)
    assert [(each.name, each.miou) for each in again.scores.stages] == [
        (each.name, each.miou) for each in made.scores.stages
    ]


def test_a_domain_file_that_was_changed_is_another_recipe(made: Run, tmp_path: Path) -> None:
    shutil.copytree(made.folder, tmp_path / "run")
    recipe = load_recipe(made.folder.parent / "tiny.toml", CHANGES)
    adapt(recipe, tmp_path / "run", resume=True, progress=False)
    text = (made.folder.parent / "dusk.toml").read_text()
    try:
        (made.folder.parent / "dusk.toml").write_text(text.replace('name = "sky"', 'name = "air"'))
        with pytest.raises(RunError, match="begun with another recipe"):
            adapt(recipe, tmp_path / "run", resume=True, progress=False)
    finally:
        (made.folder.parent / "dusk.toml").write_text(text)


def test_a_run_that_is_going_on_is_refused(made: Run, tmp_path: Path) -> None:
    from cag_uda.files import owned

    shutil.copytree(made.folder, tmp_path / "run")
    going_on = owned(tmp_path / "run" / LOCK, "this run is going on")
    with going_on, pytest.raises(InUseError, match="this run is going on"):
        adapt(tmp_path / "run/recipe.toml", tmp_path / "run", resume=True, progress=False)
    adapt(tmp_path / "run/recipe.toml", tmp_path / "run", resume=True, progress=False)
    assert not (tmp_path / "run" / LOCK).exists()
