"""DeepLab v3 and FCN of torchvision and segmentation_models_pytorch: placed, computing the same."""

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import cag_uda
from cag_uda.cli.app import app
from cag_uda.errors import ModelError
from cag_uda.models.foreign import read_foreign
from tests.support.original_dilated import Smp, Torchvision
from tests.support.original_networks import randomise
from tests.support.tiny_resnets import add_tiny_resnets


@pytest.fixture(autouse=True)
def _tiny_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny_resnets(monkeypatch)


def original(form: str) -> nn.Module:
    if form.startswith("smp"):
        return randomise(Smp(form == "smp-new", 19))
    return randomise(Torchvision(form, 19))


@pytest.mark.parametrize(
    ("form", "decoder", "family", "is_aligned"),
    [
        ("deeplab-v3", "deeplab-v3", "torchvision", False),
        ("fcn", "fcn", "torchvision", False),
        ("smp-old", "deeplab-v3", "smp", True),
        ("smp-new", "deeplab-v3", "smp", True),
    ],
)
def test_dilated_networks_compute_the_same(
    tmp_path: Path, form: str, decoder: str, family: str, is_aligned: bool
) -> None:
    network = original(form)
    path, out = tmp_path / "net.pth", tmp_path / "model"
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, path)
    result = CliRunner().invoke(app, ["import", str(path), "--out", str(out)])
    assert result.exception is None, result.output
    segmenter = cag_uda.load(out)
    generator = torch.Generator().manual_seed(3)
    for size in ((65, 129), (64, 128)):
        image = torch.rand(2, 3, *size, generator=generator)
        with torch.inference_mode():
            found = segmenter(image)
            features, logits = network(image)
        assert logits.std() > 0.01
        for got, wanted in ((found.features, features), (found.logits, logits)):
            assert (got - wanted).abs().max() < 1e-4
    config = segmenter.config
    assert (config.decoder, config.output_stride, config.align_corners) == (decoder, 8, is_aligned)
    foreign = read_foreign(path)
    assert foreign.family == family
    left_out = {name for name in foreign.left_out if name != "epoch"}
    assert left_out == {name for name in network.state_dict() if name.startswith("aux_classifier")}
    assert foreign.placed.keys() == network.state_dict().keys() - left_out


def test_a_head_that_is_not_this_one_is_refused_by_name(tmp_path: Path) -> None:
    state = original("deeplab-v3").state_dict()
    torch.save(state | {"classifier.9.weight": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"classifier\.9\.weight, which none here has"):
        read_foreign(tmp_path / "net.pth")
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ModelError, match="a network of torchvision, not of the family smp"):
        read_foreign(tmp_path / "net.pth", "smp")
