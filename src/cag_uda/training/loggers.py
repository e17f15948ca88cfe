"""Loggers of a run: TensorBoard, Weights & Biases, MLflow, each by its own library.

Knows numbers, pictures and steps, no network. A logger that fails on the way never ends a run: it
is left out from then on, and `metrics.jsonl` has everything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from cag_uda.errors import UserError
from cag_uda.runs.records.base import read_record, write_record
from cag_uda.runs.records.run import TRACKING, TrackingIds
from cag_uda.runs.records.stage import MetricsLine
from cag_uda.training.callbacks import Callback
from cag_uda.training.settings import LoggerName, TrackingConfig

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Note = Callable[[str], None]

_ADVICE = {
    "wandb": "log in with `wandb login`, set WANDB_MODE=offline",
    "mlflow": "set MLFLOW_TRACKING_URI to a server that answers, or to sqlite:///mlflow.db",
}
"""Advice where a service cannot begin."""


class TensorBoard:
    """Lightning's logger, one for each stage: `tensorboard --logdir RUN`."""

    _logger: Any = None

    def begin(self, stage: Path, step: int) -> None:
        """Write into the stage's folder; what a resumed stage repeats is hidden."""
        # TensorBoard loads slowly.
        from lightning.fabric.loggers.tensorboard import TensorBoardLogger

        self.close(True)
        self._logger = TensorBoardLogger(stage, "tensorboard", "", purge_step=step + 1)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log one scalar each, on disk at once: a run may be killed."""
        self._logger.log_metrics(values, step)
        self._logger.save()

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """Log one picture."""
        self._logger.experiment.add_image(name, picture, step, dataformats="HWC")

    def close(self, is_finished: bool) -> None:
        """Close the stage's file."""
        if self._logger is not None:
            self._logger.finalize("success" if is_finished else "aborted")


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracking service is told of it."""

    library: ModuleType
    """The service's own: `wandb` or `mlflow`."""
    run: Path
    """Folder of the run; its name is the run's name there."""
    project: str
    """Name of the project, or experiment."""
    settings: Mapping[str, Any]
    """The resolved recipe."""
    known_id: str | None
    """Id of the service's run that is continued; None to begin a new one."""


class WeightsAndBiases:
    """One run at Weights & Biases, each stage with its own count of steps."""

    def __init__(self, told: TrackedRun) -> None:
        self.id = told.known_id or uuid4().hex[:8]
        self._picture, self._stage = told.library.Image, ""
        names = {"project": told.project, "name": told.run.name, "id": self.id}
        self._run = told.library.init(
            **names, dir=str(told.run), resume="allow", config=dict(told.settings)
        )

    def begin(self, stage: Path, step: int) -> None:
        """Count this stage's steps by themselves, as several stages begin at step 0."""
        self._stage = stage.name
        self._run.define_metric(f"{self._stage}/*", step_metric=f"{self._stage}/step")

    def numbers(self, step: int, values: Mapping[str, Any]) -> None:
        """Log one point of each curve."""
        named = {f"{self._stage}/{name}": value for name, value in values.items()}
        self._run.log({f"{self._stage}/step": step, **named})

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """Log one picture."""
        self.numbers(step, {name: self._picture(picture)})

    def close(self, is_finished: bool) -> None:
        """Wait until everything is sent."""
        self._run.finish(exit_code=0 if is_finished else 1)


class MLflow:
    """One run of an MLflow experiment, the stages' metrics below their names."""

    def __init__(self, told: TrackedRun) -> None:
        self._library, self._stage = told.library, ""
        self._library.set_experiment(told.project)
        began = self._library.start_run(run_id=told.known_id, run_name=told.run.name)
        self.id = began.info.run_id
        if told.known_id is None:
            params = {name: str(value) for name, value in _leaves(told.settings, ".")}
            self._library.log_params(params)

    def begin(self, stage: Path, step: int) -> None:
        """Name what follows after the stage."""
        self._stage = stage.name

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log one point of each curve, all in one message."""
        named = {f"{self._stage}/{name}": value for name, value in values.items()}
        self._library.log_metrics(named, step=step)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """Log one picture, as a file of the run."""
        self._library.log_image(picture, f"{self._stage}/{name}-{step:06d}.png")

    def close(self, is_finished: bool) -> None:
        """Tell how the run ended."""
        self._library.end_run("FINISHED" if is_finished else "KILLED")


Logger: TypeAlias = TensorBoard | WeightsAndBiases | MLflow


class Loggers(Callback):
    """All loggers of a run, by name; `note` is told of one that fails and is left out."""

    def __init__(self, loggers: Mapping[str, Logger], note: Note) -> None:
        self._loggers, self._note = dict(loggers), note

    def __bool__(self) -> bool:
        """Tell whether there is any logger."""
        return bool(self._loggers)

    def on_start(self, folder: Path, step: int) -> None:
        """Begin a stage everywhere."""
        self._each(lambda logger: logger.begin(folder, step))

    def on_log(self, record: MetricsLine) -> None:
        """Log the numbers of a record, nested ones by path."""
        values = {
            name: float(value)
            for name, value in _leaves(record.plain(), "/")
            if isinstance(value, int | float) and name != "step"
        }
        self.numbers(record.step, values)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log what was measured when the stage had taken `step` steps."""
        self._each(lambda logger: logger.numbers(step, values))

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """Log a picture of that moment."""
        self._each(lambda logger: logger.picture(step, name, picture))

    def close(self, is_finished: bool) -> None:
        """End the run, by success or not."""
        self._each(lambda logger: logger.close(is_finished))

    def _each(self, log: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                log(logger)
            except Exception as error:
                # Whatever goes wrong over there, hours of training must not end by it.
                del self._loggers[name]
                self._note(f"{name} has failed and is left out: {error}; see metrics.jsonl")


def require_libraries(names: Sequence[LoggerName]) -> None:
    """See before any work that the libraries of some loggers are installed. Raises UserError."""
    for name in names:
        if name in _ADVICE:
            _library(name)


def open_loggers(
    config: TrackingConfig, run: Path, settings: Mapping[str, Any], note: Note
) -> Loggers:
    """Open the loggers that a recipe names, or go on where the run was logged before.

    The run's folder keeps the ids by which a resumed run goes on; the resolved recipe, `settings`,
    is shown there. Raises UserError if a library is not installed, or its service not reached.
    """
    path = run / TRACKING
    mend = "delete it to begin anew there"
    ids = dict(read_record(TrackingIds, path, mend).root) if path.exists() else {}
    loggers: dict[str, Logger] = {}
    for name in config.loggers:
        if name == "tensorboard":
            loggers[name] = TensorBoard()
            continue
        kind = WeightsAndBiases if name == "wandb" else MLflow
        library = _library(name)
        try:
            logger = kind(TrackedRun(library, run, config.project, settings, ids.get(name)))
        except Exception as error:
            # Each library has its own exceptions for a missing account, network or run.
            raise UserError(
                f"{name} cannot begin: {error}; {_ADVICE[name]}, or take it out of tracking.loggers"
            ) from error
        loggers[name] = logger
        if ids.get(name) != logger.id:
            ids[name] = logger.id
            write_record(path, TrackingIds(ids))
    return Loggers(loggers, note)


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"tracking.loggers names {name}, which is not installed ({error}); "
            f"`pip install {name}`, or take it out of tracking.loggers"
        ) from error


def _leaves(
    table: Mapping[str, Any], separator: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested tables by path; of a list of tables, each goes by its name."""
    for key, value in table.items():
        if isinstance(value, list) and any(isinstance(each, dict) for each in value):
            value = {str(each.get("name", place)): each for place, each in enumerate(value)}
        if isinstance(value, dict):
            yield from _leaves(value, separator, f"{prefix}{key}{separator}")
        else:
            yield f"{prefix}{key}", value
