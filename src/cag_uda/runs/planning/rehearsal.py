"""Run a recipe in small as `adapt` does, and time its parts by callbacks.

Sweeps and scores see a part of their images; their seconds are scaled to all of them.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lightning.fabric import Fabric

from cag_uda.data.domains.domain import Domain, Item
from cag_uda.data.loading.sampler import Shard
from cag_uda.methods.base import Method
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import INITIAL, Stage
from cag_uda.runs.bench.timing import wait_for
from cag_uda.runs.callbacks import Images, Watch
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.pictures import evenly
from cag_uda.runs.planning.forecast import Measured
from cag_uda.runs.progress import Silent
from cag_uda.runs.runner import StageRunner
from cag_uda.runs.scenario import Scenario
from cag_uda.training.callbacks import ForLog
from cag_uda.training.interrupt import StopRequest
from cag_uda.training.loggers import open_loggers
from cag_uda.training.loop import StageData
from cag_uda.training.memory import PeakMemory
from cag_uda.training.processes import Processes
from cag_uda.training.settings import ComputeConfig

WARM_UP = 2
"""Steps before those that are timed: they make what later ones find (momenta, the compiled
arithmetic of each shape)."""
FRAMES = 12
"""Most frames of the test split that are looked at; a multiple of a batch of evaluation."""
_SWEPT, _LONG_S = 24, 10.0
"""Most images that a sweep goes through, three chunks; a sweep that takes longer sees fewer."""
_LOADED = 3
"""Batches that each loader process has to give: as many as it reads ahead."""
_NEVER = 1 << 30
"""A step that no rehearsal reaches."""


class FewFrames(Domain):
    """A domain that lists FRAMES evenly spread images of each split of a whole one."""

    def __init__(self, whole: Domain) -> None:
        vars(self).update(vars(whole))

    def items(self, split: str, with_labels: bool = True) -> list[Item]:
        """List a few of the items of a split, evenly spread; see `Domain.items`."""
        items = super().items(split, with_labels)
        return [items[index] for index in evenly(len(items), FRAMES)]


def harmless(stage: Stage) -> Stage:
    """Lower a stage's learning rate, so that no network with a new head diverges in a few steps."""
    optim = stage.optim.model_copy(update={"learning_rate": 1e-9})
    return stage.model_copy(update={"optim": optim})


def shortened(
    recipe: Recipe, stages: Iterable[Stage], compute: ComputeConfig, timed: int
) -> Recipe:
    """Shorten a recipe to some of its stages, each from the initial network with `timed` steps."""
    short = [
        harmless(stage).model_copy(
            update={
                "steps": WARM_UP + timed if stage.steps else 0,
                "start": INITIAL,
                "refresh_every": None,
                "evaluate_every": stage.evaluate_every and _NEVER,
                "checkpoint_every": _NEVER,
            }
        )
        for stage in stages
    ]
    # Tracking services elsewhere get no entry for a rehearsal.
    loggers = tuple(name for name in recipe.tracking.loggers if name == "tensorboard")
    every = recipe.tracking.pictures_every and _NEVER
    tracking = recipe.tracking.model_copy(update={"loggers": loggers, "pictures_every": every})
    update = {"stages": tuple(short), "compute": compute, "deliver": "last", "tracking": tracking}
    return recipe.model_copy(update=update)


class Rehearsal(Watch, Silent):
    """Runs a shortened recipe in an empty folder, and times the parts of its stages.

    The run will have `devices` processes; this one does the share of one of them.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, scenario: Scenario, fabric: Fabric, devices: int
    ) -> None:
        self.measured: dict[str, Measured] = {}
        self.stage, self.part = recipe.stages[0], "preparation"
        self._recipe, self._device, self._devices = recipe, fabric.device, devices
        self._lap_began_s = time.perf_counter()
        few, self._frames = replace(scenario, test=FewFrames(scenario.test)), 1.0
        if scenario.test_split is not None:
            seen, whole = (each.test.items(scenario.test_split, False) for each in (few, scenario))
            self._frames = math.ceil(len(whole) / devices) / len(seen)
        run, processes, shard = RunFolder(folder), Processes(fabric), Shard(0, devices)
        run.create(recipe)
        self._loggers = open_loggers(recipe.tracking, folder, {}, self.note)
        self._runner = StageRunner(
            recipe, run, few, fabric, processes, StopRequest(), self, self._loggers, shard, self
        )

    def run(self, initial: Segmenter) -> float:
        """Run all stages; returns the seconds after the last of them.

        Where a GPU has not enough memory, `stage` and `part` say what for.
        """
        try:
            self._runner.run(initial)
        finally:
            self._loggers.close(True)
        return self._lap_s()

    def on_stage(self, stage: Stage, data: StageData) -> None:
        """Measure how fast the loader alone is, and begin to time the stage."""
        self.stage, self.part = stage, "preparation"
        self._now = self.measured[stage.name] = Measured()
        if stage.steps:
            wanted = _LOADED * max(1, self._recipe.loading.workers) + 1
            # Other images than the stage will read, which would find them in the file cache.
            arrived_s = [time.perf_counter() for _ in data.load(range(_NEVER, _NEVER + wanted))]
            self._now.load_s = (arrived_s[-1] - arrived_s[0]) / (wanted - 1)
        self._memory = PeakMemory(self._device)
        self._lap_s()

    def on_sweep(self, sweep: Iterator[Images], images: int) -> Iterator[Images]:
        """Yield the first batches, and note the seconds that all of them would take."""
        wait_for(self._device)
        began_s, seen = time.perf_counter(), 0
        for batch in sweep:
            yield batch
            seen += len(batch.image)
            wait_for(self._device)
            if seen >= _SWEPT or time.perf_counter() - began_s > _LONG_S:
                break
        elapsed_s = time.perf_counter() - began_s
        self._lap_began_s += elapsed_s
        whole_s = elapsed_s * math.ceil(images / self._devices) / max(1, seen)
        if self.part == "preparation":
            self._now.prepare_s += whole_s
        else:
            self._now.once_s += whole_s

    def on_prepared(self, method: Method) -> None:
        """Note the end of preparation."""
        self._now.prepare_s += self._lap_s()

    def on_start(self, folder: Path, step: int) -> None:
        """Note the end of labelling, which looks at each frame of the test split."""
        self.part, self._folder = "training", folder
        self._now.scoring_s = self._lap_s() * self._frames

    def on_step(self, method: Method, step: int) -> ForLog:
        """Note the end of the first steps, and of those that are timed."""
        if step == WARM_UP:
            self._now.once_s = self._lap_s()
        elif step == self.stage.steps:
            self._now.step_s = self._lap_s() / (step - WARM_UP)
            self._now.once_s -= WARM_UP * self._now.step_s
        return {}

    def on_end(self, method: Method) -> None:
        """Note the end of training; score and show pictures as the run will on its way."""
        now, results = self._now, self._runner.results
        now.save_s, self.part = self._lap_s(), "scoring"
        if self.stage.evaluate_every:
            results.quick_scores(method, self.stage, self._folder, self.stage.steps)
            now.evaluation_s = self._lap_s()
        if self._recipe.tracking.pictures_every:
            results.show(method, self.stage.steps)
            now.pictures_s = self._lap_s()
        now.training_mib, self._memory = self._memory.mib(), PeakMemory(self._device)

    def on_labelled(self) -> None:
        """Note the end of labelling, where labels follow the network."""
        self._now.scoring_s += self._lap_s() * self._frames

    def update(self, label: str, done: int, total: int, values: Mapping[str, float] = {}) -> None:
        """Note the end of scoring."""
        if label == f"scoring {self.stage.name}" and done == total:
            scored_s = self._lap_s()
            self._now.scoring_s += scored_s * self._frames
            self._now.evaluation_s += scored_s * (self._frames - 1)

    def on_kept(self) -> None:
        """Note the end of writing."""
        self._now.scoring_s += self._lap_s()
        self._now.scoring_mib = self._memory.mib()

    def _lap_s(self) -> float:
        """End a lap; returns the seconds since the last one ended, without sweeps."""
        wait_for(self._device)
        began_s, self._lap_began_s = self._lap_began_s, time.perf_counter()
        return max(0.0, self._lap_began_s - began_s)
