"""A trial of memory: a few steps of a stage on noise, nothing else."""

import copy
import gc
import time
from typing import NamedTuple

import torch
from lightning.fabric import Fabric

from cag_uda.methods.base import Passes
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes.schema import Stage
from cag_uda.runs.bench.timing import wait_for
from cag_uda.runs.runner import build_method
from cag_uda.training.memory import PeakMemory
from cag_uda.training.processes import Processes
from cag_uda.training.settings import ComputeConfig
from cag_uda.training.step import Trainer, train_step
from cag_uda.types import Batch, Labelled, Unlabelled

WARM_UP = 2
"""Steps before those that are timed: they make what later ones find (momenta, the compiled
arithmetic of each shape)."""
HARMLESS_RATE = 1e-9
"""Learning rate so small that no network with a new head diverges while steps are timed."""


class Trial(NamedTuple):
    """Measurements of some steps on crops of one size."""

    pixels: int
    """Pixels of one domain's crops in one device's share of a batch, all together."""
    mib: float
    step_s: float


def try_steps(
    stage: Stage,
    initial: Segmenter,
    compute: ComputeConfig,
    fabric: Fabric,
    crop_px: tuple[int, int],
    share: int,
    devices: int,
    labelled: int = 0,
) -> Trial:
    """Take a few steps.

    Args:
        stage: whose method and optimiser are tried.
        initial: the network to start from; it is not changed.
        compute: resolved.
        fabric: of one process, in that precision.
        crop_px: height and width of a crop.
        share: crops of each domain on this device.
        devices: of the run; this one does the share of one of them.
        labelled: crops of labelled images of the target on this device.

    Raises:
        torch.OutOfMemoryError: if a GPU has not enough.
    """
    device, memory = fabric.device, PeakMemory(fabric.device)
    method = build_method(copy.deepcopy(initial), stage, compute, device, devices > 1)
    optim = stage.optim.model_copy(update={"learning_rate": HARMLESS_RATE})
    settings = stage.model_copy(update={"optim": optim})
    batch = _noise(share, crop_px, len(initial.classes.names), device)
    passes = Passes(lambda: [batch.source], lambda: [batch.target], lambda each: each)
    if labelled:
        few = Labelled(batch.source.image[:labelled], batch.source.label[:labelled])
        batch = batch._replace(labelled=few)
    optimizers = method.optimizers(optim)
    method.prepare(passes)
    processes = Processes(fabric)
    trainer = Trainer.attach(fabric, processes, method, settings, compute, 0, optimizers)
    for step in range(WARM_UP + 2):
        if step == WARM_UP:
            wait_for(device)
            begun_s = time.perf_counter()
        train_step(trainer, step, batch)
    wait_for(device)
    step_s = (time.perf_counter() - begun_s) / 2
    trial = Trial(share * crop_px[0] * crop_px[1], memory.mib(), step_s)
    # Memory that is no longer used must not count in the next trial.
    del method, trainer, optimizers
    gc.collect()
    return trial


def _noise(count: int, crop_px: tuple[int, int], num_classes: int, device: torch.device) -> Batch:
    label = torch.randint(num_classes, (count, *crop_px), device=device)
    source, target = (torch.rand(count, 3, *crop_px, device=device) for _ in range(2))
    return Batch(Labelled(source, label), Unlabelled(target, target))
