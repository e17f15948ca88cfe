"""Optimisers and learning-rate schedules, as a recipe names them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim import Adam, Optimizer

from cag_uda.types import Config


class OptimConfig(Config):
    """The `[stages.optim]` table of a recipe.

    The defaults are AdaptSegNet's for its segmenter (CVPR 2018: SGD 2.5e-4, momentum 0.9, weight
    decay 5e-4, head × 10, poly 0.9), which most of the field uses with ImageNet weights.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=2.5e-4, gt=0)
    """Peak rate of the backbone."""
    head_multiplier: float = Field(default=10.0, gt=0)
    """Rate of decoder and classifier over the backbone's."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD; β₁ of AdamW."""
    weight_decay: float = Field(default=5e-4, ge=0)
    decays_norms: bool = True
    """Let norms and biases, all parameters of one dimension, decay with the rest. SegFormer and
    DAFormer exempt norms."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Rate of each of the backbone's blocks over that of the block after it: the last one learns at
    `learning_rate`, what precedes the first slowest. 1 gives all one rate; 0.65 to 0.9 is usual
    for transformers with published weights (Bao et al., *BEiT*, 2022)."""
    schedule: Literal["poly", "constant"] = "poly"
    power: float = Field(default=0.9, gt=0)
    """Exponent of the poly schedule: rate × (1 − step / horizon) ** power."""
    horizon: int | None = Field(default=None, ge=1)
    """Steps at which the poly schedule reaches zero; None means the stage's steps."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the rate rises linearly from near zero."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of a network's gradient; None does not clip."""

    def factor(self, step: int, steps: int) -> float:
        """Compute the share of the peak rate at a step (0-based) of a stage of `steps` steps."""
        rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.schedule == "constant":
            return rise
        return rise * float(max(0.0, 1 - step / (self.horizon or steps)) ** self.power)


def build_optimizer(
    groups: Mapping[str, Sequence[nn.Parameter]],
    config: OptimConfig,
    layers: Sequence[Sequence[nn.Parameter]] = (),
) -> Optimizer:
    """Make an optimiser over named parameter groups.

    Args:
        groups: parameters by name; the group "head" learns at `head_multiplier` times the rate.
        config: which optimiser and its rates. Each group keeps its peak rate as "peak_rate".
        layers: the parameters of the group "backbone" by depth, the shallowest first; those that
            are in no group do not learn. Looked at where `layer_decay` is below 1.
    """
    described: list[dict[str, Any]] = []
    for name, parameters in groups.items():
        rate = config.learning_rate * (config.head_multiplier if name == "head" else 1.0)
        parts = {name: (list(parameters), rate)}
        if name == "backbone" and config.layer_decay < 1:
            parts = _by_depth(parameters, layers, config)
        described += [
            {"params": some, "lr": rate, "peak_rate": rate, "name": label, **settings}
            for label, (part, rate) in parts.items()
            for some, settings in _by_decay(part, config)
            if some
        ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            described, betas=(config.momentum, 0.999), weight_decay=config.weight_decay, fused=True
        )
    # Not fused: torch's leaves the momentum undefined where the first step in float16 overflows.
    return torch.optim.SGD(described, momentum=config.momentum, weight_decay=config.weight_decay)


def _by_decay(
    parameters: Sequence[nn.Parameter], config: OptimConfig
) -> list[tuple[list[nn.Parameter], dict[str, float]]]:
    """Split parameters into those that decay and those that do not, with their settings."""
    if config.decays_norms:
        return [(list(parameters), {})]
    return [
        ([each for each in parameters if each.ndim > 1], {}),
        ([each for each in parameters if each.ndim <= 1], {"weight_decay": 0.0}),
    ]


def _by_depth(
    parameters: Sequence[nn.Parameter],
    layers: Sequence[Sequence[nn.Parameter]],
    config: OptimConfig,
) -> dict[str, tuple[list[nn.Parameter], float]]:
    """Give the learning parameters and rate of each layer by name, the deepest first.

    The log shows the rate of the first group.
    """
    learning = {id(parameter) for parameter in parameters}
    parts = {}
    for above, layer in enumerate(reversed(layers)):
        kept = [parameter for parameter in layer if id(parameter) in learning]
        learning -= {id(parameter) for parameter in kept}
        rate = config.learning_rate * config.layer_decay**above
        parts[f"backbone-{len(layers) - 1 - above}"] = (kept, rate)
    if learning:
        raise ValueError("layers must hold every parameter of the backbone")
    return parts


def build_discriminator_optimizer(discriminator: nn.Module, learning_rate: float) -> Optimizer:
    """Make a discriminator's optimiser: Adam, betas 0.9 and 0.99, no weight decay.

    The rate is the peak: the stage's schedule applies to it too.

    Source: Tsai et al., *AdaptSegNet*, CVPR 2018, and its released code.
    """
    parameters = list(discriminator.parameters())
    group = {"params": parameters, "lr": learning_rate, "peak_rate": learning_rate}
    return Adam([group], betas=(0.9, 0.99), fused=True)
