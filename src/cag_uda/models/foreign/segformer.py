"""Read SegFormers and DAFormers of other people's code: a MiT and one of four heads.

Knows the names that transformers, NVIDIA, mmsegmentation and DAFormer save their heads under.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from cag_uda.errors import ModelError
from cag_uda.models.backbones import find_backbone
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.foreign.network import (
    Family,
    Foreign,
    renamed,
    sorted_out,
    unknown_part,
    wanted,
)
from cag_uda.models.mit_names import in_transformers_names, mit_form, mit_parts
from cag_uda.models.transformer_backbones import MixTransformer
from cag_uda.models.weight_files import below

_BACKBONES = ("segformer.", "backbone.")
_HEAD = "decode_head."
_DAFORMER_WIDTH_PX = 1024
"""Width to which the released settings of DAFormer resize images, in training and evaluation."""


class _Layout(NamedTuple):
    """Names and settings of one of the heads."""

    whose: str
    """Code that saves it, in words."""
    family: Family
    told_by: str
    """Name of a tensor that no other head has."""
    decoders: Mapping[int, str]
    """Channels of `told_by` → the decoder here that computes the same."""
    classifier: str
    modules: tuple[tuple[str, str], ...]
    """Modules of the head, as patterns, and what they are called here."""
    coarsest_first: str | None = None
    """Weight of the convolution over all levels, if it takes the coarsest first; here the finest
    comes first."""
    unused: str | None = None
    """Module that is saved although no forward pass uses it."""


_LAYOUTS = (
    _Layout(
        "transformers",
        "segformer",
        "linear_fuse.weight",
        {256: "segformer-published", 768: "segformer-published-768"},
        "classifier",
        (
            (r"linear_(?:c|projections)\.(\d)\.proj", r"decoder.levels.\1"),
            (r"linear_fuse", "decoder.mix.0"),
            (r"batch_norm", "decoder.mix.1"),
        ),
        coarsest_first="linear_fuse.weight",
    ),
    _Layout(
        "NVIDIA's code",
        "segformer",
        "linear_fuse.conv.weight",
        {256: "segformer-published", 768: "segformer-published-768"},
        "linear_pred",
        (
            *((rf"linear_c{level + 1}\.proj", f"decoder.levels.{level}") for level in range(4)),
            (r"linear_fuse\.conv", "decoder.mix.0"),
            (r"linear_fuse\.bn", "decoder.mix.1"),
        ),
        coarsest_first="linear_fuse.conv.weight",
        unused="conv_seg",
    ),
    _Layout(
        "mmsegmentation",
        "segformer",
        "fusion_conv.conv.weight",
        {256: "segformer-mmseg"},
        "conv_seg",
        (
            (r"convs\.(\d)\.conv", r"decoder.levels.\1.0"),
            (r"convs\.(\d)\.bn", r"decoder.levels.\1.1"),
            (r"fusion_conv\.conv", "decoder.mix.0"),
            (r"fusion_conv\.bn", "decoder.mix.1"),
        ),
    ),
    _Layout(
        "DAFormer's code",
        "daformer",
        "fuse_layer.bottleneck.conv.weight",
        {256: "daformer-published"},
        "conv_seg",
        (
            (r"embed_layers\.(\d)\.proj", r"decoder.levels.\1.0"),
            (r"fuse_layer\.aspp_modules\.0\.conv", "decoder.context.0.0"),
            (r"fuse_layer\.aspp_modules\.0\.bn", "decoder.context.0.1"),
            (r"fuse_layer\.aspp_modules\.(\d)\.depthwise_conv\.conv", r"decoder.context.\1.0"),
            (r"fuse_layer\.aspp_modules\.(\d)\.depthwise_conv\.bn", r"decoder.context.\1.1"),
            (r"fuse_layer\.aspp_modules\.(\d)\.pointwise_conv\.conv", r"decoder.context.\1.3"),
            (r"fuse_layer\.aspp_modules\.(\d)\.pointwise_conv\.bn", r"decoder.context.\1.4"),
            (r"fuse_layer\.bottleneck\.conv", "decoder.fuse.0"),
            (r"fuse_layer\.bottleneck\.bn", "decoder.fuse.1"),
        ),
    ),
)


def of_segformer(state: Mapping[str, Tensor], left_out: Mapping[str, str]) -> Foreign | None:
    """Read a MiT with a SegFormer's or DAFormer's head; None if the names are not those.

    Raises ModelError if there is no backbone or decoder here of its form.
    """
    layout = next((each for each in _LAYOUTS if f"{_HEAD}{each.told_by}" in state), None)
    prefix = None if layout is None else _prefix_of(state)
    if layout is None or prefix is None:
        return None

    def part(name: str, tensor: Tensor) -> dict[str, Tensor] | None:
        if name.startswith(prefix):
            found = mit_parts(name.removeprefix(prefix), tensor)
            return found and {f"backbone.network.{each}": value for each, value in found.items()}
        if not name.startswith(_HEAD):
            return None
        inner = name.removeprefix(_HEAD)
        if inner == layout.coarsest_first:
            tensor = torch.cat(tensor.chunk(4, dim=1)[::-1], dim=1)
        # A linear layer on each cell is a 1×1 convolution.
        value = tensor[..., None, None] if tensor.ndim == 2 else tensor
        return renamed(inner, value, (*layout.modules, (layout.classifier, "classifier")))

    def why_not(name: str) -> str:
        if name.startswith("auxiliary_head."):
            return "a second classifier, which training alone uses"
        if layout.unused is not None and name.startswith(f"{_HEAD}{layout.unused}."):
            return "a classifier that the original's forward pass never reaches"
        raise unknown_part(layout.whose, name)

    depths, sizes = mit_form(in_transformers_names(below(state, prefix)))
    config = SegmenterConfig(
        backbone=find_backbone(MixTransformer, {"depths": depths, "hidden_sizes": sizes}),
        decoder=_decoder_row(state, layout),
        norm="shared",
        input_width_px=_DAFORMER_WIDTH_PX if layout.family == "daformer" else None,
    )
    classes = len(wanted(state, f"{_HEAD}{layout.classifier}.weight"))
    notes = _notes(layout)
    return sorted_out(layout.family, config, classes, state, part, why_not, left_out, notes)


def _prefix_of(state: Mapping[str, Tensor]) -> str | None:
    """Find the prefix of the MiT's parameter names; None if there is no MiT."""
    for prefix in _BACKBONES:
        if any(mit_parts(name, tensor) for name, tensor in below(state, prefix).items()):
            return prefix
    return None


def _decoder_row(state: Mapping[str, Tensor], layout: _Layout) -> str:
    width = len(state[f"{_HEAD}{layout.told_by}"])
    if width not in layout.decoders:
        known = " or ".join(map(str, layout.decoders))
        raise ModelError(
            f"the checkpoint's head, of {layout.whose}, has {width} channels; the decoders here "
            f"have {known}; begin with its backbone: segmenter.weights takes this file"
        )
    return layout.decoders[width]


def _notes(layout: _Layout) -> tuple[str, ...]:
    notes = [f"a {layout.family} in the layout of {layout.whose}"]
    if layout.coarsest_first is not None:
        notes.append(f"{layout.coarsest_first}: levels turned from coarsest to finest first")
    if layout.family == "daformer":
        notes.append(
            f"images are brought to {_DAFORMER_WIDTH_PX} px of width before they are looked at, as "
            "in the released settings"
        )
    return tuple(notes)
