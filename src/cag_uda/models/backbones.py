"""Backbones: pixels to feature maps at several strides; the networks are transformers'."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig

from cag_uda.errors import ModelError
from cag_uda.models.published import load_published

_STAGES = ("stage1", "stage2", "stage3", "stage4")


@dataclass(frozen=True)
class BackboneEntry:
    """One row of the table: how to configure a backbone and where its published weights are."""

    config: Mapping[str, Any]
    hub_id: str | None
    build: Callable[..., "ResNet"]


class ResNet(nn.Module):
    """He et al., *Deep Residual Learning*, 2015, in the transformers layout; dilated on demand.

    Args:
        config: keyword arguments of `transformers.ResNetConfig`.
        weights: hub id, local folder or local file of published weights, or None for random ones.
        output_stride: image pixels per cell of the last map: 8, 16 or 32.
        multi_grid: a factor of the dilation for each block of the last stage; None is 1 for each.

    Raises:
        ModelError: if the weights cannot be found or read, or the multi-grid has another length
            than the last stage.

    Source: strides become dilation in the last stages as in Chen et al., *DeepLab*, 2017; the
    multi-grid is of Chen et al., *Rethinking Atrous Convolution* (DeepLab v3), 2017.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: str | None,
        output_stride: int,
        multi_grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        full = ResNetConfig(**config, out_features=list(_STAGES))  # type: ignore[call-arg]
        self.network = ResNetBackbone(full)
        self.channels: tuple[int, ...] = tuple(config["hidden_sizes"])
        self.origin = "" if weights is None else load_published(self.network, weights)
        """One line on which published weights it has; empty for random ones."""
        grid = list(multi_grid or [1] * config["depths"][-1])
        if len(grid) != config["depths"][-1]:
            raise ModelError(
                f"multi_grid {grid} has {len(grid)} factors, but the backbone's last stage has "
                f"{config['depths'][-1]} blocks; give one for each"
            )
        _dilate(self.network, output_stride, grid)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) to four maps (B, C_i, h_i, w_i), at stride 4 first."""
        return list(self.network(image).feature_maps)


class CaffeResNet(ResNet):
    """The ResNet of DeepLab v2 and of the adaptation methods that stand on it.

    Stages stride in the first 1×1 convolution of their first bottleneck (`downsample_in_bottleneck`
    in the row's configuration), and the pooling of the stem counts the windows that reach beyond
    the edge.

    Source: Tsai et al., *AdaptSegNet*, CVPR 2018, model/deeplab_multi.py.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: str | None,
        output_stride: int,
        multi_grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__(config, weights, output_stride, multi_grid)
        self.network.embedder.pooler.ceil_mode = True


def _dilate(network: ResNetBackbone, output_stride: int, multi_grid: Sequence[int]) -> None:
    """Trade the strides beyond `output_stride` for dilation, in place."""
    stride, dilation = 4, 1
    last = network.encoder.stages[-1]
    for stage in network.encoder.stages[1:]:
        stride *= 2
        keeps_its_stride = stride <= output_stride
        dilation *= 1 if keeps_its_stride else 2
        for index, block in enumerate(cast(nn.Sequential, stage.layers)):
            rate = dilation * (multi_grid[index] if stage is last else 1)
            for module in block.modules():
                if isinstance(module, nn.Conv2d):
                    _set_rate(module, rate, keeps_its_stride)


def _set_rate(convolution: nn.Conv2d, rate: int, keeps_its_stride: bool) -> None:
    if not keeps_its_stride:
        convolution.stride = (1, 1)
    if convolution.kernel_size == (3, 3):
        convolution.dilation = (rate, rate)
        convolution.padding = (rate, rate)


def _resnet(depths: list[int], layer: str, sizes: list[int], stem: int = 64) -> dict[str, Any]:
    return {"depths": depths, "layer_type": layer, "hidden_sizes": sizes, "embedding_size": stem}


_BASIC = [64, 128, 256, 512]
_BOTTLENECK = [256, 512, 1024, 2048]
_CAFFE = {"downsample_in_bottleneck": True}

BACKBONES: dict[str, BackboneEntry] = {
    # For tests and for trying things out: 0.1 M parameters.
    "resnet-tiny": BackboneEntry(_resnet([1, 1, 1, 1], "basic", [8, 16, 32, 32], 8), None, ResNet),
    # A quarter of resnet-18's arithmetic: from random weights in minutes on a laptop.
    "resnet-18-half": BackboneEntry(
        _resnet([2, 2, 2, 2], "basic", [32, 64, 128, 256], 32), None, ResNet
    ),
    "resnet-18": BackboneEntry(
        _resnet([2, 2, 2, 2], "basic", _BASIC), "microsoft/resnet-18", ResNet
    ),
    "resnet-50": BackboneEntry(
        _resnet([3, 4, 6, 3], "bottleneck", _BOTTLENECK), "microsoft/resnet-50", ResNet
    ),
    "resnet-101": BackboneEntry(
        _resnet([3, 4, 23, 3], "bottleneck", _BOTTLENECK), "microsoft/resnet-101", ResNet
    ),
    # The backbone of DeepLab v2; the published weights were trained with the stride in the 3×3.
    "resnet-101-caffe": BackboneEntry(
        _resnet([3, 4, 23, 3], "bottleneck", _BOTTLENECK) | _CAFFE,
        "microsoft/resnet-101",
        CaffeResNet,
    ),
}
"""Every backbone by the name that recipes use. A new one is one row here."""


def build_backbone(
    name: str,
    weights: str | None,
    output_stride: int,
    multi_grid: Sequence[int] | None = None,
) -> ResNet:
    """Build a row of `BACKBONES`.

    Args:
        name: the row.
        weights: None for random weights, "imagenet" for the row's hub id, or a hub id, a folder or
            a file.
        output_stride: image pixels per cell of the last map: 8, 16 or 32.
        multi_grid: a factor of the dilation for each block of the last stage; None is 1 for each.

    Raises:
        ModelError: for an unknown name, weights that cannot be had, or a multi-grid of another
            length than the last stage.
    """
    if name not in BACKBONES:
        raise ModelError(f"unknown backbone {name!r}; choose from {', '.join(BACKBONES)}")
    entry = BACKBONES[name]
    if weights == "imagenet":
        if entry.hub_id is None:
            raise ModelError(f"backbone {name!r} has no published ImageNet weights; leave them out")
        weights = entry.hub_id
    return entry.build(entry.config, weights, output_stride, multi_grid)


def find_resnet(
    depths: Sequence[int], layer: str, sizes: Sequence[int], stem: int, *, is_caffe: bool
) -> str:
    """The row of `BACKBONES` that is a ResNet of this form.

    Args:
        depths: blocks of each stage.
        layer: "basic" or "bottleneck".
        sizes: channels of each stage's output.
        stem: channels of the first convolution.
        is_caffe: whether stages stride in their first 1×1 convolution.

    Raises:
        ModelError: if there is none.
    """
    wanted = _resnet(list(depths), layer, list(sizes), stem) | (_CAFFE if is_caffe else {})
    for name, entry in BACKBONES.items():
        if entry.config == wanted:
            return name
    raise ModelError(
        f"no backbone here is a {layer} ResNet of {list(depths)} blocks and {list(sizes)} "
        f"channels; there are {', '.join(BACKBONES)}"
    )
