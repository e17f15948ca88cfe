"""One training step of every network of a method, on every process alike."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from cag_uda.methods.base import Method
from cag_uda.methods.optim import OptimConfig
from cag_uda.training.compute import shared_scale
from cag_uda.training.processes import Processes
from cag_uda.types import Batch, Labelled, Unlabelled


@dataclass(frozen=True)
class Stepper:
    """Takes the steps of a stage."""

    fabric: Fabric
    processes: Processes
    method: Method
    optimizers: Mapping[str, Any]
    """By network, as Fabric has set them up."""
    optim: OptimConfig
    steps: int
    seed: int
    skips_nonfinite: bool
    """Whether a step whose loss or gradient is not finite is left out. To know that, every step
    waits for the device."""
    accumulation: int = 1
    """Parts in which a batch is taken, one after the other."""

    def take(self, step: int, batch: Batch) -> tuple[dict[str, Tensor], bool]:
        """Take one step.

        Args:
            step: 0-based.
            batch: this process's part.

        Returns:
            The losses, detached and on the device, and whether the step was taken: not if it was
            left out, in which case no weight and no buffer has changed.
        """
        method = self.method
        method.train()
        seed_for(self.seed, step, self.processes.rank)
        factor = self.optim.factor(step, self.steps)
        for optimizer in self.optimizers.values():
            _set_rate(optimizer, factor)
        before = [each.clone() for each in method.buffers()] if self.skips_nonfinite else []
        method.before_step()
        losses = self._learn(batch)
        if self.skips_nonfinite and not self._is_finite(losses):
            self._undo(before)
            return losses, False
        networks, scale = method.networks(), shared_scale(self.fabric)
        for name, optimizer in self.optimizers.items():
            if self.optim.clip_norm is not None:
                if scale is not None:
                    scale.unscale_gradients(optimizer.optimizer)
                nn.utils.clip_grad_norm_(networks[name].parameters(), self.optim.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if scale is not None:
            scale.end_step()
        self._share_statistics()
        method.after_step(step)
        return losses, True

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of a batch, with their gradients left at the parameters."""
        losses: dict[str, Tensor] = {}
        with self._shared_statistics():
            for share in _parts(batch, self.accumulation):
                for part in self.method.losses(share):
                    parts = {name: loss / self.accumulation for name, loss in part.items()}
                    total = torch.stack([loss.float() for loss in parts.values()]).sum()
                    if total.requires_grad:
                        self.fabric.backward(total)
                    for name, loss in parts.items():
                        losses[name] = losses.get(name, 0) + loss.detach()
        return losses

    @contextmanager
    def _shared_statistics(self) -> Iterator[None]:
        """Batch norms look at all processes' images in a step, but not in sweeps and evaluation.

        There the processes call the network unequally often.
        """
        if self.processes.count == 1:
            yield
            return
        self.method.share_statistics(True)
        try:
            yield
        finally:
            self.method.share_statistics(False)

    def _is_finite(self, losses: Mapping[str, Tensor]) -> bool:
        """Whether losses and gradients are finite on all processes."""
        gradients = [each.grad for each in self.method.parameters() if each.grad is not None]
        if shared_scale(self.fabric) is not None:
            # Scaled ones overflow now and then; their optimiser leaves that step out by itself.
            gradients = []
        values = [loss.float() for loss in losses.values()]
        if gradients:
            values.append(nn.utils.get_total_norm(gradients).float())
        is_finite = all(bool(value.isfinite()) for value in values)
        return self.processes.largest(not is_finite) == 0

    def _undo(self, before: list[Tensor]) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        for buffer, value in zip(self.method.buffers(), before, strict=True):
            buffer.copy_(value)

    @torch.no_grad()
    def _share_statistics(self) -> None:
        """Average the running statistics of batch norms over the processes.

        Each saw its own images. All have the same network again, and the checkpoint of one is that
        of all.
        """
        if self.processes.count == 1:
            return
        shared = [
            buffer
            for network in self.method.networks().values()
            for norm in network.modules()
            if isinstance(norm, _BatchNorm) and norm.training
            for buffer in norm.buffers()
            if buffer.is_floating_point()
        ]
        if shared:
            flat = self.processes.total(torch.cat([each.flatten() for each in shared]))
            parts = torch.split(flat / self.processes.count, [each.numel() for each in shared])
            for buffer, part in zip(shared, parts, strict=True):
                buffer.copy_(part.view_as(buffer))


def seed_for(seed: int, step: int, rank: int = 0) -> None:
    """Make what is random on the device a function of seed, step and process.

    So a resumed run is the run.

    Args:
        seed: of the stage.
        step: 0-based.
        rank: of the process, where each shall draw its own numbers.
    """
    torch.manual_seed(((seed * 1_000_003 + step) * 4096 + rank) % 2**63)


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """A batch in so many equal parts."""
    if count == 1:
        yield batch
        return
    tensors = (*batch.source, *batch.target)
    for image, label, *target in zip(*(each.chunk(count) for each in tensors), strict=True):
        yield Batch(Labelled(image, label), Unlabelled(*target))


def _set_rate(optimizer: Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak_rate"] * factor
