"""Backbones: pixels to feature maps at several strides; the networks are transformers'."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig

from cag_uda.errors import ModelError

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
        weights: hub id or local folder of published weights, or None for random ones.
        output_stride: image pixels per cell of the last map: 8, 16 or 32.

    Raises:
        ModelError: if the weights cannot be found or read.

    Source: strides become dilation in the last stages as in Chen et al., *DeepLab*, 2017.
    """

    def __init__(self, config: Mapping[str, Any], weights: str | None, output_stride: int) -> None:
        super().__init__()
        full = ResNetConfig(**config, out_features=list(_STAGES))  # type: ignore[call-arg]
        self.network = ResNetBackbone(full) if weights is None else _published(weights, full)
        _dilate(self.network, output_stride)
        self.channels: tuple[int, ...] = tuple(config["hidden_sizes"])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) to four maps (B, C_i, h_i, w_i), at stride 4 first."""
        return list(self.network(image).feature_maps)


def _published(weights: str, config: ResNetConfig) -> ResNetBackbone:
    if "/" not in weights and not Path(weights).exists():
        raise ModelError(
            f"no backbone weights at {weights}: give a folder that exists, a hub id with a '/', "
            '"imagenet", or leave `segmenter.weights` out for random weights'
        )
    try:
        loaded = ResNetBackbone.from_pretrained(weights, config=config, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot load backbone weights {weights!r}: {reason}") from error
    return loaded


def _dilate(network: ResNetBackbone, output_stride: int) -> None:
    """Trade the strides beyond `output_stride` for dilation, in place."""
    stride, dilation = 4, 1
    for stage in network.encoder.stages[1:]:
        stride *= 2
        if stride <= output_stride:
            continue
        dilation *= 2
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size == (3, 3):
                    module.dilation = (dilation, dilation)
                    module.padding = (dilation, dilation)


def _resnet(depths: list[int], layer: str, sizes: list[int], stem: int = 64) -> dict[str, Any]:
    return {"depths": depths, "layer_type": layer, "hidden_sizes": sizes, "embedding_size": stem}


_BASIC = [64, 128, 256, 512]
_BOTTLENECK = [256, 512, 1024, 2048]

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
}
"""Every backbone by the name that recipes use. A new one is one row here."""


def build_backbone(name: str, weights: str | None, output_stride: int) -> ResNet:
    """Build a row of `BACKBONES`.

    Args:
        name: the row.
        weights: None for random weights, "imagenet" for the row's hub id, or a hub id or folder.
        output_stride: image pixels per cell of the last map: 8, 16 or 32.

    Raises:
        ModelError: for an unknown name, or weights that cannot be had.
    """
    if name not in BACKBONES:
        raise ModelError(f"unknown backbone {name!r}; choose from {', '.join(BACKBONES)}")
    entry = BACKBONES[name]
    if weights == "imagenet":
        if entry.hub_id is None:
            raise ModelError(f"backbone {name!r} has no published ImageNet weights; leave them out")
        weights = entry.hub_id
    return entry.build(entry.config, weights, output_stride)
