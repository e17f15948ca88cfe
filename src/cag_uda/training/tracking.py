"""Whom a run tells what its log says: TensorBoard, Weights & Biases, MLflow.

Knows numbers, pictures and steps, no network. What goes on elsewhere never ends a run: a service
that fails on the way is left out from then on, and `metrics.jsonl` has everything. The run's own
disk is another matter: where TensorBoard's files cannot be written, nothing can.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cag_uda.errors import RunError, UserError
from cag_uda.files import write_json
from cag_uda.types import Config

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Note = Callable[[str], None]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]

_IDS = "tracking.json"
_MOST_PARAMETERS = 100
"""That MLflow takes at once."""


class TrackingConfig(Config):
    """The `[tracking]` table of a recipe."""

    loggers: tuple[TrackerName, ...] = ("tensorboard",)
    """Who is told of losses, scores and pictures; `metrics.jsonl` is written in any case. Weights &
    Biases and MLflow take their address and account from their own environment variables."""
    project: str = "cag-uda"
    """The project at Weights & Biases, the experiment at MLflow."""
    pictures_every: int | None = Field(default=1000, ge=1)
    """Steps between pictures of predictions; None: at the end of each stage alone."""


class Tracker(Protocol):
    """One that is told what a run does."""

    def begin(self, stage: Path, step: int) -> None:
        """A stage, by its folder, begins, or goes on after `step` steps."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """What was measured when the stage had taken `step` steps."""

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """A picture of that moment."""

    def close(self, is_finished: bool) -> None:
        """The run ends, by success or not."""


class TensorBoard:
    """Event files in the folder of each stage, for `tensorboard --logdir RUN`."""

    def __init__(self) -> None:
        self._file: Any = None

    def begin(self, stage: Path, step: int) -> None:
        """Write into the stage's folder; what a resumed stage repeats is hidden."""
        # TensorBoard loads slowly.
        from cag_uda.training.event_file import EventFile

        self._file = EventFile(stage / "tensorboard", step)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar each."""
        self._file.numbers(step, values)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """One picture."""
        self._file.picture(step, name, picture)

    def close(self, is_finished: bool) -> None:
        """Nothing: all is written."""


class WeightsAndBiases:
    """One run at Weights & Biases, each stage with its own count of steps.

    Args:
        library: `wandb`.
        run: folder of the run.
        project: name of the project.
        settings: the resolved recipe.
        known_id: of the run that is gone on with, or None.
    """

    def __init__(
        self,
        library: ModuleType,
        run: Path,
        project: str,
        settings: Mapping[str, Any],
        known_id: str | None,
    ) -> None:
        self.id = known_id or uuid4().hex[:8]
        self._library, self._stage = library, ""
        self._run = library.init(
            project=project,
            name=run.name,
            id=self.id,
            resume="allow",
            dir=str(run),
            config=dict(settings),
        )

    def begin(self, stage: Path, step: int) -> None:
        """Count this stage's steps by themselves, as several stages begin at step 0."""
        self._stage = stage.name
        self._run.define_metric(f"{self._stage}/*", step_metric=f"{self._stage}/step")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        self._log(step, values)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """One picture."""
        self._log(step, {name: self._library.Image(picture)})

    def close(self, is_finished: bool) -> None:
        """Wait until everything is sent."""
        self._run.finish(exit_code=0 if is_finished else 1)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        named = {f"{self._stage}/{name}": value for name, value in values.items()}
        self._run.log({f"{self._stage}/step": step, **named})


class MLflow:
    """One run of an MLflow experiment, the stages' metrics below their names.

    Args:
        library: `mlflow`.
        run: folder of the run.
        project: name of the experiment.
        settings: the resolved recipe.
        known_id: of the run that is gone on with, or None.
    """

    def __init__(
        self,
        library: ModuleType,
        run: Path,
        project: str,
        settings: Mapping[str, Any],
        known_id: str | None,
    ) -> None:
        self._metric = library.entities.Metric
        self._client = library.MlflowClient()
        self._stage = ""
        if known_id is not None:
            self.id = known_id
            self._client.update_run(self.id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(project)
        place = self._client.create_experiment(project) if found is None else found.experiment_id
        self.id = self._client.create_run(place, run_name=run.name).info.run_id
        parameters = [library.entities.Param(key, value) for key, value in _flat(settings).items()]
        for first in range(0, len(parameters), _MOST_PARAMETERS):
            some = parameters[first : first + _MOST_PARAMETERS]
            self._client.log_batch(self.id, params=some)

    def begin(self, stage: Path, step: int) -> None:
        """Name what follows after the stage."""
        self._stage = stage.name

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve, all in one message."""
        now_ms = int(time.time() * 1000)
        metrics = [
            self._metric(f"{self._stage}/{name}", value, now_ms, step)
            for name, value in values.items()
        ]
        self._client.log_batch(self.id, metrics=metrics)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """One picture, as a file of the run."""
        self._client.log_image(self.id, picture, f"{self._stage}/{name}-{step:06d}.png")

    def close(self, is_finished: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self.id, status="FINISHED" if is_finished else "KILLED")


class Trackers:
    """All that a run tells; without any, silence.

    Args:
        trackers: by name.
        note: told when one of them fails and is left out.
    """

    def __init__(self, trackers: Mapping[str, Tracker], note: Note) -> None:
        self._trackers, self._note = dict(trackers), note

    def __bool__(self) -> bool:
        """Whether anyone listens."""
        return bool(self._trackers)

    def begin(self, stage: Path, step: int) -> None:
        """See `Tracker.begin`."""
        self._tell(lambda tracker: tracker.begin(stage, step))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.numbers`."""
        self._tell(lambda tracker: tracker.numbers(step, values))

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """See `Tracker.picture`."""
        self._tell(lambda tracker: tracker.picture(step, name, picture))

    def close(self, is_finished: bool) -> None:
        """See `Tracker.close`."""
        self._tell(lambda tracker: tracker.close(is_finished))

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                say(tracker)
            except UserError:
                raise  # The run's own disk is full or gone.
            except Exception as error:
                # Whatever goes wrong over there, hours of training must not end by it.
                del self._trackers[name]
                self._note(f"{name} is told no more: {error}; metrics.jsonl has everything")


_AT_SERVICES: Mapping[str, tuple[type[WeightsAndBiases] | type[MLflow], str]] = {
    "wandb": (WeightsAndBiases, "log in with `wandb login`, set WANDB_MODE=offline"),
    "mlflow": (
        MLflow,
        "set MLFLOW_TRACKING_URI to a server that answers, or to sqlite:///mlflow.db",
    ),
}
"""By library: who tells it, and what to do if it cannot begin."""


def require_libraries(names: Sequence[TrackerName]) -> None:
    """See before any work that the libraries of some loggers are installed. Raises UserError."""
    for name in names:
        if name in _AT_SERVICES:
            _library(name)


def open_trackers(
    config: TrackingConfig, run: Path, settings: Mapping[str, Any], note: Note
) -> Trackers:
    """Begin to tell those whom a recipe names, or go on where the run has told them before.

    Args:
        config: of the recipe.
        run: folder of the run; it keeps the ids by which a resumed run goes on.
        settings: the resolved recipe, to be shown there.
        note: told when one of them fails later on.

    Raises:
        UserError: if a library is not installed, or its service cannot be reached.
    """
    path = run / _IDS
    ids: dict[str, str] = {}
    if path.exists():
        try:
            ids = dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}; delete it to begin anew there") from error
    trackers: dict[str, Tracker] = {}
    for name in config.loggers:
        if name == "tensorboard":
            trackers[name] = TensorBoard()
            continue
        kind, advice = _AT_SERVICES[name]
        library = _library(name)
        try:
            tracker = kind(library, run, config.project, settings, ids.get(name))
        except Exception as error:
            # Each library has its own exceptions for a missing account, network or run.
            raise UserError(
                f"{name} cannot begin: {error}; {advice}, or take it out of tracking.loggers"
            ) from error
        trackers[name] = tracker
        if ids.get(name) != tracker.id:
            ids[name] = tracker.id
            write_json(path, ids)
    return Trackers(trackers, note)


def numbers_of(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a log's record but its step, nested ones by path."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= numbers_of(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "step":
            found[f"{prefix}{key}"] = float(value)
    return found


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"tracking.loggers names {name}, which is not installed ({error}); "
            f"`pip install {name}`, or take it out of tracking.loggers"
        ) from error


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by their dotted paths, as text."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, list) and any(isinstance(each, dict) for each in value):
            value = {str(each.get("name", place)): each for place, each in enumerate(value)}
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found
