"""Activation checkpointing: parts of a network keep their inputs alone and compute again backwards.

Memory for time: about a third more of it for a whole backbone. Losses, gradients and running
statistics are those of the network without it.

Source: Chen, Xu, Zhang, Guestrin, *Training Deep Nets with Sublinear Memory Cost*, 2016; the
wrapper is torch's.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    _CHECKPOINT_WRAPPED_MODULE as _WRAPPED,
)
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointWrapper,
    checkpoint_wrapper,
)
from torch.nn.modules.batchnorm import _BatchNorm

from cag_uda.errors import ModelError
from cag_uda.models.segmenter import Segmenter

BLOCKS = "blocks"
"""Stands for each block of the backbone, whatever the family calls them."""


def recompute(segmenter: Segmenter, names: Sequence[str]) -> None:
    """Let parts of a segmenter, in place, keep nothing but their inputs for the backward pass.

    Parts are named as modules, with `*` for anything, or `BLOCKS`; of modules within each other the
    outermost counts. Tensors keep their names. A second call changes nothing. Raises ModelError if
    a name is that of no module.
    """
    for name in names:
        for place in _outermost(segmenter, name):
            module = segmenter.get_submodule(place)
            if not (isinstance(module, CheckpointWrapper) or _WRAPPED in place):
                parent, _, child = place.rpartition(".")
                wrapped = checkpoint_wrapper(module, context_fn=partial(_contexts, module))
                setattr(segmenter.get_submodule(parent), child, wrapped)


def check_names(segmenter: Segmenter, names: Sequence[str]) -> None:
    """Raise ModelError if one of `names`, as `recompute` takes them, is that of no module."""
    for name in names:
        _outermost(segmenter, name)


def _outermost(segmenter: Segmenter, name: str) -> list[str]:
    """Find the full names of the modules that are meant."""
    named = dict(segmenter.named_modules())
    if name == BLOCKS:
        kinds = segmenter.backbone.blocks
        found = [each for each, module in named.items() if isinstance(module, kinds)]
    else:
        found = [each for each in named if each and fnmatchcase(each, name)]
    if not found:
        some = ", ".join(each for each in named if each and each.count(".") < 2)
        raise ModelError(
            f"compute.checkpointing names {name!r}, which is no part of this network; write "
            f'"{BLOCKS}" for the blocks of the backbone, or a name, with * for anything, of: {some}'
        )
    return [each for each in found if not any(each.startswith(f"{other}.") for other in found)]


def _contexts(
    module: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Give the contexts of the forward pass and of its repetition."""
    return nullcontext(), _without_memory(module)


@contextmanager
def _without_memory(module: nn.Module) -> Iterator[None]:
    """Let batch norms in training normalise by their batch and keep running statistics.

    These have seen, and counted, the batch already.
    """
    norms = [each for each in module.modules() if isinstance(each, _BatchNorm) and each.training]
    momenta = [norm.momentum for norm in norms]
    counts = [cast(Tensor, norm.num_batches_tracked).clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            cast(Tensor, norm.num_batches_tracked).copy_(count)
