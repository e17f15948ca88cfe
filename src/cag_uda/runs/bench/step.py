"""Cost of category anchors in a training step, and of CAG-plus over DACS.

The same step is taken with CAG and without its anchors, pseudo-labels and distance losses: the same
two forward and backward passes of the student, the labeller's forward pass, the optimiser.
"""

import copy
import gc
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from cag_uda.methods.base import Method, MethodConfig
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_plus import CAGPlus
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.methods.dacs import DACS, DACSConfig
from cag_uda.methods.margin_fitting import MarginConfig
from cag_uda.methods.optim import OptimConfig
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.recomputing import recompute
from cag_uda.models.segmenter import Segmenter
from cag_uda.runs.bench.noise import noise, stepper
from cag_uda.runs.bench.timing import Row, interleaved_s, median_ratio
from cag_uda.training.compute import (
    launch,
    memory_format,
    resolve,
    set_memory_format,
    with_precision,
)
from cag_uda.training.memory import PeakMemory
from cag_uda.training.settings import ComputeConfig, StageSettings
from cag_uda.types import Batch, Losses


@dataclass(frozen=True)
class Size:
    """A network and the crops that it is trained on."""

    name: str
    segmenter: SegmenterConfig
    batch: int
    crop_px: tuple[int, int]
    num_classes: int


SIZES = (
    Size(
        "demo",
        SegmenterConfig(backbone="efficientnet-lite0", decoder="light", output_stride=32),
        4,
        (72, 144),
        11,
    ),
    Size(
        "camvid",
        SegmenterConfig(backbone="efficientnet-lite0", decoder="light", output_stride=32),
        4,
        (120, 160),
        11,
    ),
    Size("resnet-101", SegmenterConfig(backbone="resnet-101"), 2, (256, 512), 19),
)
"""The demo's and CamVid's recipes, and the paper's network at a size that a CPU can bear."""


class Bare(Method):
    """A stage's step without CAG's parts: the target is trained on labels that cost nothing.

    Args:
        segmenter: the network to train.
        config: no settings.
    """

    Config = MethodConfig

    def __init__(self, segmenter: Segmenter, config: MethodConfig) -> None:
        super().__init__(segmenter, config)
        self.labeller = copy.deepcopy(segmenter).requires_grad_(False).eval()

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yields {source/ce}, {target/ce}."""
        source = self.student(batch.source.image, "source")
        yield {"source/ce": self.cross_entropy(source.logits, batch.source.label)}
        grid = self.frozen(self.labeller, batch.target.plain, "target").logits
        target = self.student(batch.target.image, "target")
        label = self.segmenter.on_grid(batch.source.label, grid)
        yield {"target/ce": self.cross_entropy(target.logits, label)}


Made = Callable[[Segmenter], Method]
"""Makes a method of a network, which it trains."""


def overhead(size: Size, compute: ComputeConfig, rounds: int) -> Row:
    """Time of a CAG step over the same step without the method.

    Args:
        size: network and crops.
        compute: device and precision; what is "auto" is resolved for this size.
        rounds: of one step each.

    Returns:
        The row; the wanted bound is 1.05.
    """
    margin = MarginConfig(kind="relative", value=0.1)
    figure = _ratio(
        size,
        compute,
        rounds,
        lambda segmenter: CAG(segmenter, CAGConfig(margin=margin)),
        lambda segmenter: Bare(segmenter, MethodConfig(name="bare")),
    )
    what = f"CAG step / step without it, {_told(size)}"
    return Row("step", what, figure, "× the bare step", at_most=1.05)


def plus_over_dacs(size: Size, compute: ComputeConfig, rounds: int) -> list[Row]:
    """Time and peak memory of CAG-plus steps over those of DACS; arguments as `overhead`.

    Returns:
        Two rows; the wanted bounds are 1.10 and 1.15.
    """
    pair = (
        lambda segmenter: CAGPlus(segmenter, CAGPlusConfig()),
        lambda segmenter: DACS(segmenter, DACSConfig()),
    )
    what = f"CAG-plus step / DACS step, {_told(size)}"
    time = _ratio(size, compute, rounds, *pair)
    memory = _memory_ratio(size, compute, max(1, rounds // 5), *pair)
    return [
        Row("plus", what, time, "× the DACS step", at_most=1.10),
        Row("plus", f"peak memory, {what}", memory, "× that of DACS", at_most=1.15),
    ]


def _ratio(size: Size, compute: ComputeConfig, rounds: int, over: Made, under: Made) -> float:
    """Time of one method's step over another's, for copies of one network."""
    bench = StepBench(size, compute)
    steps = {"over": bench.stepper(over), "under": bench.stepper(under)}
    times = interleaved_s(steps, rounds, bench.fabric.device)
    return median_ratio(times["over"], times["under"])


def _memory_ratio(
    size: Size, compute: ComputeConfig, rounds: int, over: Made, under: Made
) -> float:
    """Compare peak memory of two methods, beside what is held already."""
    bench = StepBench(size, compute)
    needs: dict[Made, list[float]] = {over: [], under: []}
    bench.need_mib(under)  # Warms up: memory that a process allocates once counts for no method.
    for _ in range(rounds):
        for made in needs:
            needs[made].append(bench.need_mib(made))
    least = statistics.median(needs[under])
    # A network may be too small to need memory beyond what the process already holds.
    return statistics.median(needs[over]) / least if least else math.nan


class StepBench:
    """One network and one batch, on which methods take steps as in the training loop.

    Args:
        size: network and crops; weights and pixels are random.
        compute: device, precision, checkpointing; what is "auto" is resolved for this size.

    Raises:
        UserError: if a GPU is asked for and there is none.
    """

    def __init__(self, size: Size, compute: ComputeConfig) -> None:
        torch.manual_seed(0)
        colours = tuple((index, index, index) for index in range(size.num_classes))
        names = tuple(f"class-{index}" for index in range(size.num_classes))
        self.segmenter = Segmenter(size.segmenter, Classes(names=names, palette=colours))
        self.compute = resolve(compute, self.segmenter, size.crop_px, size.batch)
        self.fabric = with_precision(launch(self.compute), self.compute)
        self.batch = noise(size.batch, size.crop_px, size.num_classes, self.fabric.device)

    def stepper(self, made: Made) -> Callable[[], object]:
        """Make a function that takes one step of a method, which trains a copy of the network."""
        fabric, batch = self.fabric, self.batch
        method = made(copy.deepcopy(self.segmenter)).to(fabric.device)
        recompute(method.segmenter, self.compute.checkpointing)
        set_memory_format(method, memory_format(self.compute))
        optim = OptimConfig(optimizer="adamw", learning_rate=1e-4, clip_norm=1.0)
        settings = StageSettings(name="bench", steps=1_000_000, optim=optim)
        return stepper(method, settings, self.compute, fabric, batch)

    def need_mib(self, made: Made) -> float:
        """Measure a method's networks and three steps: peak memory less what was held before."""
        gc.collect()
        memory = PeakMemory(self.fabric.device)
        held_mib = memory.mib()
        step = self.stepper(made)
        for _ in range(3):
            step()
        return memory.mib() - held_mib


def _told(size: Size) -> str:
    height, width = size.crop_px
    return f"{size.name}, {size.batch}+{size.batch} of {height}×{width}"
