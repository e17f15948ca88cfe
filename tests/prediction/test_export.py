"""A network as one file: the same labels as the network's own, at any size, without the package."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.errors import ModelError, UserError
from cag_uda.models.backbones import BACKBONES
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.inference import prepare
from cag_uda.models.segmenter import Segmenter
from cag_uda.prediction.export import export
from cag_uda.prediction.export.network import LabelNetwork, resize_to_width
from cag_uda.scenes import render
from tests.support.places import REPOSITORY
from tests.support.trees import read_pixels

onnxruntime = pytest.importorskip("onnxruntime")

CLASSES = Classes(
    names=("road", "car", "tree", "sky"),
    palette=((128, 64, 128), (0, 0, 142), (107, 142, 35), (70, 130, 180)),
    label_ids=(7, 26, 21, 23),
)
SIZES = [(64, 96), (75, 101), (66, 120), (130, 83)]
ODD_SIZES = [(64, 64), (65, 97), (98, 98), (150, 83)]
"""Of which no family's patches and windows divide all. DINOv2's patches in the third are as many
as its positions here, which it then takes as they are."""


def network(
    decoder: str = "light",
    input_width_px: int | None = None,
    backbone: str = "resnet-tiny",
    target_share: float = 0.5,
    skip_scores: bool = False,
) -> Segmenter:
    """Random weights whose labels are of every class, as a trained network's are."""
    torch.manual_seed(0)
    config = SegmenterConfig(
        backbone=backbone,
        decoder=decoder,
        input_width_px=input_width_px,
        target_share=target_share,
        skip_scores=skip_scores,
    )
    segmenter = Segmenter(config, CLASSES)
    scenes = np.stack([render(0, index, "hard", 64, 128)[0] for index in range(3)])
    batch = torch.from_numpy(scenes).permute(0, 3, 1, 2) / 255
    segmenter.estimate_statistics([batch * 0.2], "source")
    segmenter.estimate_statistics([batch], "target")
    segmenter.eval()
    features = segmenter(batch).features.detach()
    torch.nn.init.normal_(segmenter.get_parameter("classifier.weight"))
    if segmenter.skip_scores is not None:
        for each in segmenter.skip_scores.parameters():
            torch.nn.init.normal_(each)
    logits = segmenter.classifier(features).mean((0, 2, 3)).detach()
    segmenter.get_parameter("classifier.bias").data.sub_(logits)
    return segmenter


def agreement(
    segmenter: Segmenter,
    label: Callable[[np.ndarray], np.ndarray],
    sizes: Sequence[tuple[int, int]] = tuple(SIZES),
) -> list[float]:
    shares, told = [], set()
    for index, size in enumerate(sizes):
        image = render(1, index, "hard", *size)[0]
        labels = label(image[None])
        assert labels.shape == (1, *size)
        assert labels.dtype == np.uint8
        wanted = segmenter.predict(image)
        told |= set(np.unique(wanted).tolist())
        shares.append((labels[0] == wanted).mean())
    assert len(told) > 2, "or the comparison is of nothing"
    return shares


def assert_same_labels(shares: list[float]) -> None:
    """Rounding, which varies with the processor, moves a few pixels between classes near a tie."""
    assert min(shares) > 0.995
    assert np.mean(shares) >= 0.999


def by_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    session = onnxruntime.InferenceSession(path)
    return lambda image: session.run(None, {"image": image})[0]


def by_program(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    program = torch.export.load(path).module()
    return lambda image: program(torch.from_numpy(image)).numpy()


LOADERS = {".onnx": by_onnx, ".pt2": by_program}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    network(input_width_px=80, skip_scores=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def onnx_file(model: Path) -> Path:
    path = model.parent / "network.onnx"
    done = CliRunner().invoke(app, ["export", str(model), str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "labels equal on" in done.output
    return path


@pytest.mark.slow
def test_onnx_labels_are_the_networks_at_any_size(model: Path, onnx_file: Path) -> None:
    assert_same_labels(agreement(Segmenter.from_pretrained(model), by_onnx(onnx_file)))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnx_takes_batches_of_any_size(onnx_file: Path, count: int) -> None:
    session = onnxruntime.InferenceSession(str(onnx_file))
    images = np.stack([render(1, index, "hard", 80, 112)[0] for index in range(count)])
    together = session.run(None, {"image": images})[0]
    alone = [session.run(None, {"image": image[None]})[0][0] for image in images]
    assert together.shape == (count, 80, 112)
    assert np.mean(together == np.stack(alone)) > 0.999


@pytest.mark.slow
def test_onnx_says_what_its_classes_are(onnx_file: Path) -> None:
    session = onnxruntime.InferenceSession(onnx_file)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == list(CLASSES.names)
    assert json.loads(told["palette"]) == [list(colour) for colour in CLASSES.palette]
    assert json.loads(told["label_ids"]) == [7, 26, 21, 23]
    (image,) = session.get_inputs()
    assert (image.type, image.shape) == ("tensor(uint8)", ["batch", "height", "width", 3])


@pytest.mark.slow
def test_the_example_needs_the_file_and_no_package_of_ours(
    model: Path, onnx_file: Path, tmp_path: Path
) -> None:
    script = REPOSITORY / "examples" / "onnx" / "predict.py"
    code = [line for line in script.read_text().splitlines() if line and not line.startswith('"')]
    assert len(code) <= 10
    # Whoever imports the package in there gets this in its place.
    (tmp_path / "cag_uda.py").write_text("raise ImportError('the example uses the package')")
    image = render(2, 0, "hard", 60, 90)[0]
    cv2.imwrite(str(tmp_path / "photo.png"), image[:, :, ::-1])
    arguments = [sys.executable, str(script), str(onnx_file), "photo.png", "painted.png"]
    subprocess.run(arguments, check=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    painted = read_pixels(tmp_path / "painted.png")
    wanted = np.array(CLASSES.palette)[Segmenter.from_pretrained(model).predict(image)]
    assert (painted == wanted).all(axis=2).mean() > 0.995


@pytest.mark.parametrize(
    ("size", "width_px"),
    [((360, 480), 240), ((301, 640), 192), ((541, 960), 240), ((543, 965), 240), ((100, 192), 192)],
)
def test_shrinking_in_the_graph_is_opencvs(size: tuple[int, int], width_px: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    ours, theirs = resize_to_width(pixels, width_px), prepare(image, width_px).float()
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1
    assert (ours != theirs).float().mean() < 1e-3


def test_growing_in_the_graph_is_within_opencvs_rounding() -> None:
    image = np.random.default_rng(0).integers(0, 256, (33, 50, 3), np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    assert (resize_to_width(pixels, 77) - prepare(image, 77)).abs().max() <= 1


def test_other_endings_are_refused_before_any_work(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.onnx or \.pt2"):
        export(Segmenter.from_pretrained(model), tmp_path / "network.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_that_labels_otherwise_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(program: object, classes: Classes, path: Path, size_px: object) -> object:
        path.write_bytes(b"a network")
        return lambda images: np.zeros(images.shape[:3], np.uint8)

    monkeypatch.setitem(export.__globals__["EXPORTERS"], ".onnx", wrong)
    with pytest.raises(ModelError, match="was not written"):
        export(Segmenter.from_pretrained(model), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_where_there_is_no_tie_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = network()

    def nearly_right(program: object, classes: Classes, path: Path, size_px: object) -> object:
        path.write_bytes(b"a network")
        return label

    def label(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = np.stack(segmenter.predict(images))
        found[:, 0, 0] = (found[:, 0, 0] + 1) % len(CLASSES.names)
        return found

    monkeypatch.setitem(export.__globals__["EXPORTERS"], ".onnx", nearly_right)
    with pytest.raises(ModelError, match=r"probability is up to [01]\.\d+ less"):
        export(segmenter, tmp_path / "network.onnx", size_px=(64, 96))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["light", "deeplab-v3plus"])
def test_onnx_of_every_decoder_at_the_images_own_size(decoder: str, tmp_path: Path) -> None:
    segmenter = network(decoder)
    found = export(segmenter, tmp_path / "network.onnx")
    assert found.agreement >= 0.9999
    assert_same_labels(agreement(segmenter, by_onnx(tmp_path / "network.onnx")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "decoder", "ending"),
    [
        ("mit", "light", ".onnx"),
        ("mit", "segformer", ".onnx"),
        ("dinov2", "light", ".onnx"),
        ("dinov3", "daformer", ".onnx"),
        ("convnextv2", "light", ".onnx"),
        ("swinv2", "light", ".onnx"),
        ("efficientnet-lite", "light", ".onnx"),
        ("efficientnet-lite", "deeplab-v3plus", ".onnx"),
        # Both kinds of file are written from one program.
        ("dinov2", "light", ".pt2"),
        ("swinv2", "light", ".pt2"),
    ],
)
def test_every_family_takes_images_of_any_size(
    family: str, decoder: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = BACKBONES["dinov2-micro"]
    larger = replace(row, config={**row.config, "image_size": 98})
    monkeypatch.setitem(BACKBONES, "dinov2-micro", larger)
    segmenter = network(decoder, backbone=f"{family}-micro")
    if family == "dinov2":
        positions = segmenter.get_parameter("backbone.network.embeddings.position_embeddings")
        assert positions.shape[1] == 1 + (98 // 14) ** 2
    path = tmp_path / f"it{ending}"
    assert export(segmenter, path).agreement >= 0.999
    assert_same_labels(agreement(segmenter, LOADERS[ending](path), ODD_SIZES))


@pytest.mark.slow
def test_a_family_at_the_width_that_it_was_trained_at(tmp_path: Path) -> None:
    segmenter = network(input_width_px=80, backbone="swinv2-micro")
    export(segmenter, tmp_path / "it.onnx")
    assert np.mean(agreement(segmenter, by_onnx(tmp_path / "it.onnx"))) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("family", ["efficientnet-lite", "dinov2", "swinv2"])
def test_convolutions_attention_and_windows_in_half_precision(family: str, tmp_path: Path) -> None:
    segmenter = network(backbone=f"{family}-micro")
    assert export(segmenter, tmp_path / "it.onnx", half=True).agreement >= 0.99
    assert min(agreement(segmenter, by_onnx(tmp_path / "it.onnx"), ODD_SIZES)) >= 0.97


def test_nothing_has_no_length_in_half_precision_either() -> None:
    """Swin V2 pads what its windows do not fill, and takes cosines of it."""
    segmenter = network(backbone="swinv2-micro").eval()
    image = render(0, 0, "hard", 45, 67)[0]
    half = LabelNetwork(copy.deepcopy(segmenter).half())
    with torch.no_grad():
        labels = [each(torch.from_numpy(image)[None]) for each in (LabelNetwork(segmenter), half)]
    assert (labels[0] == labels[1]).float().mean() >= 0.97


@pytest.mark.slow
def test_a_file_for_one_size(tmp_path: Path) -> None:
    segmenter, size = network(backbone="mit-micro", target_share=1.0), (45, 67)
    assert export(segmenter, tmp_path / "it.onnx", size_px=size).agreement >= 0.999
    label = by_onnx(tmp_path / "it.onnx")
    assert min(agreement(segmenter, label, [size])) >= 0.999
    (image,) = onnxruntime.InferenceSession(tmp_path / "it.onnx").get_inputs()
    assert image.shape == ["batch", 45, 67, 3]


def test_what_no_file_can_be_made_for_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = network()
    monkeypatch.setattr(torch.export, "export", None)
    with pytest.raises(UserError, match="--size 20x64 is too small"):
        export(segmenter, tmp_path / "it.onnx", size_px=(20, 64))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnxscript.*pip install onnx onnxruntime onnxscript"):
        export(segmenter, tmp_path / "it.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_half_precision_halves_the_file_and_nearly_keeps_the_labels(
    onnx_file: Path, tmp_path: Path
) -> None:
    segmenter = network(input_width_px=80)
    found = export(segmenter, tmp_path / "half.onnx", half=True)
    assert 0.99 <= found.agreement <= 1
    assert (tmp_path / "half.onnx").stat().st_size < 0.7 * onnx_file.stat().st_size
    assert np.mean(agreement(segmenter, by_onnx(tmp_path / "half.onnx"))) >= 0.98


@pytest.mark.slow
def test_torch_export_loads_back_without_the_network(model: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained(model)
    path = tmp_path / "network.pt2"
    export(segmenter, path)
    told = {"classes": "", "palette": "", "label_ids": ""}
    torch.export.load(path, extra_files=told)
    assert json.loads(told["classes"]) == list(CLASSES.names)
    assert_same_labels(agreement(segmenter, by_program(path)))
