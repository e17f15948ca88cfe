"""Weights of a backbone alone: from a file, a folder or the hub, in every published layout."""

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from cag_uda.errors import ModelError
from cag_uda.models.backbones import BACKBONES, BackboneEntry, build_backbone
from cag_uda.models.resnet import ResNet
from tests.support.original_networks import ReleasedCAG, randomise
from tests.support.tiny_resnets import TINY, add_tiny_resnets


@pytest.fixture(autouse=True)
def _tiny_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny_resnets(monkeypatch)


def test_backbone_weights_in_torchvisions_layout(tmp_path: Path) -> None:
    original = randomise(ReleasedCAG(19, **TINY)).get_submodule("backbone")
    state = original.state_dict() | {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}
    torch.save(state, tmp_path / "resnet.pth")
    backbone = BACKBONES["tiny"].build(
        BACKBONES["tiny"].config, str(tmp_path / "resnet.pth"), 16, (1, 2, 4)
    )
    image = torch.rand(1, 3, 65, 129)
    high, low = original(image)
    maps = backbone.eval()(image)
    torch.testing.assert_close(maps[0], low, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps[3], high, rtol=1e-4, atol=1e-5)
    assert "left out fc.weight, fc.bias" in backbone.origin
    torch.save(state | {"layer5.weight": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(ModelError, match=r"layer5\.weight has no place"):
        ResNet(BACKBONES["tiny"].config, str(tmp_path / "resnet.pth"), 16)


def test_backbone_weights_in_transformers_layout(tmp_path: Path) -> None:
    """A folder and a file as the hub gives them: a classifier of ImageNet around the backbone."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = BACKBONES["tiny"].config
    published = ResNetForImageClassification(ResNetConfig(**{**config, "num_labels": 3}))
    published.save_pretrained(tmp_path / "hub")
    file = tmp_path / "resnet.bin"
    torch.save(published.state_dict(), file)
    for weights in (tmp_path / "hub", tmp_path / "hub" / "model.safetensors", file):
        backbone = ResNet(config, str(weights), 16)
        assert "left out classifier.1." in backbone.origin
        for name, value in published.resnet.state_dict().items():
            assert backbone.network.state_dict()[name].equal(value), name


def test_backbone_weights_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name: the row's hub id, safetensors before what torch saved."""
    file = tmp_path / "pytorch_model.bin"
    original = randomise(ReleasedCAG(19, **TINY)).get_submodule("backbone")
    torch.save(original.state_dict(), file)
    asked: list[tuple[str, str]] = []

    def fetch(hub_id: str, name: str) -> str:
        asked.append((hub_id, name))
        if hub_id == "off/line":
            raise LocalEntryNotFoundError("the hub cannot be reached")
        if name == "model.safetensors":
            raise EntryNotFoundError("no such file")
        return str(file)

    monkeypatch.setattr("cag_uda.models.published.hf_hub_download", fetch)
    entry = BACKBONES["tiny"]
    monkeypatch.setitem(BACKBONES, "tiny", BackboneEntry(entry.config, "some/resnet", ResNet))
    origin = build_backbone("tiny", "imagenet", 16).origin
    assert "tensors of some/resnet placed" in origin
    assert asked == [("some/resnet", "model.safetensors"), ("some/resnet", "pytorch_model.bin")]
    with pytest.raises(ModelError, match=r"cannot fetch .*off/line.*cannot be reached"):
        build_backbone("tiny", "off/line", 16)
    assert len(asked) == 3, "nothing is asked twice of a hub that cannot be reached"
    for missing in ("nowhere/weights.pth", str(tmp_path / "none"), str(tmp_path / "a" / "b")):
        with pytest.raises(ModelError, match="no backbone weights at"):
            build_backbone("tiny", missing, 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"want model\.safetensors or pytorch_model\.bin"):
        build_backbone("tiny", str(tmp_path / "empty"), 16)
