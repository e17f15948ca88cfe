"""Checkpoints of other people's code: which network they are of, and where each tensor goes.

Knows the names that the released code of CAG-UDA, AdaptSegNet, ADVENT and DACS saves under, and
what their networks expect of an image; reads files through `weight_files`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from cag_uda.errors import ModelError
from cag_uda.models.backbones import find_resnet
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.published import resnet_depths, transformers_name
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.weight_files import (
    fill,
    is_state_dict,
    outline,
    read_torch_file,
    tensor_names,
)

Family: TypeAlias = Literal["cag", "adaptsegnet", "advent", "dacs"]
"""Whose code saved a checkpoint."""

# BGR, of images in 0 … 255; the released code of AdaptSegNet, ADVENT and DACS.
_CAFFE_MEAN = (104.00698793, 116.66876762, 122.67891434)
_INITIAL_DEVIATION = 0.01
"""Of the weights of an AdaptSegNet classifier before training."""

_V3PLUS_MODULES = {
    **{f"aspp.aspp{i + 1}.atrous_conv": f"decoder.aspp.branches.{i}.0" for i in range(4)},
    **{f"aspp.aspp{i + 1}.bn": f"decoder.aspp.branches.{i}.1" for i in range(4)},
    "aspp.global_avg_pool.1": "decoder.aspp.pooled.1.0",
    "aspp.global_avg_pool.2": "decoder.aspp.pooled.1.1",
    "aspp.conv1": "decoder.aspp.project.0.0",
    "aspp.bn1": "decoder.aspp.project.0.1",
    "decoder.conv1": "decoder.details.0",
    "decoder.bn1": "decoder.details.1",
    "decoder.last_conv.0": "decoder.refine.0.0",
    "decoder.last_conv.1": "decoder.refine.0.1",
    "decoder.last_conv.4": "decoder.refine.2.0",
    "decoder.last_conv.5": "decoder.refine.2.1",
    "decoder.last_conv.8": "classifier",
}
"""Modules of the released CAG-UDA network beside its backbone, and what they are called here."""


_ITS_BACKBONE = "give its backbone alone as segmenter.weights"
_OTHERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("decode_head.", "backbone.patch_embed1."),
        "mmsegmentation's with a MiT (SegFormer, DAFormer, HRDA or MIC)",
        'train one of that form here: backbone = "mit-b5" and decoder = "daformer"',
    ),
    (("decode_head.conv_seg.",), "mmsegmentation's", _ITS_BACKBONE),
    (
        ("segformer.encoder.", "decode_head."),
        "a SegFormer of transformers",
        'begin with its backbone: backbone = "mit-b0" … "mit-b5", and its hub id as weights',
    ),
    (("segmentation_head.", "encoder."), "of segmentation_models_pytorch", _ITS_BACKBONE),
    (("classifier.0.convs.", "backbone."), "a DeepLab v3 of torchvision", _ITS_BACKBONE),
)
"""Parts of tensors' names, all of which somebody's checkpoints have; whose they are; what to do."""


@dataclass(frozen=True)
class Foreign:
    """A network out of somebody else's checkpoint, in this package's names."""

    family: Family
    config: SegmenterConfig
    num_classes: int
    tensors: dict[str, Tensor]
    """By the names of `Segmenter`."""
    placed: dict[str, str]
    """Name in the checkpoint → name in `Segmenter`."""
    left_out: dict[str, str]
    """Name in the checkpoint of everything else → why it is not needed."""
    notes: tuple[str, ...] = ()
    """What was inferred or converted."""

    def build(self, classes: Classes) -> Segmenter:
        """The network, in evaluation mode.

        Raises:
            ModelError: if a tensor is missing or misshapen, or the classes are not as many.
        """
        if len(classes.names) != self.num_classes:
            raise ModelError(
                f"the checkpoint tells {self.num_classes} classes apart, not {len(classes.names)}; "
                "name a domain that has its classes"
            )
        segmenter = Segmenter(self.config, classes)
        fill(segmenter, self.tensors, "the checkpoint")
        return segmenter.eval()


def read_foreign(path: Path, family: Family | None = None) -> Foreign:
    """Read a checkpoint of the released code of CAG-UDA, AdaptSegNet, ADVENT or DACS.

    Args:
        path: of the file.
        family: whose it is; None tells it from the names and, where two have the same (AdaptSegNet
            and ADVENT), from whether the classifier's last branches were ever trained.

    Raises:
        ModelError: if it is missing, damaged, wants to run code, or is none of these.
    """
    if family not in (None, *get_args(Family)):
        raise ModelError(f"the family is one of {', '.join(get_args(Family))}, got {family!r}")
    state, left_out = _network_in(read_torch_file(path), path)
    is_cag = any(name.startswith("aspp.aspp1.") for name in state)
    if not is_cag and not any(".conv2d_list." in name for name in state):
        raise ModelError(
            f"{path} is no checkpoint of CAG-UDA, AdaptSegNet, ADVENT or DACS{_what_it_is(state)}"
        )
    if is_cag != (family == "cag") and family is not None:
        looks = "DeepLab v3+ as CAG-UDA's" if is_cag else "DeepLab v2 as AdaptSegNet's"
        raise ModelError(f"{path} is a {looks}, not of the family {family}; leave the family out")
    return _of_cag(state, left_out) if is_cag else _of_v2(state, left_out, family)


def _what_it_is(state: Mapping[str, Tensor]) -> str:
    """Whose checkpoint one is that is none of these, by the names of its tensors, and advice."""
    for parts, whose, advice in _OTHERS:
        if all(any(part in name for name in state) for part in parts):
            return f": by its names it is {whose}, which import does not take; {advice}"
    names = ", ".join(name[:80] for name in list(state)[:6])
    return f": its tensors are called {names}, …; give a file that their released code wrote"


def _network_in(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict of the network inside a checkpoint, and all that lies beside it."""
    prefix, inside = "", content
    left_out: dict[str, str] = {}
    for key in ("DeepLab", "model_state", "state_dict", "model"):
        if isinstance(inside, Mapping) and isinstance(inside.get(key), Mapping):
            for other, value in inside.items():
                if other != key:
                    why = "a second network" if is_state_dict(value) else "state of the training"
                    names = list(tensor_names(value, f"{prefix}{other}"))
                    left_out |= dict.fromkeys(names or [f"{prefix}{other}"], why)
            prefix, inside = f"{prefix}{key}.", inside[key]
    if not is_state_dict(inside):
        raise ModelError(
            f"{path} holds no network: want tensors by name, alone or below DeepLab.model_state or "
            f"model, got {outline(inside)}"
        )
    parallel = all(name.startswith("module.") for name in inside)
    return {n.removeprefix("module.") if parallel else n: t for n, t in inside.items()}, left_out


def _of_cag(state: Mapping[str, Tensor], left_out: dict[str, str]) -> Foreign:
    """The released DeepLab v3+: RGB / 255, multi-grid 1, 2, 4, batch norm that was trained."""
    backbone = {
        name.removeprefix("backbone."): tensor
        for name, tensor in state.items()
        if name.startswith("backbone.")
    }
    config = SegmenterConfig(
        backbone=_backbone_row(backbone, is_caffe=False),
        decoder="deeplab-v3plus",
        output_stride=16,
        multi_grid=(1, 2, 4),
        align_corners=True,
        norm="shared",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )

    def our_name(name: str) -> str | None:
        if name.startswith("backbone."):
            return _in_backbone(name.removeprefix("backbone."))
        module, _, leaf = name.rpartition(".")
        return f"{_V3PLUS_MODULES[module]}.{leaf}" if module in _V3PLUS_MODULES else None

    classifier = _wanted(state, "decoder.last_conv.8.weight")
    return _sorted_out("cag", config, len(classifier), state, our_name, left_out)


def _of_v2(state: Mapping[str, Tensor], left_out: dict[str, str], family: Family | None) -> Foreign:
    """DeepLab v2 of AdaptSegNet and its successors: BGR 0 … 255 minus a mean, frozen batch norm."""
    row = _backbone_row(state, is_caffe=True)
    channels = _wanted(state, f"layer4.{resnet_depths(state)[-1] - 1}.conv3.weight").shape[0]
    head = _main_classifier(state, channels)
    note = ""
    if family is None:
        family, note = _told_from_branches(state, head)
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

    def our_name(name: str) -> str | None:
        if not name.startswith(f"{head}.conv2d_list."):
            return _in_backbone(name)
        branch, leaf = name.split(".")[2:]
        return f"classifier.branches.{branch}.{leaf}" if int(branch) < used else None

    num_classes = _wanted(state, f"{head}.conv2d_list.0.weight").shape[0]
    # The network's input channels are blue, green, red; ours are red, green, blue. Turning the
    # first convolution round says the same.
    turned = {**state, "conv1.weight": _wanted(state, "conv1.weight").flip(1)}
    found = _sorted_out(family, config, num_classes, turned, our_name, left_out)
    bgr = "conv1.weight: input channels turned from BGR to RGB"
    return replace(found, notes=tuple(filter(None, (bgr, note))))


def _sorted_out(
    family: Family,
    config: SegmenterConfig,
    num_classes: int,
    state: Mapping[str, Tensor],
    our_name: Callable[[str], str | None],
    left_out: Mapping[str, str],
) -> Foreign:
    """Every tensor of the network under its name here, or with the reason why it has none."""
    placed = {name: ours for name in state if (ours := our_name(name)) is not None}
    rest = {name: _why_not(name, state) for name in state if name not in placed}
    tensors = {ours: state[name] for name, ours in placed.items()}
    return Foreign(family, config, num_classes, tensors, placed, {**rest, **left_out})


def _why_not(name: str, state: Mapping[str, Tensor]) -> str:
    if ".conv2d_list." not in name:
        return "no part of this network's computation"
    first = f"{name.split('.')[0]}.conv2d_list.0.weight"
    is_auxiliary = first in state and state[first].shape[1] < _widest(state)
    return (
        "the auxiliary classifier: training at two levels alone uses it"
        if is_auxiliary
        else "a branch of the classifier that the original's forward pass never reaches"
    )


def _widest(state: Mapping[str, Tensor]) -> int:
    """Channels that the classifier on the last map takes."""
    heads = [t.shape[1] for name, t in state.items() if name.endswith(".conv2d_list.0.weight")]
    return max(heads)


def _main_classifier(state: Mapping[str, Tensor], channels: int) -> str:
    """The name of the classifier on the backbone's last map: layer6, or layer5 if it is alone."""
    for head in ("layer6", "layer5"):
        first = f"{head}.conv2d_list.0.weight"
        if first in state and state[first].shape[1] == channels:
            return head
    raise ModelError(f"the checkpoint has no classifier (conv2d_list) of {channels} channels")


def _told_from_branches(state: Mapping[str, Tensor], head: str) -> tuple[Family, str]:
    """AdaptSegNet and ADVENT save under the same names; only the first leaves branches untrained.

    Its last two branches, which no gradient ever reached, are still what they were drawn from: a
    normal distribution of deviation 0.01.
    """
    deviations = []
    for branch in (2, 3):
        weight = _wanted(state, f"{head}.conv2d_list.{branch}.weight").double()
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


def _backbone_row(state: Mapping[str, Tensor], *, is_caffe: bool) -> str:
    """The row of `BACKBONES` that a ResNet's tensors, in torchvision's layout, are of."""
    depths = resnet_depths(state)
    is_bottleneck = any(".conv3." in name for name in state)
    last = "conv3" if is_bottleneck else "conv2"
    sizes = [_wanted(state, f"layer{i}.0.{last}.weight").shape[0] for i in range(1, 5)]
    stem = _wanted(state, "conv1.weight").shape[0]
    layer = "bottleneck" if is_bottleneck else "basic"
    return find_resnet(depths, layer, sizes, stem, is_caffe=is_caffe)


def _in_backbone(name: str) -> str | None:
    known = transformers_name(name)
    return None if known is None else f"backbone.network.{known}"


def _wanted(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ModelError(f"the checkpoint has no tensor {name}, which its network needs")
    return state[name]
