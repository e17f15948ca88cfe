"""A network as one file: the same labels as the network's own, at any size, without the package."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cag_uda.cli import app
from cag_uda.data.rendering import render
from cag_uda.errors import ModelError, UserError
from cag_uda.export import export
from cag_uda.export.network import resize_to_width
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.inference import prepare
from cag_uda.models.segmenter import Segmenter

from .conftest import REPOSITORY

onnxruntime = pytest.importorskip("onnxruntime")

CLASSES = Classes(
    names=("road", "car", "tree", "sky"),
    palette=((128, 64, 128), (0, 0, 142), (107, 142, 35), (70, 130, 180)),
    label_ids=(7, 26, 21, 23),
)
SIZES = [(64, 96), (75, 101), (60, 120), (130, 83)]


def network(decoder: str = "light", input_width_px: int | None = None) -> Segmenter:
    """Random weights whose labels are of every class, as a trained network's are."""
    torch.manual_seed(0)
    config = SegmenterConfig(backbone="resnet-tiny", decoder=decoder, input_width_px=input_width_px)
    segmenter = Segmenter(config, CLASSES)
    scenes = np.stack([render(0, index, "hard", 64, 128)[0] for index in range(3)])
    batch = torch.from_numpy(scenes).permute(0, 3, 1, 2) / 255
    segmenter.estimate_statistics([batch * 0.2], "source")
    segmenter.estimate_statistics([batch], "target")
    segmenter.eval()
    features = segmenter(batch).features.detach()
    torch.nn.init.normal_(segmenter.classifier.weight)
    logits = segmenter.classifier(features).mean((0, 2, 3)).detach()
    segmenter.classifier.bias.data.sub_(logits)
    return segmenter


def agreement(segmenter: Segmenter, session: object) -> list[float]:
    shares = []
    for index, size in enumerate(SIZES):
        image = render(1, index, "hard", *size)[0]
        (labels,) = session.run(None, {"image": image[None]})
        assert labels.shape == (1, *size)
        assert labels.dtype == np.uint8
        wanted = segmenter.predict(image)
        assert len(np.unique(wanted)) > 2, "or the comparison is of nothing"
        shares.append((labels[0] == wanted).mean())
    return shares


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    network(input_width_px=80).save_pretrained(folder)
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
    shares = agreement(Segmenter.from_pretrained(model), onnxruntime.InferenceSession(onnx_file))
    assert min(shares) > 0.995
    assert np.mean(shares) >= 0.999


@pytest.mark.slow
def test_onnx_says_what_its_classes_are(onnx_file: Path) -> None:
    session = onnxruntime.InferenceSession(onnx_file)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == list(CLASSES.names)
    assert json.loads(told["palette"]) == [list(colour) for colour in CLASSES.palette]
    assert json.loads(told["label_ids"]) == [7, 26, 21, 23]
    (image,) = session.get_inputs()
    assert (image.type, image.shape) == ("tensor(uint8)", [1, "height", "width", 3])


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
    painted = cv2.imread(str(tmp_path / "painted.png"))[:, :, ::-1]
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


def test_a_file_that_labels_otherwise_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(program: object, classes: Classes, path: Path) -> object:
        path.write_bytes(b"a network")
        return lambda image: np.zeros(image.shape[:2], np.uint8)

    monkeypatch.setitem(export.__globals__["EXPORTERS"], ".onnx", wrong)
    with pytest.raises(ModelError, match="was not written"):
        export(Segmenter.from_pretrained(model), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["light", "deeplab-v3plus"])
def test_onnx_of_every_decoder_at_the_images_own_size(decoder: str, tmp_path: Path) -> None:
    segmenter = network(decoder)
    found = export(segmenter, tmp_path / "network.onnx")
    assert found.agreement >= 0.9999
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    assert min(agreement(segmenter, session)) >= 0.999


@pytest.mark.slow
def test_half_precision_halves_the_file_and_nearly_keeps_the_labels(
    onnx_file: Path, tmp_path: Path
) -> None:
    segmenter = network(input_width_px=80)
    found = export(segmenter, tmp_path / "half.onnx", half=True)
    assert 0.99 <= found.agreement <= 1
    assert (tmp_path / "half.onnx").stat().st_size < 0.7 * onnx_file.stat().st_size
    session = onnxruntime.InferenceSession(tmp_path / "half.onnx")
    assert np.mean(agreement(segmenter, session)) >= 0.98


@pytest.mark.slow
def test_torch_export_loads_back_without_the_network(model: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained(model)
    path = tmp_path / "network.pt2"
    export(segmenter, path)
    told = {"classes": "", "palette": "", "label_ids": ""}
    program = torch.export.load(path, extra_files=told).module()
    assert json.loads(told["classes"]) == list(CLASSES.names)
    for size in SIZES:
        image = render(1, 0, "hard", *size)[0]
        labels = program(torch.from_numpy(image)[None])
        assert (labels[0].numpy() == segmenter.predict(image)).mean() >= 0.999
