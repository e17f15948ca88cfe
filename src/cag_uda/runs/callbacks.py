"""Callbacks of a run at the points of a stage: progress, pseudo-label quality, scores, pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from cag_uda.methods.base import Method
from cag_uda.recipes.schema import Stage
from cag_uda.runs.progress import Progress
from cag_uda.runs.records.stage import MetricsLine
from cag_uda.runs.results import Results
from cag_uda.training.callbacks import Callback, ForLog, is_due
from cag_uda.training.loop import StageData
from cag_uda.types import Labelled, Unlabelled

Images = TypeVar("Images", Labelled, Unlabelled)


class Watch(Callback):
    """Callback of all stages of a run, before their own ones; it is told of their sweeps, too."""

    def on_stage(self, stage: Stage, data: StageData) -> None:
        """Called before a stage is prepared, or resumed."""

    def on_sweep(self, sweep: Iterator[Images], images: int) -> Iterator[Images]:
        """Called with each sweep over a domain; returns what the method shall see of it.

        Args:
            sweep: this process's share of the batches.
            images: of all processes.
        """
        return sweep

    def on_labelled(self) -> None:
        """Called when the quality of labels that follow a network is recorded, at a stage's end."""

    def on_kept(self) -> None:
        """Called when a stage's results are written."""


class ShowProgress(Callback):
    """Shows steps and losses whenever they are logged."""

    def __init__(self, progress: Progress, label: str, steps: int) -> None:
        self._progress, self._label, self._steps = progress, label, steps

    def on_log(self, record: MetricsLine) -> None:
        """Show the steps taken and the latest mean losses."""
        if record.losses is not None:
            self._progress.update(self._label, record.step, self._steps, record.losses)


class KeepLabelling(Callback):
    """Keeps a stage's anchors and the quality of labels that stand from its beginning.

    Those that follow a network that learns are measured at the stage's end, by the runner.
    """

    def __init__(self, results: Results, folder: Path) -> None:
        self._results, self._folder = results, folder

    def on_prepared(self, method: Method) -> None:
        """Write them into the stage's folder."""
        if not method.labels_follow:
            self._results.keep_labelling(method, self._folder)


class ScoreOnTheWay(Callback):
    """Scores the predictor every `evaluate_every` steps, for the log and for label-free choice."""

    def __init__(self, results: Results, stage: Stage, folder: Path) -> None:
        self._results, self._stage, self._folder = results, stage, folder

    def on_step(self, method: Method, step: int) -> ForLog:
        """Score; the end of the stage is scored with its results."""
        if step == self._stage.steps or not is_due(step, self._stage.evaluate_every):
            return {}
        scores = self._results.quick_scores(method, self._stage, self._folder, step)
        return {"scores": scores} if scores else {}


class ShowPictures(Callback):
    """Shows the loggers what the predictor sees."""

    def __init__(self, results: Results, steps: int, every: int | None) -> None:
        self._results, self._steps, self._every = results, steps, every

    def on_step(self, method: Method, step: int) -> ForLog:
        """Show the sample images; those of the end come with the stage's results."""
        if step < self._steps and is_due(step, self._every):
            self._results.show(method, step)
        return {}
