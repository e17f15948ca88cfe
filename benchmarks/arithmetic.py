"""Count the arithmetic of the recipes for Cityscapes, and estimate the time that a device needs.

Run: python benchmarks/arithmetic.py [--tflops N]

An estimate before anything has been measured on a device; `cag-uda plan` measures. The operations
of convolutions and matrix products are counted, on torch's meta device, where nothing is computed:
a forward pass at the recipe's crops, and twice as many for a backward pass. What is left out
(sweeps, evaluation, loading, norms, resizing) comes on top; so does what keeps a device from the
rate that is assumed.
"""

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cag_uda.methods.base import MethodConfig
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.models.config import Classes
from cag_uda.models.discriminator import Discriminator
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe, builtin_recipes, load_recipe

STUDENT = 2 * 3
"""Forward passes that the student's cost equals: source and target, with their backward passes."""
DISCRIMINATOR = 2 + 2 * 3
"""Forward passes of a discriminator that its cost equals: two on the target, only for the gradient
of its input, and those on both domains by which it learns."""


def forward_tflop(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Operations, in 10¹², of a forward pass of a network on the meta device; a sum is one too."""
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(shape, device="meta"))
    operations: int = counter.get_total_flops()
    return operations / 1e12


def step_tflop(recipe: Recipe) -> dict[str, float]:
    """Operations of a step, in 10¹², by stage."""
    count, size = len(recipe.classes or range(19)), recipe.loading.crop_px
    colours = tuple((index, index, index) for index in range(count))
    classes = Classes(names=tuple(f"class-{index}" for index in range(count)), palette=colours)
    with torch.device("meta"):
        segmenter = Segmenter(recipe.segmenter.model_copy(update={"weights": None}), classes)
        discriminator = Discriminator.of(segmenter, None)
    batch = recipe.loading.batch_size
    whole = forward_tflop(segmenter, (batch, 3, *size))
    backbone = forward_tflop(segmenter.backbone, (batch, 3, *size))
    judge = forward_tflop(discriminator, (batch, count, *size))

    def of(method: MethodConfig) -> float:
        if method.name == "adversarial":
            return STUDENT * whole + DISCRIMINATOR * judge
        # A frozen network, or a teacher, labels the target.
        rest = backbone if isinstance(method, CAGPlusConfig) and method.initial.weight else 0.0
        return (STUDENT + 1) * whole + rest

    return {stage.name: of(stage.method) for stage in recipe.stages}


def main() -> None:
    """Print a row a stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tflops", type=float, default=50.0, help="10¹² operations a second")
    rate = parser.parse_args().tflops
    table = Table("recipe", "stage", title=f"at {rate:g} TFLOP/s sustained")
    for heading in ("steps", "TFLOP a step", "hours"):
        table.add_column(heading, justify="right")
    for name in builtin_recipes():
        if "-cityscapes" not in name:
            continue
        recipe, total_h = load_recipe(name), 0.0
        tflop = step_tflop(recipe)
        for stage in recipe.stages:
            hours = stage.steps * tflop[stage.name] / rate / 3600
            total_h += hours
            table.add_row(
                name, stage.name, f"{stage.steps:,}", f"{tflop[stage.name]:.1f}", f"{hours:.1f}"
            )
        table.add_row("", "in all", "", "", f"{total_h:.0f}", end_section=True)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
