"""Training steps on noise, for measurements of their time and memory."""

from collections.abc import Callable

import torch
from lightning.fabric import Fabric

from cag_uda.methods.base import Method, Passes
from cag_uda.training.processes import Processes
from cag_uda.training.settings import ComputeConfig, StageSettings
from cag_uda.training.step import Trainer, train_step
from cag_uda.types import Batch, Labelled, Unlabelled


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

    Args:
        method: on the device; it is trained.
        settings: of the stage.
        compute: resolved.
        fabric: of one process, in that precision.
        batch: on the device.
    """
    optimizers = method.optimizers(settings.optim)
    method.prepare(Passes(lambda: [batch.source], lambda: [batch.target], lambda each: each))
    trainer = Trainer(fabric, Processes(fabric), method, settings, compute, 0, optimizers)
    return lambda: train_step(trainer, 0, batch)
