"""Callbacks of a run's stages: show progress, record label quality, scores and pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
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

        The sweep has this process's share of the batches; `images` are those of all processes.
        """
        return sweep

    def on_labelled(self) -> None:
        """Called when the quality of labels that follow a network is recorded, at a stage's end."""

    def on_kept(self) -> None:
        """Called when a stage's results are written."""


@dataclass
class Reporting(Callback):
    """Shows a stage's losses, scores and pictures on the way, and keeps the labels it begins with.

    `label` names the stage in the progress; without `pictures_every` there are no pictures on the
    way.
    """

    results: Results
    progress: Progress
    stage: Stage
    label: str
    folder: Path
    pictures_every: int | None

    def on_log(self, record: MetricsLine) -> None:
        """Show the steps taken and the latest mean losses."""
        if record.losses is not None:
            self.progress.update(self.label, record.step, self.stage.steps, record.losses)

    def on_prepared(self, method: Method) -> None:
        """Keep anchors and label quality; labels that follow a network are measured at the end."""
        if not method.labels_follow:
            self.results.keep_labelling(method, self.folder)

    def on_step(self, method: Method, step: int) -> ForLog:
        """Score the predictor for the log and for label-free choice, and show the sample images."""
        if step == self.stage.steps:
            return {}
        scores = {}
        if is_due(step, self.stage.evaluate_every):
            scores = self.results.quick_scores(method, self.stage, self.folder, step)
        if is_due(step, self.pictures_every):
            self.results.show(method, step)
        return {"scores": scores} if scores else {}
