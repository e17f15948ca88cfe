"""A recipe tried out in small: a run's own code, over few steps and few images, with a watch on it.

Knows what was measured; what that means for the whole recipe is worked out in `planning`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.fabric import Fabric

from cag_uda.data.domains.domain import Domain, Item
from cag_uda.data.loading.sampler import Shard
from cag_uda.methods.base import Method, Passes
from cag_uda.models.norm import make_shareable
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import Stage
from cag_uda.runs.bench.timing import wait_for
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.pictures import evenly
from cag_uda.runs.progress import Silent
from cag_uda.runs.results import Results
from cag_uda.runs.runner import StageRunner
from cag_uda.runs.scenario import Scenario
from cag_uda.training.interrupt import StopRequest
from cag_uda.training.loop import Hooks
from cag_uda.training.memory import PeakMemory
from cag_uda.training.processes import Processes
from cag_uda.training.tracking import open_trackers
from cag_uda.types import Batch, Labelled, Unlabelled

WARM_UP = 2
"""Steps before those that are timed: they make what later ones find (momenta, the compiled
arithmetic of each shape)."""
FRAMES = 12
"""Most frames of the test split that are looked at; a multiple of a batch of evaluation."""
_SWEPT = 24
"""Most images that a sweep goes through: three chunks."""
_LONG_S = 10.0
"""What is slower than this is measured in fewer images."""


class Line(NamedTuple):
    """A time that grows with a number of images."""

    fixed_s: float = 0.0
    each_s: float = 0.0

    def of(self, count: int) -> float:
        """Seconds for so many images."""
        return self.fixed_s + self.each_s * count


_NO_TIME = Line()

Sweeper = Callable[[], Iterable[Any]]
SweptImages = Literal["source", "target", "held_out"]


class Sweep(NamedTuple):
    """One sweep of a method over a domain, or over the beginning of it."""

    images_of: SweptImages
    images: int
    elapsed_s: float


@dataclass
class Measured:
    """What one stage of a rehearsal took."""

    part: Literal["preparation", "training", "scoring"] = "preparation"
    """How far it came."""
    prepare_s: float = 0.0
    """Building the method and preparing it, without sweeps."""
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
    """A domain that lists a few evenly spread images of each split.

    Args:
        whole: the domain; it is not changed.
    """

    def __init__(self, whole: Domain) -> None:
        vars(self).update(vars(whole))
        self.most = FRAMES

    def items(self, split: str, with_labels: bool = True) -> list[Item]:
        """As `Domain.items`, at most `most` of them."""
        items = super().items(split, with_labels)
        return [items[index] for index in evenly(len(items), self.most)]

    def count(self, split: str | None) -> int:
        """How many images the split really has; none, if there is no split."""
        return 0 if split is None else len(super().items(split, with_labels=False))


class _Watch(Silent):
    """Progress that tells nobody, and remembers when the first piece of work had ended."""

    def __init__(self) -> None:
        self.first_end_s: float | None = None

    def begin(self) -> None:
        """Forget what was before."""
        self.first_end_s = None

    def update(self, label: str, done: int, total: int, values: Mapping[str, float] = {}) -> None:
        """Remember the time."""
        if done == total and self.first_end_s is None:
            self.first_end_s = time.perf_counter()


class _Timed(StageRunner):
    """Runs stages and keeps what each took in `measured`, by its name."""

    def __init__(self, recipe: Recipe, run: RunFolder, scenario: Scenario, fabric: Fabric) -> None:
        self.watch = _Watch()
        trackers = open_trackers(recipe.tracking, run.path, {}, self.watch.note)
        processes = Processes(fabric)
        stop = StopRequest()
        super().__init__(recipe, run, scenario, fabric, processes, stop, self.watch, trackers)
        self.measured: dict[str, Measured] = {}
        self.now = Measured()
        self._mark_s = time.perf_counter()

    def _starting_segmenter(self, index: int, initial: Segmenter) -> Segmenter:
        segmenter = super()._starting_segmenter(index, initial)
        # One process may stand for several with an image each.
        make_shareable(segmenter)
        return segmenter

    def lap(self) -> float:
        """Seconds since the last call; waits for the device."""
        wait_for(self.fabric.device)
        last_s, self._mark_s = self._mark_s, time.perf_counter()
        return self._mark_s - last_s

    def _run_stage(self, index: int, stage: Stage, initial: Segmenter) -> None:
        self.now = self.measured[stage.name] = Measured()
        self.lap()
        super()._run_stage(index, stage, initial)

    def timed(self, batches: Iterator[Batch], count: int) -> Iterator[Batch]:
        """Hand `count` batches through; the steps between the warm-up and the last are timed."""
        for place, batch in enumerate(batches):
            if place == WARM_UP:
                self.now.begin_s = self.lap()
            if place == count - 1:
                self.now.step_s = self.lap() / (place - WARM_UP)
                between_s = self.now.evaluation.fixed_s + self.now.pictures_s
                begin_s = self.now.begin_s - WARM_UP * self.now.step_s - between_s
                self.now.begin_s = max(0.0, begin_s)
            yield batch


class Rehearsal(_Timed):
    """Runs a short recipe from end to end as `adapt` does, on few images of sweeps and of the test.

    Each stage takes more than WARM_UP + 1 steps and, where it evaluates or shows pictures on the
    way, does so after WARM_UP of them.

    Args:
        recipe: resolved, with stages that start from the initial network.
        run: a scratch folder, begun.
        scenario: whole.
        fabric: of one process.
        devices: how many processes the run will have; this one does the share of one of them.
    """

    def __init__(
        self, recipe: Recipe, run: RunFolder, scenario: Scenario, fabric: Fabric, devices: int
    ) -> None:
        self.frames = FewFrames(scenario.test)
        self.count = self.frames.count(scenario.test_split)
        self.shown = min(FRAMES, self.count)
        super().__init__(recipe, run, replace(scenario, test=self.frames), fabric)
        self.shard = Shard(0, devices)
        self.results = _WatchedResults(self.results, self)

    def _passes(self) -> Passes:
        whole = super()._passes()

        def some(of: SweptImages, all_of: Sweeper) -> Callable[[], Iterator[Any]]:
            return lambda: self._beginning(of, all_of())

        def unseen() -> Iterator[Labelled] | None:
            sweep = whole.held_out()
            return None if sweep is None else self._beginning("held_out", sweep)

        return Passes(
            some("source", whole.source), some("target", whole.target), whole.all_reduce, unseen
        )

    def _beginning(self, images_of: SweptImages, sweep: Iterable[Any]) -> Iterator[Any]:
        """The first batches of a sweep, timed."""
        begun_s, images = self._clock_s(), 0
        for batch in sweep:
            yield batch
            images += len(batch.image)
            if images >= _SWEPT or self._clock_s() - begun_s > _LONG_S:
                break
        sweeps = self.now.before if self.now.part == "preparation" else self.now.after
        sweeps.append(Sweep(images_of, images, self._clock_s() - begun_s))

    def _hooks(self, index: int, stage: Stage, folder: Path) -> Hooks:
        hooks = super()._hooks(index, stage, folder)

        def load(steps: range) -> Iterator[Batch]:
            return self.timed(hooks.load(steps), len(steps))

        def prepared(method: Method) -> None:
            self.now.prepare_s = self.lap() - _total_s(self.now.before)
            self.now.labelling = self._by_frames(lambda: hooks.prepared(method))
            self.now.part = "training"
            self.lap()

        def evaluate(method: Method, step: int) -> dict[str, Any]:
            if step > WARM_UP:
                return {}
            begun_s = self._clock_s()
            scores = hooks.evaluate(method, step)
            self.now.evaluation = Line(self._clock_s() - begun_s)
            return scores

        def show(method: Method, step: int) -> None:
            if step > WARM_UP:
                return
            begun_s = self._clock_s()
            hooks.show(method, step)
            self.now.pictures_s = self._clock_s() - begun_s

        def progress(step: int, steps: int, losses: Mapping[str, float]) -> None:
            if step == steps:
                self.lap()

        return replace(
            hooks, load=load, prepared=prepared, evaluate=evaluate, show=show, progress=progress
        )

    def _by_frames(self, work: Callable[[], None]) -> Line:
        """Do some work on the frames of the test split, and find how its time grows with them."""
        first_s = self._time(work)
        if self.count == self.shown:
            return Line(first_s)
        if first_s > _LONG_S:
            return Line(0.0, first_s / FRAMES)
        self.frames.most = FRAMES // 2
        half_s = self._time(work)
        self.frames.most = FRAMES
        each_s = max(0.0, self._time(work) - half_s) / (FRAMES - FRAMES // 2)
        return Line(first_s - FRAMES * each_s, each_s)

    def _time(self, work: Callable[[], None]) -> float:
        begun_s = self._clock_s()
        work()
        return self._clock_s() - begun_s

    def _clock_s(self) -> float:
        wait_for(self.fabric.device)
        return time.perf_counter()


class _WatchedResults(Results):
    """Results that are timed while a stage's are kept.

    Args:
        results: theirs is everything.
        rehearsal: is told.
    """

    def __init__(self, results: Results, rehearsal: Rehearsal) -> None:
        vars(self).update(vars(results))
        self._rehearsal = rehearsal

    def keep(
        self, stage: Stage, start: str, method: Method, folder: Path, cost: dict[str, float]
    ) -> None:
        """As `Results.keep`."""
        now, watch = self._rehearsal.now, self._rehearsal.watch
        if stage.steps:
            now.save_s = max(0.0, self._rehearsal.lap() - _total_s(now.after))
        now.training_mib, now.part = cost["peak_memory_mib"], "scoring"
        memory = PeakMemory(self._rehearsal.fabric.device)
        watch.begin()
        begun_s = time.perf_counter()
        super().keep(stage, start, method, folder, cost)
        kept_s, now.scoring_mib = time.perf_counter() - begun_s, memory.mib()
        now.keeping = Line(kept_s)
        if watch.first_end_s is not None:
            shown = self._rehearsal.shown
            each_s = (watch.first_end_s - begun_s) / shown
            now.keeping = Line(kept_s - shown * each_s, each_s)
            if now.evaluation.fixed_s:
                now.evaluation = Line(now.evaluation.fixed_s - shown * each_s, each_s)


class StepTrial(_Timed):
    """Takes some steps of one stage on made-up crops: what a step holds and takes, nothing else.

    Args:
        recipe: resolved, with that stage alone.
        run: a scratch folder.
        scenario: of the recipe.
        fabric: of one process.
    """

    def __init__(self, recipe: Recipe, run: RunFolder, scenario: Scenario, fabric: Fabric) -> None:
        super().__init__(recipe, run, scenario, fabric)
        self.results = _CostAlone(self.results, self)

    def measure(self, initial: Segmenter) -> Measured:
        """Take the steps of the stage.

        Args:
            initial: the network to start from; it is not changed.

        Raises:
            torch.OutOfMemoryError: if a GPU has not enough.
        """
        (stage,) = self.recipe.stages
        try:
            self._run_stage(0, stage, initial)
        finally:
            self.trackers.close(True)
        return self.now

    def _passes(self) -> Passes:
        batch = self._batch()
        return Passes(lambda: [batch.source], lambda: [batch.target], self.processes.total)

    def _hooks(self, index: int, stage: Stage, folder: Path) -> Hooks:
        batch = self._batch()

        def load(steps: range) -> Iterator[Batch]:
            return self.timed(repeat(batch, len(steps)), len(steps))

        return replace(
            super()._hooks(index, stage, folder),
            load=load,
            prepared=lambda method: None,
            evaluate=lambda method, step: {},
            show=lambda method, step: None,
        )

    def _batch(self) -> Batch:
        """Noise, of the sizes that the recipe asks for."""
        device, loading = self.fabric.device, self.recipe.loading
        size = (loading.batch_size, *loading.crop_px)
        shape = (loading.batch_size, 3, *loading.crop_px)
        label = torch.randint(self.scenario.label_space.num_classes, size, device=device)
        target = torch.rand(shape, device=device)
        return Batch(Labelled(torch.rand(shape, device=device), label), Unlabelled(target, target))


class _CostAlone(Results):
    """Results that keep nothing but what a stage took."""

    def __init__(self, results: Results, trial: StepTrial) -> None:
        vars(self).update(vars(results))
        self._trial = trial

    def keep(
        self, stage: Stage, start: str, method: Method, folder: Path, cost: dict[str, float]
    ) -> None:
        """Note the memory."""
        self._trial.now.training_mib = cost["peak_memory_mib"]


def _total_s(sweeps: list[Sweep]) -> float:
    return sum(sweep.elapsed_s for sweep in sweeps)
