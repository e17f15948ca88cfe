"""The only training loop. Knows methods and steps, not how they are evaluated or where data is."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from cag_uda.errors import RunError
from cag_uda.methods.base import Method, Passes
from cag_uda.methods.optim import OptimConfig
from cag_uda.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from cag_uda.training.interrupt import StopRequest
from cag_uda.training.metrics import MetricsLog
from cag_uda.types import Batch


@dataclass(frozen=True)
class StagePlan:
    """How a stage is trained."""

    steps: int
    optim: OptimConfig
    seed: int
    """Of everything random on the device in this stage; the loader has its own."""
    refresh_every: int | None
    """Steps between calls of `Method.prepare`; None prepares once."""
    evaluate_every: int | None
    log_every: int
    checkpoint_every: int


@dataclass(frozen=True)
class Hooks:
    """What the loop is handed from outside."""

    load: Callable[[range], Iterator[Batch]]
    """The batches of some steps, on the device."""
    evaluate: Callable[[Method], dict[str, Any]]
    """Scores of the method's predictor, for the log; may be empty."""
    prepared: Callable[[Method], None]
    """Called when a stage's anchors and thresholds stand, before its first step."""
    progress: Callable[[int, int, Mapping[str, float]], None]
    """Called with steps taken, steps in all, and the latest mean losses."""


def train_stage(
    fabric: Fabric,
    method: Method,
    plan: StagePlan,
    passes: Passes,
    hooks: Hooks,
    folder: Path,
    stop: StopRequest,
) -> Progress:
    """Train a stage from its start, or from its checkpoint, to its end.

    Args:
        fabric: device, precision and processes.
        method: the method, on the device, holding the network that the stage starts from.
        plan: steps and rates.
        passes: sweeps for `Method.prepare`.
        hooks: data, evaluation and progress.
        folder: of the stage, for its checkpoint and metrics.
        stop: a request to stop is obeyed after a step.

    Returns:
        The steps taken and the seconds that they took.

    Raises:
        Interrupted: on a request to stop, after saving.
        RunError: for a loss that is not finite, or a disk that is full.
    """
    optimizers = method.optimizers(plan.optim)
    done = load_checkpoint(folder / "checkpoint", method, optimizers)
    if done is None:
        method.prepare(passes)
        hooks.prepared(method)
        done = Progress(0, 0.0)
    method.attach(lambda network: _wrap(fabric, network), fabric.autocast)
    wrapped = {name: fabric.setup_optimizers(each) for name, each in optimizers.items()}
    records = _Records(fabric, plan, hooks, folder, done)
    try:
        steps = range(done.step, plan.steps)
        for step, batch in zip(steps, hooks.load(steps), strict=True):
            if plan.refresh_every and step and step % plan.refresh_every == 0:
                method.prepare(passes)
            losses = _take_step(fabric, method, wrapped, plan, step, batch)
            rate = optimizers["segmenter"].param_groups[0]["lr"]
            done = records.add(step + 1, losses, rate, len(batch.source.image), method)
            is_due = done.step % plan.checkpoint_every == 0 or done.step == plan.steps
            if is_due or stop.number is not None:
                if fabric.is_global_zero:
                    save_checkpoint(folder / "checkpoint", method, optimizers, done)
                fabric.barrier()
                stop.check()
    finally:
        records.close()
    # After a resumption too, when no step was left: it depends on weights and images alone.
    method.finish(passes)
    return done


def _take_step(
    fabric: Fabric,
    method: Method,
    optimizers: Mapping[str, Any],
    plan: StagePlan,
    step: int,
    batch: Batch,
) -> dict[str, Tensor]:
    """One step of every network; returns its losses, detached and on the device."""
    method.train()
    # Dropout is a function of seed, step and process: so a resumed run is the run.
    torch.manual_seed(((plan.seed * 1_000_003 + step) * 4096 + fabric.global_rank) % 2**63)
    for optimizer in optimizers.values():
        _set_rate(optimizer, plan.optim.factor(step, plan.steps))
    seen: dict[str, Tensor] = {}
    for losses in method.losses(batch):
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        if total.requires_grad:
            fabric.backward(total)
        seen |= {name: loss.detach() for name, loss in losses.items()}
    networks = method.networks()
    for name, optimizer in optimizers.items():
        if plan.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(networks[name].parameters(), plan.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    method.after_step(step)
    return seen


def _set_rate(optimizer: Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak_rate"] * factor


def _wrap(fabric: Fabric, network: nn.Module) -> Callable[..., Any]:
    wrapped: Callable[..., Any] = fabric.setup_module(network, move_to_device=False)
    return wrapped


class _Records:
    """Keeps a stage's losses on the device, and writes their means down now and then.

    The host waits for the device only when it writes.
    """

    def __init__(
        self, fabric: Fabric, plan: StagePlan, hooks: Hooks, folder: Path, done: Progress
    ) -> None:
        self._plan, self._hooks = plan, hooks
        self._log = MetricsLog(folder, done.step) if fabric.is_global_zero else None
        self._begun_s = time.monotonic() - done.elapsed_s
        self._sums: dict[str, Tensor] = {}
        self._images = self._steps = 0
        self._window_s = time.monotonic()

    def add(
        self, taken: int, losses: Mapping[str, Tensor], rate: float, images: int, method: Method
    ) -> Progress:
        """Count a step in; log and evaluate where that is due.

        Raises:
            RunError: if a loss is not finite.
        """
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss
        self._images += images
        self._steps += 1
        is_last = taken == self._plan.steps
        if taken % self._plan.log_every == 0 or is_last:
            means = self._flush(taken, rate)
            self._hooks.progress(taken, self._plan.steps, means)
        every = self._plan.evaluate_every
        if every and taken % every == 0 and not is_last:
            scores = self._hooks.evaluate(method)
            if self._log and scores:
                self._log.write({"step": taken, "scores": scores})
        return Progress(taken, self._elapsed_s)

    def close(self) -> None:
        if self._log:
            self._log.close()

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._begun_s

    def _flush(self, taken: int, rate: float) -> dict[str, float]:
        names = list(self._sums)
        means = (torch.stack([self._sums[n].float() for n in names]) / self._steps).tolist()
        losses = dict(zip(names, means, strict=True))
        broken = [name for name, mean in losses.items() if not math.isfinite(mean)]
        if broken:
            raise RunError(
                f"the loss {', '.join(broken)} is not finite in the {self._steps} steps before "
                f"step {taken}; lower the learning rate or set clip_norm, then go on with --resume"
            )
        record = {
            "step": taken,
            "losses": losses,
            "learning_rate": rate,
            "images_per_s": self._images / max(1e-9, time.monotonic() - self._window_s),
            "elapsed_s": self._elapsed_s,
        }
        if self._log:
            self._log.write(record)
        self._sums, self._images, self._steps = {}, 0, 0
        self._window_s = time.monotonic()
        return losses
