"""The training loop: a stage from its start, or from its checkpoint, to its end.

Knows methods and steps, not how they are evaluated or where data is.
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lightning.fabric import Fabric

from cag_uda.methods.base import Method, Passes
from cag_uda.runs.records.stage import MetricsLine
from cag_uda.training.callbacks import Callbacks, is_due
from cag_uda.training.checkpoint import Progress, Stateful, load_checkpoint, save_checkpoint
from cag_uda.training.compute import shared_scale
from cag_uda.training.interrupt import StopRequest
from cag_uda.training.log import StageLog
from cag_uda.training.processes import Processes
from cag_uda.training.settings import ComputeConfig, StageSettings
from cag_uda.training.step import Trainer, seed_for, train_step
from cag_uda.types import Batch


@dataclass(frozen=True)
class StageData:
    """Data that a stage learns from."""

    passes: Passes
    """Sweeps for `Method.prepare` and `Method.finish`."""
    load: Callable[[range], Generator[Batch, None, None]]
    """This process's part of the batches of some steps, on the device."""
    files: Callable[[int], Sequence[str]]
    """The images of a step's whole batch, for messages."""


def train_stage(
    fabric: Fabric,
    processes: Processes,
    method: Method,
    settings: StageSettings,
    compute: ComputeConfig,
    data: StageData,
    callbacks: Callbacks,
    *,
    seed: int,
    folder: Path,
    stop: StopRequest,
) -> Progress:
    """Train a stage from its start, or from its checkpoint, to its end.

    Args:
        fabric: device and precision.
        processes: those that share the work.
        method: on the device, holding the network that the stage starts from.
        settings: of the stage.
        compute: resolved.
        data: batches and sweeps.
        callbacks: called in this order at each point.
        seed: of everything random on the device in this stage; the loader has its own.
        folder: of the stage, for its checkpoint and log.
        stop: checked between two steps.

    Returns:
        The steps taken, and the seconds of preparation, steps and `Method.finish`.

    Raises:
        Interrupted: on a request to stop, after saving.
        RunError: for a loss that is not finite, or a disk that is full.
    """
    optimizers, scale = method.optimizers(settings.optim), shared_scale(fabric)
    state: dict[str, Stateful] = {**optimizers}
    if scale is not None:
        scale.begin()
        state["scale"] = scale.scaler
    with processes.agreed():
        done = load_checkpoint(folder / "checkpoint", method, state)
    if done is None:
        done = _prepare(method, data, callbacks, seed)
    trainer = Trainer(fabric, processes, method, settings, compute, seed, optimizers)
    log = StageLog(processes, folder, done, callbacks)
    for callback in callbacks:
        callback.on_start(folder, done.step)

    def save(taken: int) -> None:
        progress = Progress(taken, log.elapsed_s, log.pending())
        with processes.agreed():
            if processes.is_first:
                save_checkpoint(folder / "checkpoint", method, state, progress)
                log.mark(taken)

    with closing(data.load(range(done.step, settings.steps))) as batches:
        for step in range(done.step, settings.steps):
            with processes.agreed() as heard:  # The one exchange between hosts in most steps.
                batch = next(batches)
                heard.number = stop.number
            if heard.number is not None:
                log.refuse_broken(step, data.files, method)
                save(step)
                with processes.agreed():
                    heard.check()
            if step and is_due(step, settings.refresh_every):
                seed_for(seed, step)
                method.refresh(data.passes)
            losses, is_taken = train_step(trainer, step, batch)
            if is_taken:
                log.add(step, losses, len(batch.target.image))
            else:
                log.skip(step, losses, data.files)

            taken = step + 1
            is_logged = taken == settings.steps or is_due(taken, settings.log_every)
            is_saved = _is_saved(settings, taken)
            if is_logged or is_saved:
                log.refuse_broken(taken, data.files, method if is_saved else None)
            if is_logged:
                log.flush(taken, optimizers["segmenter"].param_groups[0]["lr"])
            for callback in callbacks:
                if record := callback.on_step(method, taken):
                    log.write(MetricsLine(step=taken, **record))
            if is_saved:
                save(taken)
    with processes.agreed():
        stop.check()

    _finish(method, data, callbacks, seed, settings.steps)
    return Progress(settings.steps, log.elapsed_s)


def _prepare(method: Method, data: StageData, callbacks: Callbacks, seed: int) -> Progress:
    """Prepare the method, and call the callbacks; returns the time that preparation took."""
    seed_for(seed, 0)
    begun_s = time.monotonic()
    method.prepare(data.passes)
    done = Progress(0, time.monotonic() - begun_s)
    for callback in callbacks:
        callback.on_prepared(method)
    return done


def _finish(method: Method, data: StageData, callbacks: Callbacks, seed: int, steps: int) -> None:
    """Finish the method, and call the callbacks.

    A resumed stage without steps left does so again: weights and images alone decide the result.
    """
    seed_for(seed, steps)
    method.finish(data.passes)
    for callback in callbacks:
        callback.on_end(method)


def _is_saved(settings: StageSettings, taken: int) -> bool:
    """Tell whether a checkpoint is due: what a refresh prepares must not cost the steps before."""
    every = (settings.checkpoint_every, settings.refresh_every)
    return taken == settings.steps or any(is_due(taken, steps) for steps in every)
