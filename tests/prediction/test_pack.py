"""A pack: it holds a network and figures, nothing of an image, and nothing that runs."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cag_uda.adaptation.adapted_anchors import AdaptedAnchors
from cag_uda.errors import ModelError, UserError
from cag_uda.models.pack import read_pack, read_pack_header, save_pack
from cag_uda.models.segmenter import Segmenter
from cag_uda.prediction.packing import pack_run
from cag_uda.runs.runner import adapt
from tests.support.command_line import failure, run
from tests.support.trees import NAMES, RECIPE, read_pixels, write_recipe

FIRST = "[[stages]]".join(RECIPE.split("[[stages]]")[:2]).replace("steps = 3", "steps = 1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with domains, a recipe of one stage, and its run."""
    folder = tmp_path_factory.mktemp("world")
    adapt(write_recipe(folder, FIRST), folder / "run")
    return folder


@pytest.fixture(scope="module")
def file(world: Path) -> Path:
    """A pack of the run."""
    path = world / "run" / "pack.safetensors"
    assert "no image is in it" in run("pack", world / "run")
    return path


def test_a_pack_gives_network_and_figures_back(world: Path, file: Path) -> None:
    pack, made = read_pack(file), pack_run(world / "run")
    assert made.images == 6
    assert pack.source == made.pack.source == "day/train"
    assert pack.classes.names == NAMES
    network = Segmenter.from_pretrained(world / "run" / "model")
    for name, value in pack.segmenter().state_dict().items():
        assert value.equal(network.state_dict()[name]), name
    for got, wanted in zip(pack.figures, made.pack.figures, strict=True):
        assert got.equal(wanted)
    assert read_pack_header(file).classes == pack.classes

    anchors = AdaptedAnchors(*pack.figures.vectors.shape)
    anchors.begin(pack.figures)
    assert anchors.source_share.sum() == pytest.approx(1)
    assert anchors.figures(pack.figures.counts).covariance.equal(pack.figures.covariance)


def test_a_pack_holds_no_image(world: Path, file: Path) -> None:
    """Every tensor is a weight or a figure, and no row of any image or label is among the bytes."""
    network = Segmenter.from_pretrained(world / "run" / "model")
    classes, channels = network.num_classes, sum(network.level_channels)
    expected = {f"network.{name}": tuple(t.shape) for name, t in network.state_dict().items()}
    expected |= {
        "source.vectors": (classes, channels),
        "source.counts": (classes,),
        "source.covariance": (channels, channels),
        "source.temperature": (),
    }
    tensors = load_file(file)
    assert {name: tuple(each.shape) for name, each in tensors.items()} == expected
    assert torch.uint8 not in {each.dtype for each in tensors.values()}
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    assert set(metadata) == {"format", "segmenter", "classes", "source", "sha256"}

    content = file.read_bytes()
    held = sum(each.numel() * each.element_size() for each in tensors.values())
    assert len(content) < held + 64 * 1024, "the header is names and shapes"
    searched = 0
    for path in sorted((world / "day").rglob("*.png")) + sorted((world / "dusk").rglob("*.png")):
        assert path.read_bytes()[16:48] not in content
        assert str(path).encode() not in content
        rows = read_pixels(path)
        for row in rows if rows.ndim == 3 else []:
            for stored in (row, row[..., ::-1], row / np.float32(255)):
                searched += 1
                assert np.ascontiguousarray(stored).tobytes()[:48] not in content
    assert searched > 1000
    assert str(world).encode() not in content, "nor does it tell of the machine"


def test_a_pack_is_as_large_with_more_images(world: Path, file: Path) -> None:
    """What it holds does not grow with the source, so that no image can hide in it."""
    for path in sorted((world / "day").rglob("00[0-5].png")):
        for copy in "abc":
            path.with_stem(f"{path.stem}{copy}").write_bytes(path.read_bytes())
    try:
        larger = pack_run(world / "run")
    finally:
        for path in (world / "day").rglob("*[abc].png"):
            path.unlink()
    assert larger.images == 24
    save_pack(world / "larger.safetensors", larger.pack)
    assert (world / "larger.safetensors").stat().st_size == file.stat().st_size
    torch.testing.assert_close(larger.pack.figures.vectors, read_pack(file).figures.vectors)


def test_damage_is_seen(world: Path, file: Path) -> None:
    whole, path = file.read_bytes(), world / "damaged.safetensors"
    for place in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ModelError, match="its checksum differs"):
            read_pack(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="copy it again"):
        read_pack(path)


def test_a_class_name_that_was_edited_is_seen(world: Path, file: Path) -> None:
    path = world / "edited.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    metadata["classes"] = metadata["classes"].replace("tree", "free")
    save_file(load_file(file), path, metadata=metadata)
    with pytest.raises(ModelError, match="its checksum differs"):
        read_pack(path)


def test_what_is_no_pack_is_refused(world: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled.safetensors"
    pickled.write_bytes(pickle.dumps({"source.vectors": 1}))
    with pytest.raises(ModelError, match="cannot read the pack"):
        read_pack(pickled)
    weights = world / "run" / "model" / "model.safetensors"
    with pytest.raises(ModelError, match=r"weights of a model folder, .* give the folder"):
        read_pack(weights)
    shutil.copy(weights, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="is no pack of this version"):
        read_pack(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="no pack at"):
        read_pack(tmp_path / "nowhere.safetensors")


def test_a_network_that_is_not_finite_is_not_packed(file: Path, tmp_path: Path) -> None:
    pack = read_pack(file)
    spoilt = pack.figures._replace(covariance=torch.full_like(pack.figures.covariance, torch.nan))
    with pytest.raises(ModelError, match=r"NaN or infinite numbers, in source\.covariance"):
        save_pack(tmp_path / "p.safetensors", replace(pack, figures=spoilt))


def test_mistakes_are_told(
    world: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert file.is_file()
    assert "exists already" in failure(capsys, "pack", world / "run")
    out = tmp_path / "p.safetensors"
    with pytest.raises(UserError, match="has no stage 'warmup'; it has source-only"):
        pack_run(world / "run", stage="warmup")
    assert "is no run folder" in failure(capsys, "pack", tmp_path, "--out", out)
    run("pack", world / "run", "--stage", "source-only", "--out", out)
    assert read_pack(out).source == "day/train"


def test_a_run_that_lost_its_network_says_which_and_makes_it_again(
    world: Path, tmp_path: Path
) -> None:
    lost = tmp_path / "lost"
    shutil.copytree(world / "run", lost)
    (lost / "stages/0-source-only/model/model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"it has no model\.safetensors"):
        pack_run(lost, stage="source-only")
    shutil.rmtree(lost / "stages/0-source-only")
    told = run("adapt", lost, "--resume")
    assert "stage 'source-only' is lost: the stage is made again" in " ".join(told.split())
    weights = "stages/0-source-only/model/model.safetensors"
    assert (lost / weights).read_bytes() == (world / "run" / weights).read_bytes()


def test_a_run_folder_is_no_recipe(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("check", "plan", "adapt"):
        text = failure(capsys, command, world / "run")
        assert "is a run folder: give its recipe" in text
        assert "--resume" in text
