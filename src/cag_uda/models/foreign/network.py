"""A network read from a checkpoint of other people's code, under the names of this package."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from cag_uda.errors import ModelError
from cag_uda.models.backbones import find_backbone
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.published import resnet_depths, transformers_name
from cag_uda.models.resnet import ResNet
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.weight_files import fill

Family: TypeAlias = Literal[
    "cag", "adaptsegnet", "advent", "dacs", "segformer", "daformer", "torchvision", "smp"
]
"""Code that saved a checkpoint; a SegFormer may be of transformers, NVIDIA or mmsegmentation, and
smp is segmentation_models_pytorch."""

Part: TypeAlias = Callable[[str, Tensor], "dict[str, Tensor] | None"]
"""Function from the name and value of a checkpoint's tensor to tensors by their names in
`Segmenter`; None for a tensor that has no place there."""


class ForeignClass(NamedTuple):
    """A class that a checkpoint names."""

    name: str
    color: tuple[int, int, int] | None = None
    """8-bit RGB."""


@dataclass(frozen=True)
class Foreign:
    """A network out of somebody else's checkpoint, in this package's names."""

    family: Family
    config: SegmenterConfig
    num_classes: int
    tensors: dict[str, Tensor]
    """Tensors by their names in `Segmenter`."""
    placed: dict[str, str]
    """Name in the checkpoint → name in `Segmenter`."""
    left_out: dict[str, str]
    """Name in the checkpoint of everything else → why it is not needed."""
    notes: tuple[str, ...] = ()
    """Notes on what was inferred or converted."""
    classes: tuple[ForeignClass, ...] = ()
    """The classes as the checkpoint names them; empty where it does not."""

    def build(self, classes: Classes) -> Segmenter:
        """Build the network, in evaluation mode.

        Raises ModelError if a tensor is missing or misshapen, or the classes are not as many.
        """
        if len(classes.names) != self.num_classes:
            raise ModelError(
                f"the checkpoint tells {self.num_classes} classes apart, not {len(classes.names)}; "
                "name a domain that has its classes"
            )
        segmenter = Segmenter(self.config, classes)
        fill(segmenter, self.tensors, "the checkpoint")
        return segmenter.eval()


def sorted_out(
    family: Family,
    config: SegmenterConfig,
    num_classes: int,
    state: Mapping[str, Tensor],
    part: Part,
    why_not: Callable[[str], str],
    left_out: Mapping[str, str],
    notes: tuple[str, ...] = (),
) -> Foreign:
    """Rename every tensor of a network by `part`, or note by `why_not` why it is left out.

    `why_not` gets the tensor's name and may raise ModelError; `left_out` has the name and the
    reason of everything else in the file.
    """
    placed: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    rest: dict[str, str] = {}
    for name, tensor in state.items():
        parts = part(name, tensor)
        if parts is None:
            rest[name] = why_not(name)
        else:
            placed[name] = ", ".join(parts)
            tensors |= parts
    return Foreign(family, config, num_classes, tensors, placed, {**rest, **left_out}, notes)


def unknown_part(whose: str, name: str) -> ModelError:
    """Make the error for a tensor that no network of this code that can be built here has."""
    return ModelError(
        f"the checkpoint is a network of {whose} with {name[:200]}, which none here has; begin "
        "with its backbone: segmenter.weights takes this file"
    )


def wanted(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a tensor of a checkpoint. Raises ModelError if it is missing."""
    if name not in state:
        raise ModelError(f"the checkpoint has no tensor {name}, which its network needs")
    return state[name]


def renamed(
    name: str, tensor: Tensor, modules: Iterable[tuple[str, str]]
) -> dict[str, Tensor] | None:
    """Rename a tensor by the first pattern that its module matches; None if none does."""
    module, _, leaf = name.rpartition(".")
    for pattern, ours in modules:
        if found := re.fullmatch(pattern, module):
            return {f"{found.expand(ours)}.{leaf}": tensor}
    return None


def resnet_row(state: Mapping[str, Tensor], kind: type[ResNet]) -> str:
    """Find the row of `BACKBONES` with a ResNet's tensors, named as by torchvision.

    The class decides strides and dilation: the weights do not tell them. Raises ModelError if there
    is none, or a tensor is missing.
    """
    is_bottleneck = any(".conv3." in name for name in state)
    last = "conv3" if is_bottleneck else "conv2"
    form = {
        "depths": resnet_depths(state),
        "layer_type": "bottleneck" if is_bottleneck else "basic",
        "hidden_sizes": [len(wanted(state, f"layer{i}.0.{last}.weight")) for i in range(1, 5)],
        "embedding_size": len(wanted(state, "conv1.weight")),
    }
    return find_backbone(kind, form)


def in_backbone(name: str, tensor: Tensor) -> dict[str, Tensor] | None:
    """Rename a tensor from torchvision's layout to a segmenter's; None if no backbone has it."""
    known = transformers_name(name)
    return None if known is None else {f"backbone.network.{known}": tensor}
