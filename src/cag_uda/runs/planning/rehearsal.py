"""Run a shortened recipe from end to end as `adapt` does, and time it by callbacks.

Gives measurements; `forecast` scales them to the whole recipe.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.fabric import Fabric

from cag_uda.data.domains.domain import Domain, Item
from cag_uda.data.loading.sampler import Shard
from cag_uda.methods.base import Method, Passes
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import Stage
from cag_uda.runs.bench.timing import wait_for
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.pictures import evenly
from cag_uda.runs.planning.trial import WARM_UP
from cag_uda.runs.progress import Silent
from cag_uda.runs.records.run import StageScores
from cag_uda.runs.runner import StageRunner
from cag_uda.runs.scenario import Scenario
from cag_uda.training.callbacks import Callback, ForLog
from cag_uda.training.interrupt import StopRequest
from cag_uda.training.loggers import open_loggers
from cag_uda.training.loop import StageData
from cag_uda.training.memory import PeakMemory
from cag_uda.training.processes import Processes

FRAMES = 12
"""Most frames of the test split that are looked at; a multiple of a batch of evaluation."""
_SWEPT = 24
"""Most images that a sweep goes through: three chunks."""
_LONG_S = 10.0
"""Most seconds of a sweep: a longer one is measured on fewer images."""


class Line(NamedTuple):
    """A time that grows with a number of images."""

    fixed_s: float = 0.0
    each_s: float = 0.0

    def of(self, count: int) -> float:
        """Seconds for so many images."""
        return self.fixed_s + self.each_s * count


SweptImages = Literal["source", "target", "held_out", "labelled"]
_NO_TIME = Line()


class Sweep(NamedTuple):
    """One sweep of a method over a domain, or over the beginning of it."""

    images_of: SweptImages
    images: int
    elapsed_s: float


@dataclass
class Measured:
    """Measurements of one stage of a rehearsal."""

    prepare_s: float = 0.0
    """Preparing the method, without sweeps."""
    before: list[Sweep] = field(default_factory=list)
    """Sweeps that precede the first step."""
    labelling: Line = _NO_TIME
    """Keeping anchors and the quality of pseudo-labels, by frames of the test split."""
    begin_s: float = 0.0
    """Starting the loader, and what the first steps take longer than later ones."""
    step_s: float = 0.0
    """One step, with a loader that has had time to read ahead."""
    evaluation: Line = _NO_TIME
    """One evaluation on the way, by frames."""
    pictures_s: float = 0.0
    """Pictures on the way, once."""
    save_s: float = 0.0
    """One checkpoint."""
    after: list[Sweep] = field(default_factory=list)
    """Sweeps that follow the last step."""
    keeping: Line = _NO_TIME
    """Scores, network and pictures at the end, by frames."""
    training_mib: float = 0.0
    """Peak until the last step, as the run's scores tell it."""
    scoring_mib: float = 0.0
    """Peak of what follows."""


class FewFrames(Domain):
    """A domain that lists FRAMES evenly spread images of each split.

    Args:
        whole: the domain; it is not changed.
    """

    def __init__(self, whole: Domain) -> None:
        vars(self).update(vars(whole))

    def items(self, split: str, with_labels: bool = True) -> list[Item]:
        """List a few of the items of a split, evenly spread; see `Domain.items`."""
        items = super().items(split, with_labels)
        return [items[index] for index in evenly(len(items), FRAMES)]


class Rehearsal(Silent):
    """Runs a short recipe on few images of sweeps and of the test split.

    It receives the run's progress, and so knows when evaluation and the writing of results end.

    Args:
        recipe: resolved, with stages of `short_stage`.
        run: a scratch folder with a begun run.
        scenario: of the whole recipe.
        fabric: of one process.
        devices: how many processes the run will have; this one does the share of one of them.
    """

    def __init__(
        self, recipe: Recipe, run: Path, scenario: Scenario, fabric: Fabric, devices: int
    ) -> None:
        self.measured: dict[str, Measured] = {}
        self.part, self.stage = "preparation", ""
        self._device, self._recipe, self._split = fabric.device, recipe, scenario.test_split
        self._loggers = open_loggers(recipe.tracking, run, {}, self.note)
        scenario = replace(scenario, test=FewFrames(scenario.test))
        self._frames = 1
        if scenario.test_split is not None:
            self._frames = len(scenario.test.items(scenario.test_split, with_labels=False))
        self._runner = StageRunner(
            recipe,
            RunFolder(run),
            scenario,
            fabric,
            Processes(fabric),
            StopRequest(),
            self,
            self._loggers,
            shard=Shard(0, devices),
            around=self._around,
        )
        self._times: dict[str, float] = {}
        self._memory: PeakMemory | None = None

    def run(self, initial: Segmenter) -> float:
        """Run all stages; returns the seconds after the last of them.

        Raises:
            torch.OutOfMemoryError: if a GPU has not enough; `stage` and `part` say where.
        """
        try:
            self._runner.run(initial)
        finally:
            self._loggers.close(True)
        return time.perf_counter() - self._times["kept"]

    def update(self, label: str, done: int, total: int, values: Mapping[str, float] = {}) -> None:
        """Note when the scoring of a finished stage begins and ends."""
        if label == f"scoring {self.stage}":
            if self.part != "scoring":
                self.part, self._memory = "scoring", PeakMemory(self._device)
            if done == total:
                self.mark("scored")

    def note(self, text: str) -> None:
        """Note when a stage's results are written: their message comes last."""
        entries = self._runner.results.scores.stages
        if entries and entries[-1].name == self.stage and "kept" not in self._times:
            self.mark("kept")
            self._conclude(entries[-1])

    def mark(self, name: str, is_synchronous: bool = True) -> None:
        """Note the time of an event; if synchronous, wait for the device before."""
        if is_synchronous:
            wait_for(self._device)
        self._times[name] = time.perf_counter()

    def _around(
        self, stage: Stage, data: StageData, callbacks: list[Callback]
    ) -> tuple[StageData, list[Callback]]:
        self.part, self.stage, self._times = "preparation", stage.name, {}
        self.measured[stage.name] = Measured()
        self._memory = None
        self.mark("begun")
        first, last = (_Marks(self, name, stage.steps) for name in ("before", "after"))
        return replace(data, passes=self._some(data.passes)), [first, *callbacks, last]

    def _some(self, whole: Passes) -> Passes:
        """Limit each sweep to its first images, and time it."""

        def some(of: SweptImages, sweep: Iterable[Any]) -> Iterator[Any]:
            wait_for(self._device)
            begun_s, images = time.perf_counter(), 0
            for batch in sweep:
                yield batch
                images += len(batch.image)
                wait_for(self._device)
                if images >= _SWEPT or time.perf_counter() - begun_s > _LONG_S:
                    break
            now = self.measured[self.stage]
            sweeps = now.before if self.part == "preparation" else now.after
            sweeps.append(Sweep(of, images, time.perf_counter() - begun_s))

        def unseen() -> Iterator[Any] | None:
            sweep = whole.held_out()
            return None if sweep is None else some("held_out", sweep)

        return replace(
            whole,
            source=lambda: some("source", whole.source()),
            target=lambda: some("target", whole.target()),
            held_out=unseen,
            labelled=lambda: some("labelled", whole.labelled()),
        )

    def _conclude(self, entry: StageScores) -> None:
        """Work out what a stage took, from the times of its parts."""
        now, at = self.measured[self.stage], self._times
        stage = next(each for each in self._recipe.stages if each.name == self.stage)
        prepared_s = at["before prepared"] - at["begun"]
        now.prepare_s = max(0.0, prepared_s - _total_s(now.before))
        labelled_s = at["after prepared"] - at["before prepared"]
        now.labelling = Line(each_s=labelled_s / self._frames)
        trained_s = at["before ended"]
        scored_s = at.get("scored", trained_s)
        each_s = (scored_s - trained_s) / self._frames
        now.keeping = Line(at["kept"] - scored_s, each_s)
        if stage.steps:
            last = stage.steps
            timed_s = at[f"before {last - 2}"] - at[f"after {WARM_UP}"]
            now.step_s = timed_s / (last - 2 - WARM_UP)
            first_s = at[f"before {WARM_UP}"] - at["after started"]
            now.begin_s = max(0.0, first_s - WARM_UP * now.step_s)
            now.pictures_s = at[f"after {last - 2}"] - at[f"before {last - 2}"]
            if stage.evaluate_every:
                evaluated_s = at[f"after {last - 1}"] - at[f"before {last - 1}"]
                now.evaluation = Line(max(0.0, evaluated_s - self._frames * each_s), each_s)
            now.save_s = max(0.0, trained_s - at[f"after {last}"] - _total_s(now.after))
        now.training_mib = entry.peak_memory_mib or 0.0
        now.scoring_mib = self._memory.mib() if self._memory else now.training_mib


class _Marks(Callback):
    """Marks the times of the loop's events; two of them enclose the run's own callbacks."""

    def __init__(self, rehearsal: Rehearsal, name: str, steps: int) -> None:
        self._rehearsal, self._name = rehearsal, name
        self._waited = {WARM_UP, *range(steps - 2, steps + 1)}

    def on_prepared(self, method: Method) -> None:
        """Mark the end of preparation, or of labelling."""
        self._rehearsal.mark(f"{self._name} prepared")

    def on_start(self, folder: Path, step: int) -> None:
        """Mark the beginning of training."""
        self._rehearsal.part = "training"
        self._rehearsal.mark(f"{self._name} started")

    def on_end(self, method: Method) -> None:
        """Mark the end of training."""
        self._rehearsal.mark(f"{self._name} ended")

    def on_step(self, method: Method, step: int) -> ForLog:
        """Mark a step; steps that are timed together do not wait for the device."""
        self._rehearsal.mark(f"{self._name} {step}", step in self._waited)
        return {}


def short_stage(stage: Stage, timed: int) -> Stage:
    """Shorten a stage to few steps, with an evaluation after the last but one.

    Args:
        stage: as the recipe has it.
        timed: steps that are timed.
    """
    steps = WARM_UP + timed + 2
    every = None if stage.evaluate_every is None else steps - 1
    return stage.model_copy(
        update={
            "steps": steps if stage.steps else 0,
            "refresh_every": None,
            "evaluate_every": every,
            "checkpoint_every": 1 << 30,
        }
    )


def _total_s(sweeps: list[Sweep]) -> float:
    return sum(sweep.elapsed_s for sweep in sweeps)
