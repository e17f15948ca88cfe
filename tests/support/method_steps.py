"""Methods with small settings, and single steps of them."""

from typing import Any

import torch
from torch import Tensor

from cag_uda.methods import METHODS, Method, MethodConfig
from cag_uda.methods.optim import OptimConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import Batch, Losses
from tests.support.batches import make_passes

OPTIM = OptimConfig(learning_rate=0.01, head_multiplier=1.0)


CLEAREST = {"kind": "clearest", "value": 0.5}
KINDS = ["anchor", "confidence", "intersection"]
ALL_KINDS = {"labels": KINDS, "confidence": 0.2775}
ACTIVE: dict[str, dict[str, Any]] = {
    "dacs": {"confidence": 0.2775},
    "cag": {
        **ALL_KINDS,
        "labels": [*KINDS, "adapted"],
        "adapted_confidence": 0.36,
        "colour_transfer": True,
        "margin": CLEAREST,
    },
    "cag-released": {**ALL_KINDS, "margin": {"value": 0.05}, "min_pixels": 2},
    "cag-plus-source-free": {"confidence": 0.2775},
    "cag-plus": {"confidence": 0.2775},
}
"""Settings with which a network with random weights labels a part of the target, by method."""


def settings_of(name: str) -> MethodConfig:
    """Settings of a method with which pseudo-labels are active, if it has any."""
    return METHODS[name].Config.model_validate({"name": name, **ACTIVE.get(name, {})})


def make(name: str, segmenter: Segmenter, **changes: object) -> Method:
    """A method with such settings, some changed, prepared."""
    torch.manual_seed(1)
    settings = settings_of(name)
    changed = type(settings).model_validate({**settings.model_dump(), **changes})
    method = METHODS[name](segmenter, changed)
    method.prepare(make_passes())
    return method.train()


def gradients(method: Method, batch: Batch, *, early: bool) -> dict[str, Tensor]:
    """Gradients of a step, each yield backpropagated at once, or all summed at the end."""
    torch.manual_seed(0)
    kept: list[Losses] = []
    for losses in method.losses(batch):
        if early:
            torch.stack(list(losses.values())).sum().backward()
        else:
            kept.append(losses)
    if kept:
        torch.stack([loss for losses in kept for loss in losses.values()]).sum().backward()
    return {
        f"{name}.{key}": parameter.grad
        for name, network in method.networks().items()
        for key, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def step(method: Method, batch: Batch) -> dict[str, float]:
    torch.manual_seed(0)
    optimizers = method.optimizers(OPTIM)
    seen: dict[str, float] = {}
    for losses in method.losses(batch):
        assert not seen.keys() & losses.keys(), "each loss has its own name"
        torch.stack(list(losses.values())).sum().backward()
        seen |= {name: loss.item() for name, loss in losses.items()}
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    return seen
