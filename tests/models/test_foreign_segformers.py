"""SegFormers and DAFormers of other people's code: placed entirely, and computing the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from typer.testing import CliRunner

import cag_uda
from cag_uda.cli.app import app
from cag_uda.errors import ModelError, UserError
from cag_uda.models.backbones import build_backbone
from cag_uda.models.foreign import read_foreign
from cag_uda.models.segmenter import Segmenter
from tests.support.original_networks import ReleasedCAG, randomise
from tests.support.original_segformers import (
    HEADS,
    MEAN,
    SIZES,
    STD,
    DAFormerHead,
    MiT,
    MMHead,
    MMMiT,
    NvidiaHead,
    Original,
)
from tests.support.tiny_resnets import TINY, add_tiny_resnets

IMAGE_SIZES = [(65, 129), (64, 128), (70, 97)]


def imported(path: Path, out: Path, *more: str) -> Segmenter:
    result = CliRunner().invoke(app, ["import", str(path), "--out", str(out), *more])
    if result.exception is not None:
        raise result.exception
    return cag_uda.load(out)


def assert_same(segmenter: Segmenter, expected: list[tuple[Tensor, Tensor]]) -> None:
    """Features and logits of the images of `images()` within 1e-3, and not by being nothing.

    Layer norms of transformers add 1e-5 to the variance, those of the others 1e-6.
    """
    for image, (features, logits) in zip(images(), expected, strict=True):
        with torch.inference_mode():
            found = segmenter(image)
        assert logits.std() > 0.01
        assert found.features.shape == features.shape
        for got, wanted in ((found.features, features), (found.logits, logits)):
            assert (got - wanted).abs().max() < 1e-3 * wanted.abs().max()


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(2, 3, *size, generator=generator) for size in IMAGE_SIZES]


def original(form: str, classes: int = 19) -> Original:
    parts: dict[str, tuple[nn.Module, nn.Module]] = {
        "nvidia": (MiT(), NvidiaHead(classes, 256)),
        "nvidia-768": (MiT(), NvidiaHead(classes, 768)),
        "mmseg": (MMMiT(), MMHead(classes)),
        "daformer": (MiT(), DAFormerHead(classes)),
    }
    network = randomise(Original(*parts[form]))
    assert isinstance(network, Original)
    return network


@pytest.mark.parametrize(
    ("form", "family", "decoder"),
    [
        ("nvidia", "segformer", "segformer-published"),
        ("nvidia-768", "segformer", "segformer-published-768"),
        ("mmseg", "segformer", "segformer-mmseg"),
        ("daformer", "daformer", "daformer-published"),
    ],
)
def test_published_heads_compute_the_same(
    tmp_path: Path, form: str, family: str, decoder: str
) -> None:
    network = original(form)
    path = tmp_path / "latest.pth"
    names = [f"class {place}" for place in range(19)]
    meta = {"CLASSES": names, "PALETTE": [[place, 0, 9] for place in range(19)], "epoch": 3}
    torch.save({"meta": meta, "state_dict": network.state_dict(), "optimizer": {}}, path)
    segmenter = imported(path, tmp_path / "model")
    with torch.inference_mode():
        assert_same(segmenter, [network(image) for image in images()])
    assert segmenter.config.decoder == decoder
    assert segmenter.classes.names == tuple(names)
    assert segmenter.classes.palette[7] == (7, 0, 9)
    record = json.loads((tmp_path / "model" / "import.json").read_text())
    assert record["family"] == family
    unused = {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"}
    expected = unused if form.startswith("nvidia") else set()
    assert (
        record["left_out"].keys()
        - {"optimizer"}
        - {n for n in record["left_out"] if n.startswith("meta")}
        == expected
    )
    assert record["placed"].keys() == network.state_dict().keys() - expected


def save_of_transformers(folder: Path, **settings: Any) -> SegformerForSemanticSegmentation:
    config = SegformerConfig(
        hidden_sizes=list(SIZES),
        depths=[1, 1, 1, 1],
        num_attention_heads=list(HEADS),
        decoder_hidden_size=256,
        **settings,
    )
    network = randomise(SegformerForSemanticSegmentation(config))
    assert isinstance(network, SegformerForSemanticSegmentation)
    network.save_pretrained(folder)
    return network


@pytest.mark.parametrize("form", ["folder", "file", "torch"])
def test_a_segformer_of_transformers_computes_the_same(tmp_path: Path, form: str) -> None:
    named = {0: "sky", 1: "wall of glass", 2: "door"}
    network = save_of_transformers(tmp_path / "hub", id2label=named)
    path = tmp_path / "hub"
    if form == "file":
        path = path / "model.safetensors"
    elif form == "torch":
        path = path / "pytorch_model.bin"
        torch.save(network.state_dict(), path)
        (path.parent / "model.safetensors").unlink()
    segmenter = imported(path, tmp_path / "model")
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    for image in images():
        with torch.inference_mode():
            expected = network((image - mean) / std).logits
            found = segmenter(image).logits
        assert expected.std() > 0.01
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert segmenter.classes.names == ("sky", "wall of glass", "door")


def test_classes_that_nobody_has_named_are_asked_for(tmp_path: Path) -> None:
    save_of_transformers(tmp_path / "hub", num_labels=3)
    with pytest.raises(UserError, match="3 classes apart and does not name them"):
        imported(tmp_path / "hub", tmp_path / "model")
    save_of_transformers(tmp_path / "cityscapes", num_labels=19)
    names = imported(tmp_path / "cityscapes", tmp_path / "model").classes.names
    assert names[:2] == ("road", "sidewalk")


def test_the_student_of_a_trainer_is_taken(tmp_path: Path) -> None:
    """DAFormer's and MIC's trainers keep a teacher and a network of ImageNet beside it."""
    network = original("daformer").state_dict()
    saved = {f"model.{name}": value for name, value in network.items()}
    for other in ("ema_model", "imnet_model"):
        saved |= {f"{other}.{name}": value + 1 for name, value in network.items()}
    torch.save({"state_dict": saved}, tmp_path / "latest.pth")
    foreign = read_foreign(tmp_path / "latest.pth")
    assert foreign.placed.keys() == network.keys()
    assert {name.split(".")[1] for name in foreign.left_out} == {"ema_model", "imnet_model"}
    assert set(foreign.left_out.values()) == {"a second network"}
    assert foreign.config.input_width_px == 1024


def test_a_tensor_without_a_place_is_refused_by_name(tmp_path: Path) -> None:
    state = original("daformer").state_dict()
    torch.save(state | {"decode_head.extra.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(ModelError, match=r"decode_head\.extra\.weight, which none here has"):
        read_foreign(tmp_path / "more.pth")
    less = {name: value for name, value in state.items() if ".aspp_modules.2." not in name}
    torch.save(less, tmp_path / "less.pth")
    with pytest.raises(ModelError, match=r"decoder\.context\.2\.0\.weight is missing"):
        imported(tmp_path / "less.pth", tmp_path / "model")
    torch.save(state, tmp_path / "all.pth")
    with pytest.raises(ModelError, match="not of the family cag"):
        read_foreign(tmp_path / "all.pth", "cag")


@pytest.mark.parametrize("form", ["nvidia", "mmseg"])
@pytest.mark.parametrize("around", ["alone", "backbone.", "encoder."])
def test_a_mit_of_any_layout_is_backbone_weights(tmp_path: Path, form: str, around: str) -> None:
    """A backbone alone with ImageNet's classifier, or inside a network with a head."""
    network = original(form).backbone
    prefix = "" if around == "alone" else around
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    state["head.weight" if around == "alone" else "decode_head.x.weight"] = torch.zeros(2)
    torch.save({"state_dict": state}, tmp_path / "mit.pth")
    backbone = build_backbone("mit-micro", str(tmp_path / "mit.pth"), 32).eval()
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for got, wanted in zip(backbone(image), network(image), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    assert "left out" in backbone.origin


@pytest.mark.parametrize(
    ("prefix", "head", "named"),
    [
        ("encoder.", "segmentation_head.0.weight", "segmentation_models_pytorch's, with a ResNet"),
        ("backbone.", "decode_head.conv_seg.weight", "mmsegmentation's, with a ResNet"),
    ],
)
def test_of_other_networks_the_backbone_can_be_had(
    tmp_path: Path, prefix: str, head: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the message says can be done: the file itself is weights of the backbone."""
    add_tiny_resnets(monkeypatch)
    inner = randomise(ReleasedCAG(19, **TINY)).get_submodule("backbone")
    state = {f"{prefix}{name}": value for name, value in inner.state_dict().items()}
    torch.save(state | {head: torch.zeros(3, 2)}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"segmenter\.weights takes this file") as caught:
        read_foreign(tmp_path / "net.pth")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    backbone = build_backbone("tiny", str(tmp_path / "net.pth"), 16, (1, 2, 4)).eval()
    image = torch.rand(1, 3, 65, 129)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(image)[3], inner(image)[0], rtol=1e-4, atol=1e-5)
    assert f"left out {head}" in backbone.origin


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("backbone.patch_embed1.proj.weight", "decode_head.conv_seg.weight"), "with a MiT and"),
        (("backbone.features.0.weight", "classifier.0.convs.0.0.weight"), "without a ResNet"),
        (("backbone.patch_embed1.proj.weight", "decode_head.scale_attention.x"), "HRDA or MIC"),
        (("backbone.stem.0.weight", "decode_head.conv_seg.weight"), "three convolutions"),
        (("encoder.features.0.weight", "segmentation_head.0.weight"), "segmentation_models"),
        (("model.pixel_level_module.encoder.x", "model.transformer_module.y"), "Mask2Former"),
        (("inc.double_conv.0.weight", "down1.maxpool_conv.1.double_conv.0.weight"), "U-Net"),
        (("model.0.conv.weight", "model.1.cv1.conv.weight"), "YOLO"),
        (("a.weight", "b.weight"), "called a.weight, b.weight"),
    ],
)
def test_other_forms_are_named(tmp_path: Path, names: tuple[str, ...], named: str) -> None:
    torch.save({name: torch.zeros(2, 2) for name in names}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=named) as caught:
        read_foreign(tmp_path / "net.pth")
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a folder without model\.safetensors"):
        read_foreign(tmp_path)
