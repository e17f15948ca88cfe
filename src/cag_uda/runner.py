"""A recipe run from its first stage to the delivered network, or on from where it stopped."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor

from cag_uda.data.loading import BatchSource, Shard, load_batches, sweep_source, sweep_target
from cag_uda.errors import ModelError, RunError
from cag_uda.methods import METHODS
from cag_uda.methods.base import Method, Passes
from cag_uda.models.segmenter import Segmenter
from cag_uda.progress import Progress, Silent
from cag_uda.recipes import Recipe, load_recipe
from cag_uda.recipes.schema import INITIAL, Stage
from cag_uda.report import write_report
from cag_uda.run_folder import RunFolder
from cag_uda.scenario import Scenario
from cag_uda.stage_results import Results
from cag_uda.training.compute import (
    describe,
    make_fabric,
    memory_format,
    prepare_process,
    resolve,
    set_memory_format,
)
from cag_uda.training.interrupt import StopRequest, stop_on_signals
from cag_uda.training.loop import Hooks, StagePlan, train_stage
from cag_uda.types import Batch

_SWEEP_CHUNK = 8


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    scores: dict[str, Any]
    """What RUN/scores.json holds."""

    @property
    def model(self) -> Path:
        """The folder of the delivered network, for `cag_uda.load`."""
        return RunFolder(self.folder).model


def adapt(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    data_root: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Adapt a network: every stage of a recipe.

    Args:
        recipe: a recipe, a built-in one's name, or the path of a TOML file.
        out: the run folder; it must be new or empty, unless `resume`.
        resume: go on with the run that `out` holds.
        data_root: folder below which built-in domains lie, in place of the recipe's.
        progress: told how far the work is; None tells nobody.

    Returns:
        The finished run.

    Raises:
        UserError: for anything wrong with recipe, data, device or folder.
        Interrupted: on SIGTERM or Ctrl-C, with everything saved for `resume`.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, data_root=None if data_root is None else Path(data_root))
    prepare_process()
    run = RunFolder(Path(out))
    recipe = run.resume(recipe) if resume else recipe
    progress = progress or Silent()
    scenario = Scenario.open(recipe, progress.note)
    initial = _initial_segmenter(recipe, scenario)
    if not resume:
        devices = recipe.compute.devices
        compute = resolve(
            recipe.compute, initial, recipe.loading.crop_px, recipe.loading.batch_size // devices
        )
        recipe = recipe.model_copy(update={"compute": compute})
    progress.note(describe(recipe.compute))
    fabric = make_fabric(recipe.compute)
    if fabric.is_global_zero and not resume:
        run.create(recipe)
    fabric.barrier()
    with stop_on_signals() as stop:
        runner = _Runner(recipe, run, scenario, fabric, stop, progress)
        scores = runner.run(initial)
    return Run(run.path, scores)


class _Runner:
    """Takes the stages in order; a stage that is done is skipped."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        scenario: Scenario,
        fabric: Fabric,
        stop: StopRequest,
        progress: Progress,
    ) -> None:
        self.recipe, self.run_folder, self.scenario = recipe, run, scenario
        self.fabric, self.stop, self.progress = fabric, stop, progress
        self.shard = Shard(fabric.global_rank, fabric.world_size)
        self.results = Results(recipe, run, scenario, progress)

    def run(self, initial: Segmenter) -> dict[str, Any]:
        """All stages; returns the scores."""
        for index, stage in enumerate(self.recipe.stages):
            if not self.results.has(stage.name):
                self._run_stage(index, stage, initial)
                self.stop.check()
        last = len(self.recipe.stages) - 1
        delivered = self.run_folder.stage(last, self.recipe.stages[last].name) / "model"
        if self.fabric.is_global_zero:
            shutil.copytree(delivered, self.run_folder.model, dirs_exist_ok=True)
            write_report(self.run_folder.path)
        self.fabric.barrier()
        return self.results.scores

    def _run_stage(self, index: int, stage: Stage, initial: Segmenter) -> None:
        folder = self.run_folder.stage(index, stage.name)
        segmenter = self._starting_segmenter(index, initial)
        seed = self.recipe.seed * 100 + index
        # What a method draws at random (a discriminator) must not depend on the stages before,
        # which a resumed run does not repeat.
        torch.manual_seed(seed)
        method = METHODS[stage.method.name](segmenter, stage.method)
        method.to(self.fabric.device)
        set_memory_format(method, memory_format(self.recipe.compute))
        plan = StagePlan(
            steps=stage.steps,
            optim=stage.optim,
            seed=seed,
            refresh_every=stage.refresh_every,
            evaluate_every=stage.evaluate_every,
            log_every=stage.log_every,
            checkpoint_every=stage.checkpoint_every,
        )
        done = train_stage(
            self.fabric,
            method,
            plan,
            self._passes(),
            self._hooks(index, stage, folder),
            folder,
            self.stop,
        )
        if self.fabric.is_global_zero:
            start = self.recipe.start_of(index)
            self.results.keep(index, stage, start, method, folder, done.elapsed_s)
        self.fabric.barrier()

    def _starting_segmenter(self, index: int, initial: Segmenter) -> Segmenter:
        """A copy of the network that a stage starts from."""
        start = self.recipe.start_of(index)
        segmenter = Segmenter(initial.config.model_copy(update={"weights": None}), initial.classes)
        segmenter.config = initial.config
        if start == INITIAL:
            segmenter.load_state_dict(initial.state_dict())
            return segmenter
        names = [stage.name for stage in self.recipe.stages]
        folder = self.run_folder.stage(names.index(start), start) / "model"
        try:
            return Segmenter.from_pretrained(folder)
        except ModelError as error:
            raise RunError(f"cannot start stage {names[index]!r}: {error}") from error

    def _passes(self) -> Passes:
        width, device = self.recipe.loading.width_px, self.fabric.device

        def source() -> Iterator[Any]:
            for images in self.scenario.sources:
                yield from sweep_source(images, width, _SWEEP_CHUNK, self.shard, device)

        def target() -> Iterator[Any]:
            yield from sweep_target(self.scenario.target, width, _SWEEP_CHUNK, self.shard, device)

        return Passes(source, target, self._all_reduce)

    def _all_reduce(self, tensor: Tensor) -> Tensor:
        return cast(Tensor, self.fabric.all_reduce(tensor, reduce_op="sum"))

    def _hooks(self, index: int, stage: Stage, folder: Path) -> Hooks:
        batches = BatchSource(
            self.scenario.sources,
            self.scenario.target,
            self.recipe.loading,
            self.recipe.seed,
            index,
            self.shard,
        )
        label = f"{index + 1}/{len(self.recipe.stages)} {stage.name}"

        def load(steps: range) -> Iterator[Batch]:
            return load_batches(batches, steps, self.fabric.device)

        def prepared(method: Method) -> None:
            if self.fabric.is_global_zero:
                self.results.keep_labelling(method, folder)

        def progress(step: int, steps: int, losses: Mapping[str, float]) -> None:
            self.progress.update(label, step, steps, losses)

        return Hooks(load, self.results.quick_scores, prepared, progress)


def _initial_segmenter(recipe: Recipe, scenario: Scenario) -> Segmenter:
    """The network before any stage: a function of the recipe and its seed alone."""
    config = recipe.segmenter
    if config.input_width_px is None:
        config = config.model_copy(update={"input_width_px": recipe.loading.width_px})
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return Segmenter(config, scenario.classes)
