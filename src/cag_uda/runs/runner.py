"""Run a recipe from its first stage to the delivered network, or continue where it stopped."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from lightning.fabric import Fabric

from cag_uda.data.loading.images import LabelledImages
from cag_uda.data.loading.sampler import BatchSource, Shard, load_batches
from cag_uda.data.loading.sweeps import sweep_source, sweep_target
from cag_uda.errors import ModelError, RecipeError, RunError
from cag_uda.methods import METHODS
from cag_uda.methods.base import Method, Passes
from cag_uda.models.norm import make_shareable
from cag_uda.models.recomputing import recompute
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.storage import CONFIG, WEIGHTS, copy_model, read
from cag_uda.recipes import Recipe, as_toml, changed, completed, load_recipe
from cag_uda.recipes.schema import INITIAL, Stage
from cag_uda.report import write_report
from cag_uda.runs.callbacks import Images, Reporting, Watch
from cag_uda.runs.card import write_card
from cag_uda.runs.class_shares import record_class_shares
from cag_uda.runs.console import shown
from cag_uda.runs.criteria import record_missing
from cag_uda.runs.fingerprint import fingerprint
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.initial import initial_segmenter
from cag_uda.runs.progress import Progress, Silent
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.run import VERDICT, Scores, Verdict, read_reason, read_verdict
from cag_uda.runs.results import Results
from cag_uda.runs.scenario import Scenario, held_out
from cag_uda.runs.selection import best_kept, checkpoints
from cag_uda.runs.verdict import baseline, given, judge
from cag_uda.training.callbacks import Callback
from cag_uda.training.checkpoint import drop_previous
from cag_uda.training.compute import (
    describe,
    launch,
    memory_format,
    resolve,
    set_memory_format,
    with_precision,
)
from cag_uda.training.interrupt import StopRequest, stop_on_signals
from cag_uda.training.loggers import Loggers, open_loggers, require_libraries
from cag_uda.training.loop import StageData, train_stage
from cag_uda.training.memory import PeakMemory, out_of_memory_told
from cag_uda.training.processes import Processes
from cag_uda.training.settings import ComputeConfig
from cag_uda.types import Batch, Labelled, Unlabelled

_SWEEP_CHUNK = 8
_UNWATCHED = Watch()


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    scores: Scores
    """Content of RUN/scores.json."""

    @property
    def model(self) -> Path:
        """The folder of the delivered network, for `cag_uda.load`."""
        return RunFolder(self.folder).model

    @property
    def verdict(self) -> Verdict | None:
        """Read the verdict without labels of the target; None where the run has none."""
        return read_verdict(self.folder)

    @property
    def no_verdict_because(self) -> str | None:
        """Read why there is no verdict; None where there is one."""
        return read_reason(self.folder)

    def __repr__(self) -> str:
        """Name the folder, and the stages with their scores, in one line."""
        stages = ", ".join(
            stage.name if stage.miou is None else f"{stage.name} {100 * stage.miou:.1f}"
            for stage in self.scores.stages
        )
        return f"Run({str(self.folder)!r}, mIoU by stage: {stages})"


def adapt(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    data_root: str | Path | None = None,
    overrides: Mapping[str, object] | None = None,
    progress: Progress | bool | None = None,
) -> Run:
    """Adapt a network: every stage of a recipe.

    Args:
        recipe: a recipe, a built-in one's name, or the path of a TOML file.
        out: the run folder; it must be new or empty, unless `resume`.
        resume: go on with the run that `out` holds.
        data_root: folder below which built-in domains lie, in place of the recipe's.
        overrides: changes of the recipe by dotted keys, as `--set` takes them on the command line,
            such as `{"stages.*.steps": 100, "loading.batch_size": 2}`.
        progress: receives the progress; True prints it, False does not, None prints it in terminals
            and notebooks.

    Returns:
        The finished run.

    Raises:
        UserError: for anything wrong with recipe, data, device or folder.
        Interrupted: on SIGTERM or Ctrl-C, with everything saved for `resume`.
    """
    if not isinstance(recipe, Recipe | str | Path):
        raise RecipeError(
            f"the recipe is a built-in one's name, the path of a TOML file or a Recipe, got "
            f"{type(recipe).__name__}"
        )
    changes = [f"{key}={as_toml(value)}" for key, value in (overrides or {}).items()]
    root = None if data_root is None else Path(data_root).absolute()
    if isinstance(recipe, Recipe):
        if root is not None:
            recipe = recipe.model_copy(update={"data_root": str(root)})
        recipe = completed(changed(recipe, changes))
    else:
        recipe = load_recipe(recipe, changes, root)
    require_libraries(recipe.tracking.loggers)
    run = RunFolder(Path(out))
    if resume:
        recipe = run.resume(recipe)
    else:
        run.refuse_what_is_in_the_way()
    fabric = launch(recipe.compute)
    with Processes(fabric) as processes, out_of_memory_told(), ExitStack() as held:
        progress = shown(progress) if processes.is_first else Silent()
        with processes.agreed():
            if problem := recipe.problem_with_processes(processes.count):
                raise RecipeError(problem)
            if resume and processes.is_first:
                held.enter_context(run.owned())
                run.reopen(recipe, progress.note)
        scenario = _open_scenario(recipe, processes, progress)
        if scenario.labelled is not None:
            progress.note(f"labels of {len(scenario.labelled)} images of the target are trained on")
        with processes.agreed():
            if resume and processes.is_first:
                run.compare_data(fingerprint(recipe), progress.note)
            initial = initial_segmenter(recipe, scenario)
        if initial.backbone.origin:
            progress.note(initial.backbone.origin)
        if not resume:
            recipe = _begin(recipe, run, processes, initial, held)
        progress.note(describe(recipe.compute, processes.count))
        fabric = with_precision(fabric, recipe.compute)
        stop = held.enter_context(stop_on_signals())
        loggers = Loggers({}, progress.note)
        with processes.agreed():
            if processes.is_first:
                settings = recipe.model_dump(mode="json")
                loggers = open_loggers(recipe.tracking, run.path, settings, progress.note)
        held.push(lambda kind, *_: loggers.close(is_finished=kind is None))
        runner = StageRunner(recipe, run, scenario, fabric, processes, stop, progress, loggers)
        return Run(run.path, runner.run(initial))


def _open_scenario(recipe: Recipe, processes: Processes, progress: Progress) -> Scenario:
    """Open the domains, in the first process of each machine before the others.

    It renders the scenes that are missing, and the others find them.
    """
    scenario = None
    for is_turn in (processes.is_first_here, not processes.is_first_here):
        with processes.agreed():
            if is_turn:
                scenario = Scenario.open(recipe, progress.note)
    return cast(Scenario, scenario)


def _begin(
    recipe: Recipe, run: RunFolder, processes: Processes, initial: Segmenter, held: ExitStack
) -> Recipe:
    """Resolve "auto" settings in the first process, for all of them, and begin the run folder."""
    compute = recipe.compute
    with processes.agreed():
        if processes.is_first:
            batch = recipe.loading.batch_size // processes.count
            crop_px = recipe.loading.crop_px
            compute = resolve(compute, initial, crop_px, batch, trains=recipe.trains)
            recipe = recipe.model_copy(update={"compute": compute})
            held.enter_context(run.owned())
            recipe = run.create(recipe, fingerprint(recipe))
    return processes.gather(recipe)[0]


class StageRunner:
    """Runs the stages of a resolved recipe in order; a stage that is done is skipped.

    A request to stop is looked for between two steps and in sweeps. Without `shard`, this process's
    part of the work follows from rank and number of the processes. `watch` is told of all stages.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        scenario: Scenario,
        fabric: Fabric,
        processes: Processes,
        stop: StopRequest,
        progress: Progress,
        loggers: Loggers,
        shard: Shard | None = None,
        watch: Watch = _UNWATCHED,
    ) -> None:
        self.recipe, self.run_folder, self.scenario = recipe, run, scenario
        self.fabric, self.processes, self.stop, self.progress = fabric, processes, stop, progress
        self.shard = shard or Shard(processes.rank, processes.count)
        self.loggers, self.watch = loggers, watch
        self.results = Results(recipe, run, scenario, processes, progress, loggers)

    def run(self, initial: Segmenter) -> Scores:
        """Run all stages; returns the scores."""
        folder = self.run_folder
        if baseline(self.recipe) == INITIAL and not self._is_done(INITIAL, folder.initial):
            self._keep_given(initial)
        for index, stage in enumerate(self.recipe.stages):
            if not self._is_done(stage.name, folder.stage(index, stage.name)):
                self._run_stage(index, stage, initial)
                with self.processes.agreed():
                    self.stop.check()
        network = ""
        with self.processes.agreed():
            if self.processes.is_first:
                delivered = self._delivered()
                copy_model(delivered, folder.model)
                write_card(folder.model, initial, self.recipe, self.results.scores, delivered)
                network = delivered.relative_to(folder.path).as_posix()
        record_class_shares(
            self.recipe,
            self.scenario,
            folder,
            self.processes.gather(network)[0],
            self.fabric.device,
            self.processes,
            self.stop,
            self.progress,
        )
        with self.processes.agreed():
            if self.processes.is_first:
                write_report(folder.path)
        return self.results.scores

    def _delivered(self) -> Path:
        """Choose the model folder that becomes the run's, and record the verdict."""
        path, stages = self.run_folder.path, self.recipe.stages
        record_missing(path)
        verdict = judge(path, self.recipe)
        write_record(path / VERDICT, verdict)
        if self.recipe.deliver == "safe" and isinstance(verdict, Verdict):
            return path / verdict.of(verdict.safe).network
        if self.recipe.deliver in ("safe", "last"):
            return self.run_folder.stage(len(stages) - 1, stages[-1].name) / "model"
        chosen = best_kept(checkpoints(path), self.recipe.deliver)
        self.progress.note(
            f"delivered by {self.recipe.deliver}: {chosen.stage} after {chosen.step} steps"
        )
        return cast(Path, chosen.network)

    def _is_done(self, stage: str, folder: Path) -> bool:
        """Tell whether a stage is scored and its network kept; one that is lost is made anew."""
        if self.results.scores.stage(stage) is None:
            return False
        is_there = all((folder / "model" / name).is_file() for name in (WEIGHTS, CONFIG))
        is_kept = self.processes.gather(is_there)[0]
        if not is_kept:
            self.progress.note(f"the network of stage {stage!r} is lost: the stage is made again")
        return is_kept

    def _keep_given(self, initial: Segmenter) -> None:
        """Score and keep the network that the run begins with, which predicts as it was given."""
        kind, start = given(self.recipe), self.recipe.segmenter.start
        assert kind is not None, "the baseline is a network that was given"
        with self.processes.agreed():
            pack = self.scenario.pack
            config = read(str(start)).config if pack is None else pack.config
            segmenter = _copy_of(initial)
            # With other shares of the target's batch-norm statistics it would predict otherwise.
            if config.norm == segmenter.config.norm == "per-domain":
                segmenter.set_target_share(config.target_share)
            segmenter.to(self.fabric.device)
        self.results.keep_given(segmenter, kind)

    def _run_stage(self, index: int, stage: Stage, initial: Segmenter) -> None:
        folder = self.run_folder.stage(index, stage.name)
        segmenter = self._starting_segmenter(index, initial)
        seed = self.recipe.seed * 100 + index
        # What a method draws at random (a discriminator) must not depend on the stages before,
        # which a resumed run does not repeat.
        torch.manual_seed(seed)
        memory = PeakMemory(self.fabric.device)
        compute, is_shared = self.recipe.compute, self.shard.world_size > 1
        method = build_method(segmenter, stage, compute, self.fabric.device, is_shared)
        data = self.data(index)
        self.watch.on_stage(stage, data)
        done = train_stage(
            self.fabric,
            self.processes,
            method,
            stage,
            compute,
            data,
            self.callbacks(index),
            seed=seed,
            folder=folder,
            stop=self.stop,
        )
        start, peak_mib = self.recipe.start_of(index), memory.mib()
        if method.labels_follow:
            self.results.keep_labelling(method, folder)
            self.watch.on_labelled()
        self.results.keep(stage, start, method, folder, done.elapsed_s, peak_mib)
        self.watch.on_kept()
        if self.processes.is_first:
            drop_previous(folder / "checkpoint")

    def _starting_segmenter(self, index: int, initial: Segmenter) -> Segmenter:
        start = self.recipe.start_of(index)
        if start == INITIAL:
            return _copy_of(initial)
        names = [stage.name for stage in self.recipe.stages]
        folder = self.run_folder.stage(names.index(start), start) / "model"
        try:
            return Segmenter.from_pretrained(folder)
        except ModelError as error:
            raise RunError(f"cannot start stage {names[index]!r}: {error}") from error

    def data(self, index: int) -> StageData:
        """Make the data that a stage learns from."""
        method = METHODS[self.recipe.stages[index].method.name]
        batches = BatchSource(
            self.scenario.sources if method.uses_source else (),
            self.scenario.target,
            self.recipe.loading,
            self.recipe.seed,
            index,
            self.shard,
            self.scenario.labelled if method.learns_from_target_labels else None,
        )

        def load(steps: range) -> Generator[Batch, None, None]:
            return load_batches(batches, steps, self.fabric.device)

        return StageData(self._passes(), load, batches.files)

    def callbacks(self, index: int) -> list[Callback]:
        """Make the callbacks of a stage, in this order."""
        stage, every = self.recipe.stages[index], self.recipe.tracking.pictures_every
        label = f"{index + 1}/{len(self.recipe.stages)} {stage.name}"
        folder = self.run_folder.stage(index, stage.name)
        own = Reporting(self.results, self.progress, stage, label, folder, every)
        return [self.watch, self.loggers, own]

    def _passes(self) -> Passes:
        scenario, loading, device = self.scenario, self.recipe.sweep_loading, self.fabric.device

        def labelled(*splits: LabelledImages | None) -> Iterator[Labelled]:
            for images in splits:
                if images is not None:
                    sweep = sweep_source(images, loading, _SWEEP_CHUNK, self.shard, device)
                    visited = min(len(images), loading.sweep_images or len(images))
                    yield from self._together(sweep, visited)

        def target() -> Iterator[Unlabelled]:
            sweep = sweep_target(scenario.target, loading, _SWEEP_CHUNK, self.shard, device)
            return self._together(sweep, len(scenario.target))

        def unseen() -> Iterator[Labelled] | None:
            images = held_out(self.recipe)
            return None if images is None else labelled(images)

        source, few = partial(labelled, *scenario.sources), partial(labelled, scenario.labelled)
        return Passes(source, target, self.processes.total, unseen, scenario.pack, few)

    def _together(self, sweep: Iterator[Images], images: int) -> Iterator[Images]:
        """Yield this process's share of a sweep; a signal or a broken file ends it in all."""
        with self.processes.agreed():
            for batch in self.watch.on_sweep(sweep, images):
                yield batch
                self.stop.check()


def _copy_of(initial: Segmenter) -> Segmenter:
    segmenter = Segmenter(initial.config.model_copy(update={"weights": None}), initial.classes)
    segmenter.config = initial.config
    segmenter.load_state_dict(initial.state_dict())
    return segmenter


def build_method(
    segmenter: Segmenter,
    stage: Stage,
    compute: ComputeConfig,
    device: torch.device,
    is_shared: bool,
) -> Method:
    """Build the method of a stage, on a device, that trains the network it starts from in place.

    `is_shared` tells whether several processes share each batch.
    """
    if is_shared:
        make_shareable(segmenter)
    method = METHODS[stage.method.name](segmenter, stage.method)
    method.to(device)
    recompute(method.segmenter, compute.checkpointing)
    set_memory_format(method, memory_format(compute))
    return method
