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
from lightning.fabric import Fabric

from cag_uda.methods.base import Method, MethodConfig, Passes
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
from cag_uda.runs.bench.timing import Row, interleaved_s, median_ratio
from cag_uda.training.compute import (
    launch,
    memory_format,
    resolve,
    set_memory_format,
    with_precision,
)
from cag_uda.training.memory import PeakMemory
from cag_uda.training.processes import Processes
from cag_uda.training.settings import ComputeConfig, StageSettings
from cag_uda.training.step import Trainer, train_step
from cag_uda.types import Batch, Labelled, Losses, Unlabelled


@dataclass(frozen=True)
class Size:
    """A network and the crops that it is trained on."""

    name: str
    segmenter: SegmenterConfig
    batch: int
    crop_px: tuple[int, int]
    num_classes: int


_LIGHT = SegmenterConfig(backbone="efficientnet-lite0", decoder="light", output_stride=32)
SIZES = (
    Size("demo", _LIGHT, 4, (72, 144), 11),
    Size("camvid", _LIGHT, 4, (120, 160), 11),
    Size("resnet-101", SegmenterConfig(backbone="resnet-101"), 2, (256, 512), 19),
)
"""The demo's and CamVid's recipes, and the paper's network at a size that a CPU can bear."""


class Bare(Method):
    """A stage's step without CAG's parts: the target is trained on labels that cost nothing."""

    Config = MethodConfig

    def __init__(self, segmenter: Segmenter, config: MethodConfig) -> None:
        super().__init__(segmenter, config)
        self.labeller = copy.deepcopy(segmenter).requires_grad_(False).eval()

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {source/ce}, {target/ce}."""
        source = self.student(batch.source.image, "source")
        yield {"source/ce": self.cross_entropy(source.logits, batch.source.label)}
        grid = self.frozen(self.labeller, batch.target.plain, "target").logits
        target = self.student(batch.target.image, "target")
        label = self.segmenter.on_grid(batch.source.label, grid)
        yield {"target/ce": self.cross_entropy(target.logits, label)}


Made = Callable[[Segmenter], Method]
"""Makes a method of a network, which it trains."""


def overhead(size: Size, compute: ComputeConfig, rounds: int) -> Row:
    """Time a CAG step over the same step without the method; the wanted bound is 1.05.

    What is "auto" in `compute` is resolved for this size. Each round is one step.
    """
    config = CAGConfig(margin=MarginConfig(kind="relative", value=0.1))
    figure = StepBench(size, compute).time_ratio(
        lambda segmenter: CAG(segmenter, config),
        lambda segmenter: Bare(segmenter, MethodConfig(name="bare")),
        rounds,
    )
    what = f"CAG step / step without it, {_told(size)}"
    return Row("step", what, figure, "× the bare step", at_most=1.05)


def plus_over_dacs(size: Size, compute: ComputeConfig, rounds: int) -> list[Row]:
    """Measure time and peak memory of CAG-plus steps over DACS's; arguments as `overhead`.

    The wanted bounds are 1.10 and 1.15.
    """
    pair = (
        lambda segmenter: CAGPlus(segmenter, CAGPlusConfig()),
        lambda segmenter: DACS(segmenter, DACSConfig()),
    )
    what = f"CAG-plus step / DACS step, {_told(size)}"
    time = StepBench(size, compute).time_ratio(*pair, rounds)
    memory = StepBench(size, compute).memory_ratio(*pair, max(1, rounds // 5))
    return [
        Row("plus", what, time, "× the DACS step", at_most=1.10),
        Row("plus", f"peak memory, {what}", memory, "× that of DACS", at_most=1.15),
    ]


class StepBench:
    """One random network and batch, on which methods take steps as in the training loop.

    What is "auto" in `compute` is resolved for this size. Raises UserError if there is no GPU, but
    one is asked for.
    """

    def __init__(self, size: Size, compute: ComputeConfig) -> None:
        torch.manual_seed(0)
        self.segmenter = Segmenter(size.segmenter, numbered_classes(size.num_classes))
        self.compute = resolve(compute, self.segmenter, size.crop_px, size.batch)
        self.fabric = with_precision(launch(self.compute), self.compute)
        self.batch = noise(size.batch, size.crop_px, size.num_classes, self.fabric.device)

    def stepper(self, made: Made) -> Callable[[], object]:
        """Make a function that takes one step of a method, which trains a copy of the network."""
        method = made(copy.deepcopy(self.segmenter)).to(self.fabric.device)
        recompute(method.segmenter, self.compute.checkpointing)
        set_memory_format(method, memory_format(self.compute))
        optim = OptimConfig(optimizer="adamw", learning_rate=1e-4, clip_norm=1.0)
        settings = StageSettings(name="bench", steps=1_000_000, optim=optim)
        return stepper(method, settings, self.compute, self.fabric, self.batch)

    def need_mib(self, made: Made) -> float:
        """Measure a method's networks and three steps: peak memory less what was held before."""
        gc.collect()
        memory = PeakMemory(self.fabric.device)
        held_mib = memory.mib()
        step = self.stepper(made)
        for _ in range(3):
            step()
        return memory.mib() - held_mib

    def time_ratio(self, over: Made, under: Made, rounds: int) -> float:
        """Time one method's step over another's, for copies of the network."""
        steps = {"over": self.stepper(over), "under": self.stepper(under)}
        times = interleaved_s(steps, rounds, self.fabric.device)
        return median_ratio(times["over"], times["under"])

    def memory_ratio(self, over: Made, under: Made, rounds: int) -> float:
        """Measure peak memory of one method over another's, beside what is held already."""
        self.need_mib(under)  # Warms up: memory that a process allocates once counts for no method.
        needs = [(self.need_mib(over), self.need_mib(under)) for _ in range(rounds)]
        most, least = map(statistics.median, zip(*needs, strict=True))
        # A network may be too small to need memory beyond what the process already holds.
        return most / least if least else math.nan


def _told(size: Size) -> str:
    height, width = size.crop_px
    return f"{size.name}, {size.batch}+{size.batch} of {height}×{width}"


def numbered_classes(count: int) -> Classes:
    """Name so many classes by their numbers."""
    names = tuple(f"class-{index}" for index in range(count))
    return Classes(names=names, palette=tuple((index, index, index) for index in range(count)))


def noise(count: int, crop_px: tuple[int, int], num_classes: int, device: torch.device) -> Batch:
    """Draw a batch of so many crops of each domain, always the same."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, *crop_px)
    source, target = (torch.rand(shape, generator=generator).to(device) for _ in range(2))
    label = torch.randint(0, num_classes, (count, *crop_px), generator=generator)
    return Batch(Labelled(source, label.to(device)), Unlabelled(target, target))


def stepper(
    method: Method, settings: StageSettings, compute: ComputeConfig, fabric: Fabric, batch: Batch
) -> Callable[[], object]:
    """Prepare a method on a batch, and make a function that takes one step on it as the loop does.

    Both are on the device of a Fabric of one process, which computes as `compute`, resolved, says.
    """
    optimizers = method.optimizers(settings.optim)
    method.prepare(Passes(lambda: [batch.source], lambda: [batch.target], lambda each: each))
    trainer = Trainer(fabric, Processes(fabric), method, settings, compute, 0, optimizers)
    return lambda: train_step(trainer, 0, batch)
