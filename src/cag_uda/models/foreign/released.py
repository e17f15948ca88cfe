"""Read checkpoints of the released code of CAG-UDA, AdaptSegNet, ADVENT and DACS.

Knows the names that they save under, and how they normalise images.
"""

import math
from collections.abc import Mapping
from functools import partial

from torch import Tensor

from cag_uda.errors import ModelError
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.foreign.network import (
    Family,
    Foreign,
    in_backbone,
    renamed,
    resnet_row,
    sorted_out,
    wanted,
)
from cag_uda.models.published import resnet_depths
from cag_uda.models.resnet import CaffeResNet, ResNet
from cag_uda.models.weight_files import below

# BGR, of images in 0 … 255; the released code of AdaptSegNet, ADVENT and DACS.
_CAFFE_MEAN = (104.00698793, 116.66876762, 122.67891434)
_FIRST_BRANCH = ".conv2d_list.0.weight"
_INITIAL_DEVIATION = 0.01
"""Standard deviation of the weights of an AdaptSegNet classifier before training."""

_V3PLUS_MODULES = (
    *((rf"aspp\.aspp{i + 1}\.atrous_conv", f"decoder.aspp.branches.{i}.0") for i in range(4)),
    *((rf"aspp\.aspp{i + 1}\.bn", f"decoder.aspp.branches.{i}.1") for i in range(4)),
    (r"aspp\.global_avg_pool\.1", "decoder.aspp.pooled.1.0"),
    (r"aspp\.global_avg_pool\.2", "decoder.aspp.pooled.1.1"),
    (r"aspp\.conv1", "decoder.aspp.project.0.0"),
    (r"aspp\.bn1", "decoder.aspp.project.0.1"),
    (r"decoder\.conv1", "decoder.details.0"),
    (r"decoder\.bn1", "decoder.details.1"),
    (r"decoder\.last_conv\.([01])", r"decoder.refine.0.\1"),
    (r"decoder\.last_conv\.4", "decoder.refine.2.0"),
    (r"decoder\.last_conv\.5", "decoder.refine.2.1"),
    (r"decoder\.last_conv\.8", "classifier"),
)
"""Modules of the released CAG-UDA network beside its backbone, and what they are called here."""


def is_cag(state: Mapping[str, Tensor]) -> bool:
    """Return True if the tensors have the names of the released CAG-UDA network."""
    return any(name.startswith("aspp.aspp1.") for name in state)


def is_v2(state: Mapping[str, Tensor]) -> bool:
    """Return True if the tensors have the names of AdaptSegNet, which its successors kept."""
    return any(".conv2d_list." in name for name in state)


def of_cag(state: Mapping[str, Tensor], left_out: Mapping[str, str]) -> Foreign:
    """Read the released DeepLab v3+: RGB / 255, multi-grid 1, 2, 4, trained batch norm."""
    config = SegmenterConfig(
        backbone=resnet_row(below(state, "backbone."), ResNet),
        decoder="deeplab-v3plus",
        output_stride=16,
        multi_grid=(1, 2, 4),
        align_corners=True,
        norm="shared",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )

    def part(name: str, tensor: Tensor) -> dict[str, Tensor] | None:
        if name.startswith("backbone."):
            return in_backbone(name.removeprefix("backbone."), tensor)
        return renamed(name, tensor, _V3PLUS_MODULES)

    classifier = wanted(state, "decoder.last_conv.8.weight")
    why_not = partial(_why_not, state)
    return sorted_out("cag", config, len(classifier), state, part, why_not, left_out)


def of_v2(
    state: Mapping[str, Tensor], left_out: Mapping[str, str], family: Family | None
) -> Foreign:
    """Read a DeepLab v2 of AdaptSegNet or a successor: BGR 0 … 255 less a mean, frozen norm."""
    row = resnet_row(state, CaffeResNet)
    channels = wanted(state, f"layer4.{resnet_depths(state)[-1] - 1}.conv3.weight").shape[0]
    head = _main_classifier(state, channels)
    notes = ["conv1.weight: input channels turned from BGR to RGB"]
    if family is None:
        family, evidence = _told_from_branches(state, head)
        notes.append(evidence)
    has_two = family == "adaptsegnet"
    config = SegmenterConfig(
        backbone=row,
        decoder="deeplab-v2-adaptsegnet" if has_two else "deeplab-v2",
        output_stride=8,
        norm="frozen",
        mean=(_CAFFE_MEAN[2] / 255, _CAFFE_MEAN[1] / 255, _CAFFE_MEAN[0] / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
        input_width_px=1024,
    )
    used = 2 if has_two else 4

    def part(name: str, tensor: Tensor) -> dict[str, Tensor] | None:
        if not name.startswith(f"{head}.conv2d_list."):
            return in_backbone(name, tensor)
        branch, leaf = name.split(".")[2:]
        return {f"classifier.branches.{branch}.{leaf}": tensor} if int(branch) < used else None

    num_classes = wanted(state, f"{head}.conv2d_list.0.weight").shape[0]
    # The network's input channels are blue, green, red; ours are red, green, blue. Reversing the
    # input channels of the first convolution makes up for that.
    turned = {**state, "conv1.weight": wanted(state, "conv1.weight").flip(1)}
    why_not = partial(_why_not, state)
    return sorted_out(family, config, num_classes, turned, part, why_not, left_out, tuple(notes))


def _why_not(state: Mapping[str, Tensor], name: str) -> str:
    if ".conv2d_list." not in name:
        return "no part of this network's computation"
    # The main classifier is that of the last map, which has the most channels.
    heads = {each: t.shape[1] for each, t in state.items() if each.endswith(_FIRST_BRANCH)}
    first = f"{name.split('.')[0]}{_FIRST_BRANCH}"
    is_auxiliary = first in heads and heads[first] < max(heads.values())
    return (
        "the auxiliary classifier: training at two levels alone uses it"
        if is_auxiliary
        else "a branch of the classifier that the original's forward pass never reaches"
    )


def _main_classifier(state: Mapping[str, Tensor], channels: int) -> str:
    """Find the name of the classifier on the last map: layer6, or layer5 if it is the only one."""
    for head in ("layer6", "layer5"):
        first = f"{head}.conv2d_list.0.weight"
        if first in state and state[first].shape[1] == channels:
            return head
    raise ModelError(f"the checkpoint has no classifier (conv2d_list) of {channels} channels")


def _told_from_branches(state: Mapping[str, Tensor], head: str) -> tuple[Family, str]:
    """Tell AdaptSegNet from ADVENT, which has the same names, by branches that were not trained.

    No gradient reaches the last two branches of AdaptSegNet, so that they still have the standard
    deviation of their initialisation, 0.01.

    Returns:
        Family, and a note on the evidence.
    """
    deviations = []
    for branch in (2, 3):
        weight = wanted(state, f"{head}.conv2d_list.{branch}.weight").double()
        tolerance = max(0.01, 5 / math.sqrt(2 * weight.numel()))
        deviations.append((weight.std().item(), tolerance))
    untrained = all(abs(d / _INITIAL_DEVIATION - 1) < tolerance for d, tolerance in deviations)
    shown = " and ".join(f"{deviation:.5f}" for deviation, _ in deviations)
    if untrained:
        return "adaptsegnet", (
            f"the classifier's branches of dilation 18 and 24 deviate by {shown}, as before any "
            "training (0.01): taken for AdaptSegNet's, whose forward pass leaves them out; "
            "the family advent uses all four"
        )
    return "advent", (
        f"the classifier's branches of dilation 18 and 24 deviate by {shown}, so they were trained "
        "(from 0.01): all four are used, as by ADVENT and DACS; the family adaptsegnet uses two"
    )
