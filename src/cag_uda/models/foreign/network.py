"""A network read from a checkpoint of other people's code, under the names of this package.

Knows none of that code.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from cag_uda.errors import ModelError
from cag_uda.models.config import Classes, SegmenterConfig
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


def sorted_out(
    family: Family,
    config: SegmenterConfig,
    num_classes: int,
    state: Mapping[str, Tensor],
    part: Part,
    why_not: Callable[[str], str],
    left_out: Mapping[str, str],
) -> Foreign:
    """Rename every tensor of a network, or note the reason why it is left out.

    Args:
        family: code that saved it.
        config: of the network here.
        num_classes: K.
        state: the network's tensors by their names in the checkpoint.
        part: renames one of them; None for one that has no place here.
        why_not: gives the reason for leaving out the tensor of a name; may raise ModelError.
        left_out: name → reason of everything else in the file.
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
    return Foreign(family, config, num_classes, tensors, placed, {**rest, **left_out})


def wanted(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a tensor of a checkpoint. Raises ModelError if it is missing."""
    if name not in state:
        raise ModelError(f"the checkpoint has no tensor {name}, which its network needs")
    return state[name]
