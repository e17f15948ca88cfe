"""Read DeepLab v3 and FCN on a dilated ResNet: of torchvision and segmentation_models_pytorch.

Knows the names that both save under, and how they dilate.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from cag_uda.models.config import SegmenterConfig
from cag_uda.models.foreign.network import (
    Family,
    Foreign,
    in_backbone,
    renamed,
    resnet_row,
    sorted_out,
    unknown_part,
    wanted,
)
from cag_uda.models.resnet import ResNet, TorchvisionResNet
from cag_uda.models.weight_files import below

_ASPP = (
    (r"convs\.([0-3])\.([01])", r"decoder.aspp.branches.\1.\2"),
    (r"convs\.4\.1", "decoder.aspp.pooled.1.0"),
    (r"convs\.4\.2", "decoder.aspp.pooled.1.1"),
    (r"project\.([01])", r"decoder.aspp.project.0.\1"),
)


class _Layout(NamedTuple):
    """Names and settings of one kind of checkpoint."""

    family: Family
    told_by: tuple[str, ...]
    """Names that all of its checkpoints have."""
    modules: tuple[tuple[str, str], ...]
    """Modules of the head, as patterns, and what they are called here."""
    decoder: str = "deeplab-v3"
    backbone: str = "backbone."
    """Prefix of the backbone's parameter names."""
    kind: type[ResNet] = TorchvisionResNet
    classifier: str = "classifier.4"
    align_corners: bool = False


def _refine(convolution: str, norm: str) -> tuple[tuple[str, str], ...]:
    return (re.escape(convolution), "decoder.refine.0"), (re.escape(norm), "decoder.refine.1")


def _deeplab(aspp: str, convolution: str, norm: str) -> tuple[tuple[str, str], ...]:
    inside = ((rf"{re.escape(aspp)}\.{pattern}", ours) for pattern, ours in _ASPP)
    return *inside, *_refine(convolution, norm)


def _smp(aspp: str, convolution: str, norm: str) -> _Layout:
    """Make the row of a DeepLab v3 of segmentation_models_pytorch, by its head's modules."""
    return _Layout(
        "smp",
        (f"{aspp}.convs.0.0.weight", f"{aspp}.convs.1.0.weight", f"{convolution}.weight"),
        _deeplab(aspp, convolution, norm),
        backbone="encoder.",
        kind=ResNet,
        classifier="segmentation_head.0",
        align_corners=True,
    )


_TRUNK = "backbone.layer1.0.conv1.weight"
_LAYOUTS = (
    _Layout(
        "torchvision",
        ("classifier.0.convs.0.0.weight", _TRUNK),
        _deeplab("classifier.0", "classifier.1", "classifier.2"),
    ),
    _Layout(
        "torchvision",
        ("classifier.0.weight", "classifier.4.weight", _TRUNK),
        _refine("classifier.0", "classifier.1"),
        decoder="fcn",
    ),
    _smp("decoder.0", "decoder.1", "decoder.2"),
    _smp("decoder.aspp", "decoder.conv", "decoder.bn"),
)


def of_dilated(state: Mapping[str, Tensor], left_out: Mapping[str, str]) -> Foreign | None:
    """Read a DeepLab v3 or an FCN of output stride 8; None if the tensors' names are not those.

    Raises ModelError if there is no backbone here of its form.
    """
    layout = next((each for each in _LAYOUTS if all(name in state for name in each.told_by)), None)
    if layout is None:
        return None
    prefix = layout.backbone
    config = SegmenterConfig(
        backbone=resnet_row(below(state, prefix), layout.kind),
        decoder=layout.decoder,
        output_stride=8,
        align_corners=layout.align_corners,
        norm="shared",
    )
    modules = (*layout.modules, (re.escape(layout.classifier), "classifier"))

    def part(name: str, tensor: Tensor) -> dict[str, Tensor] | None:
        if name.startswith(prefix):
            return in_backbone(name.removeprefix(prefix), tensor)
        return renamed(name, tensor, modules)

    def why_not(name: str) -> str:
        if name.startswith("aux_classifier."):
            return "a second classifier, which training alone uses"
        if name.startswith(f"{prefix}fc."):
            return "the classifier of ImageNet"
        raise unknown_part(layout.family, name)

    classes = len(wanted(state, f"{layout.classifier}.weight"))
    notes = (f"a {layout.decoder} in the layout of {layout.family}",)
    return sorted_out(layout.family, config, classes, state, part, why_not, left_out, notes)
