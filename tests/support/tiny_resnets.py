"""ResNets with the code of ResNet-101 and hardly any weights, as rows of the table of backbones."""

from typing import Any

import pytest

from cag_uda.models.backbones import BACKBONES, BackboneEntry
from cag_uda.models.resnet import CaffeResNet, ResNet, TorchvisionResNet

TINY: dict[str, Any] = {"stem": 8, "width": 4, "depths": [1, 2, 1, 3]}
"""Their size, in the arguments of the original networks."""


def add_tiny_resnets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the rows "tiny", "tiny-caffe" and "tiny-torchvision" for one test."""
    config: dict[str, Any] = {
        "depths": TINY["depths"],
        "layer_type": "bottleneck",
        "hidden_sizes": [16, 32, 64, 128],
        "embedding_size": 8,
    }
    caffe = config | {"downsample_in_bottleneck": True}
    monkeypatch.setitem(BACKBONES, "tiny", BackboneEntry(config, None, ResNet))
    monkeypatch.setitem(BACKBONES, "tiny-caffe", BackboneEntry(caffe, None, CaffeResNet))
    late = BackboneEntry(config, None, TorchvisionResNet)
    monkeypatch.setitem(BACKBONES, "tiny-torchvision", late)
