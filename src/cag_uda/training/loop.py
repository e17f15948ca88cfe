"""The only training loop. Knows methods and steps, not how they are evaluated or where data is."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from cag_uda.methods.base import Method, Passes
from cag_uda.methods.optim import OptimConfig
from cag_uda.training.checkpoint import Progress, Stateful, load_checkpoint, save_checkpoint
from cag_uda.training.compute import shared_scale
from cag_uda.training.interrupt import Interrupted, StopRequest
from cag_uda.training.processes import Processes
from cag_uda.training.records import Records, not_finite
from cag_uda.training.step import Stepper, seed_for
from cag_uda.training.tracking import Trackers
from cag_uda.types import Batch

_MOST_LEFT_OUT = 10
"""Steps in a row that may be left out: more are no accident."""


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
    pictures_every: int | None = None
    """Steps between pictures of predictions; None shows none on the way."""
    skips_nonfinite: bool = False
    """Whether a step whose loss or gradient is not finite is left out, instead of an error."""
    accumulation: int = 1
    """Parts in which a batch is taken, one after the other."""
    compiles: bool = False
    """Whether trained networks are compiled."""


@dataclass(frozen=True)
class Hooks:
    """What the loop is handed from outside."""

    load: Callable[[range], Iterator[Batch]]
    """This process's part of the batches of some steps, on the device."""
    files: Callable[[int], Sequence[str]]
    """The images of a step's whole batch, for messages."""
    evaluate: Callable[[Method, int], dict[str, Any]]
    """Scores of the method's predictor after some steps, for the log; may be empty. All processes
    call it."""
    prepared: Callable[[Method], None]
    """Called when a stage's anchors and thresholds stand, before its first step."""
    progress: Callable[[int, int, Mapping[str, float]], None]
    """Called with steps taken, steps in all, and the latest mean losses."""
    show: Callable[[Method, int], None]
    """Called after some steps to show what the method's predictor sees. All processes call it."""
    trackers: Trackers
    """Told what the log says."""


def train_stage(
    fabric: Fabric,
    processes: Processes,
    method: Method,
    plan: StagePlan,
    passes: Passes,
    hooks: Hooks,
    folder: Path,
    stop: StopRequest,
) -> Progress:
    """Train a stage from its start, or from its checkpoint, to its end.

    Args:
        fabric: device and precision.
        processes: those that share the work.
        method: the method, on the device, holding the network that the stage starts from.
        plan: steps and rates.
        passes: sweeps for `Method.prepare`.
        hooks: data, evaluation and progress.
        folder: of the stage, for its checkpoint and metrics.
        stop: a request to stop is obeyed after a step.

    Returns:
        The steps taken, and the seconds of these and of what precedes and follows them.

    Raises:
        Interrupted: on a request to stop, after saving.
        RunError: for a loss that is not finite, or a disk that is full.
    """
    optimizers, scale = method.optimizers(plan.optim), shared_scale(fabric)
    stateful: dict[str, Stateful] = {**optimizers}
    if scale is not None:
        scale.begin()
        stateful["scale"] = scale.scaler
    with processes.agreed():
        done = load_checkpoint(folder / "checkpoint", method, stateful)
    if done is None:
        seed_for(plan.seed, 0)
        begun_s = time.monotonic()
        method.prepare(passes)
        done = Progress(0, time.monotonic() - begun_s)
        hooks.prepared(method)
    method.attach(lambda network: _wrap(fabric, network, plan.compiles), fabric.autocast)
    stepper = Stepper(
        fabric,
        processes,
        method,
        {name: fabric.setup_optimizers(each) for name, each in optimizers.items()},
        optim=plan.optim,
        steps=plan.steps,
        seed=plan.seed,
        skips_nonfinite=plan.skips_nonfinite,
        accumulation=plan.accumulation,
    )
    done = _Stage(stepper, plan, passes, hooks, folder, stop, optimizers, stateful).run(done)
    # After a resumption too, when no step was left: it depends on weights and images alone.
    seed_for(plan.seed, plan.steps)
    begun_s = time.monotonic()
    method.finish(passes)
    return replace(done, elapsed_s=done.elapsed_s + time.monotonic() - begun_s)


def _wrap(fabric: Fabric, network: nn.Module, compiles: bool) -> Callable[..., Any]:
    # In training alone: sweeps and evaluation call the network itself, with images of any size.
    made = cast("nn.Module", torch.compile(network)) if compiles else network
    wrapped: Callable[..., Any] = fabric.setup_module(made, move_to_device=False)
    return wrapped


@dataclass
class _Stage:
    """The steps of a stage, with what is due between them."""

    stepper: Stepper
    plan: StagePlan
    passes: Passes
    hooks: Hooks
    folder: Path
    stop: StopRequest
    optimizers: Mapping[str, Optimizer]
    stateful: Mapping[str, Stateful]
    """What a checkpoint keeps beside the method: the optimisers, and what scales gradients."""
    left_out: int = 0
    """Steps that were left out since the last that was taken."""

    def run(self, done: Progress) -> Progress:
        """Take the steps that are left; returns how far the stage then is."""
        records = Records(self.stepper.processes, self.folder, done, self.hooks.trackers)
        steps = range(done.step, self.plan.steps)
        batches = self.hooks.load(steps)
        for step in steps:
            with self.stepper.processes.agreed():
                batch = next(batches)
            self._step(step, batch, records)
            done = self._after(step + 1, records)
        return done

    def _step(self, step: int, batch: Batch, records: Records) -> None:
        every = self.plan.refresh_every
        if every and step and step % every == 0:
            seed_for(self.plan.seed, step)
            self.stepper.method.prepare(self.passes)
        losses, is_taken = self.stepper.take(step, batch)
        if is_taken:
            self.left_out = 0
            records.add(step, losses, len(batch.source.image))
            return
        self.left_out += 1
        values = {name: float(loss) for name, loss in losses.items()}
        files = self.hooks.files(step)
        if self.left_out > _MOST_LEFT_OUT:
            with self.stepper.processes.agreed():
                raise not_finite(step, values, files)
        spoken = {name: str(value) for name, value in values.items()}
        records.write({"step": step + 1, "left_out": {"losses": spoken, "files": list(files)}})

    def _after(self, taken: int, records: Records) -> Progress:
        """What is due when `taken` steps have been taken: log, evaluation, checkpoint, stop."""
        plan, method = self.plan, self.stepper.method
        is_last = taken == plan.steps
        number = self.stepper.processes.largest(self.stop.number or 0)
        is_saved = bool(
            number
            or is_last
            or taken % plan.checkpoint_every == 0
            # What a refresh takes long to prepare must not cost the steps before it.
            or (plan.refresh_every and taken % plan.refresh_every == 0)
        )
        is_logged = is_last or taken % plan.log_every == 0
        if is_saved or is_logged:
            self._refuse_broken(taken, is_saved, records)
        if is_logged:
            rate = self.optimizers["segmenter"].param_groups[0]["lr"]
            self.hooks.progress(taken, plan.steps, records.flush(taken, rate))
        is_scored = plan.evaluate_every and taken % plan.evaluate_every == 0 and not is_last
        if is_scored and (scores := self.hooks.evaluate(method, taken)):
            records.write({"step": taken, "scores": scores})
        if plan.pictures_every and taken % plan.pictures_every == 0 and not is_last:
            self.hooks.show(method, taken)
        done = Progress(taken, records.elapsed_s)
        if is_saved:
            self._save(done, records)
        with self.stepper.processes.agreed():
            if number:
                raise Interrupted(number)
        return done

    def _refuse_broken(self, taken: int, is_saved: bool, records: Records) -> None:
        """Raise RunError, on all processes alike, if a loss or what is saved is not finite.

        The gradient of a finite loss may not be; the next step's loss tells, too late for a
        checkpoint between the two.
        """
        broken = records.first_broken()
        if broken is None and is_saved and self._has_broken_weights():
            broken = taken - 1, records.latest()
        if broken is not None:
            with self.stepper.processes.agreed():
                raise not_finite(*broken, self.hooks.files(broken[0]))

    def _has_broken_weights(self) -> bool:
        norm = nn.utils.get_total_norm(self.stepper.method.parameters())
        return bool(self.stepper.processes.largest(not norm.isfinite()))

    def _save(self, done: Progress, records: Records) -> None:
        whole = Progress(done.step, done.elapsed_s, records.pending())
        with self.stepper.processes.agreed():
            if self.stepper.processes.is_first:
                save_checkpoint(
                    self.folder / "checkpoint", self.stepper.method, self.stateful, whole
                )
