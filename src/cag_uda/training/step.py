"""One training step of every network of a method, on every process alike."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cag_uda.methods.base import Method
from cag_uda.training.compute import shared_scale
from cag_uda.training.processes import Processes
from cag_uda.training.settings import ComputeConfig, StageSettings
from cag_uda.types import Batch, Labelled, Losses, Unlabelled


@dataclass
class Trainer:
    """State of a stage that its steps share: networks, optimisers by network, precision, processes.

    Load a checkpoint into the optimisers before. The seed is that of everything random on the
    device in this stage; the loader has its own.
    """

    fabric: Fabric
    processes: Processes
    method: Method
    settings: StageSettings
    compute: ComputeConfig
    seed: int
    optimizers: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.method.attach(self._wrapped, self.fabric.autocast)
        setup = self.fabric.setup_optimizers
        self.optimizers = {name: setup(each) for name, each in self.optimizers.items()}

    def _wrapped(self, network: nn.Module) -> Any:
        # For training alone: sweeps and evaluation call the network itself, with images of any
        # size.
        made = cast("nn.Module", torch.compile(network)) if self.compute.compile else network
        return self.fabric.setup_module(made, move_to_device=False)


def train_step(trainer: Trainer, step: int, batch: Batch) -> tuple[dict[str, Tensor], bool]:
    """Take one step (0-based) on this process's part of a batch.

    Returns:
        The losses, detached and on the device, and whether the step was taken. A step that is
        skipped, because a loss or gradient is not finite, changes no weight and no buffer.
    """
    method, skips = trainer.method, trainer.settings.on_nonfinite == "skip"
    method.train()
    seed_for(trainer.seed, step, trainer.processes.rank)
    factor = trainer.settings.optim.factor(step, trainer.settings.steps)
    for optimizer in trainer.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["peak_rate"] * factor
    buffers = [each.clone() for each in method.buffers()] if skips else []
    losses = backpropagate(trainer, batch)
    if skips and not _is_finite(trainer, losses):
        for optimizer in trainer.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        for buffer, value in zip(method.buffers(), buffers, strict=True):
            buffer.copy_(value)
        return losses, False
    _update_weights(trainer)
    _average_statistics(trainer)
    method.after_step(step)
    return losses, True


def backpropagate(trainer: Trainer, batch: Batch) -> dict[str, Tensor]:
    """Leave the gradients of a batch at the parameters, graph by graph; returns the losses by name.

    The batch is taken in `compute.accumulation` parts.
    """
    parts = trainer.compute.accumulation
    losses: dict[str, Tensor] = {}
    with _shared_statistics(trainer):
        for part in _split(batch, parts):
            for graph in _graphs(trainer.method, part):
                terms = {name: loss / parts for name, loss in graph.items()}
                total = torch.stack([loss.float() for loss in terms.values()]).sum()
                if total.requires_grad:
                    trainer.fabric.backward(total)
                for name, loss in terms.items():
                    losses[name] = losses.get(name, 0) + loss.detach()
    return losses


def _graphs(method: Method, batch: Batch) -> Iterator[Losses]:
    """Yield the losses of a method, and those of the target's labelled images if there are any."""
    yield from method.losses(batch)
    if batch.labelled is not None:
        yield from method.labelled_losses(batch.labelled)


def seed_for(seed: int, step: int, rank: int = 0) -> None:
    """Make what is random on the device a function of seed, step and, where given, process.

    So a resumed run is the run.
    """
    torch.manual_seed(((seed * 1_000_003 + step) * 4096 + rank) % 2**63)


def _update_weights(trainer: Trainer) -> None:
    networks, scale = trainer.method.networks(), shared_scale(trainer.fabric)
    clip_norm = trainer.settings.optim.clip_norm
    for name, optimizer in trainer.optimizers.items():
        if clip_norm is not None:
            if scale is not None:
                scale.unscale_gradients(optimizer.optimizer)
            nn.utils.clip_grad_norm_(networks[name].parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if scale is not None:
        scale.end_step()


def _is_finite(trainer: Trainer, losses: Mapping[str, Tensor]) -> bool:
    gradients = [each.grad for each in trainer.method.parameters() if each.grad is not None]
    values = [loss.float() for loss in losses.values()]
    # Scaled ones overflow now and then; their optimiser skips that step by itself.
    if gradients and shared_scale(trainer.fabric) is None:
        values.append(nn.utils.get_total_norm(gradients).float())
    is_finite = all(bool(value.isfinite()) for value in values)
    return trainer.processes.largest(not is_finite) == 0


@contextmanager
def _shared_statistics(trainer: Trainer) -> Iterator[None]:
    """Let batch norms see all processes' images in a step, but not in sweeps and evaluation.

    There the processes call the network unequally often.
    """
    if trainer.processes.count == 1:
        yield
        return
    trainer.method.share_statistics(True)
    try:
        yield
    finally:
        trainer.method.share_statistics(False)


@torch.no_grad()
def _average_statistics(trainer: Trainer) -> None:
    """Average the running statistics of batch norms over the processes.

    Each saw its own images. All have the same network again, and the checkpoint of one is that
    of all.
    """
    if trainer.processes.count == 1:
        return
    shared = [
        buffer
        for network in trainer.method.networks().values()
        for norm in network.modules()
        if isinstance(norm, _BatchNorm) and norm.training
        for buffer in norm.buffers()
        if buffer.is_floating_point()
    ]
    if shared:
        flat = trainer.processes.total(torch.cat([each.flatten() for each in shared]))
        flat /= trainer.processes.count
        parts = torch.split(flat, [each.numel() for each in shared])
        for buffer, part in zip(shared, parts, strict=True):
            buffer.copy_(part.view_as(buffer))


def _split(batch: Batch, count: int) -> Iterator[Batch]:
    if count == 1:
        yield batch
        return
    tensors = (*batch.source, *batch.target, *(batch.labelled or ()))
    for image, label, seen, plain, *few in zip(
        *(each.chunk(count) for each in tensors), strict=True
    ):
        labelled = Labelled(*few) if few else None
        yield Batch(Labelled(image, label), Unlabelled(seen, plain), labelled)
