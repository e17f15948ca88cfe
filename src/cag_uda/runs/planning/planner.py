"""How a recipe is measured on this device before it is run."""

import gc
import math
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch

from cag_uda.data.loading.sampler import BatchSource, Shard, load_batches
from cag_uda.errors import UserError
from cag_uda.models.recomputing import BLOCKS
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import INITIAL, Stage
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.planning.fitting import (
    Growth,
    Setting,
    Trial,
    Way,
    available_mib,
    settings_that_fit,
    trial_crops,
)
from cag_uda.runs.planning.forecast import Forecast, Images, StageForecast, scaled
from cag_uda.runs.planning.rehearsal import WARM_UP, Rehearsal, StepTrial
from cag_uda.runs.progress import Progress, Silent
from cag_uda.runs.runner import initial_segmenter
from cag_uda.runs.scenario import Scenario, held_out
from cag_uda.training.compute import (
    ComputeConfig,
    describe,
    half_precision,
    launch,
    prepare_process,
    resolve,
    with_precision,
)

_TIMED_S, _FEWEST_STEPS, _MOST_STEPS = 4.0, 3, 40
"""Steps of a rehearsal are timed for about so long; so many at least, so many at most."""
_LOADED = 3
"""Batches that are waited for of each loader process: as many as it reads ahead."""
_HARMLESS_RATE = 1e-9
"""With it, no new head makes its network diverge while steps are timed."""
_NEVER = 1 << 30
_MOST_SETTINGS = 5
_SAFE_SHARES = (0.95, 0.85, 0.7, 0.5)
"""Of the memory. Where what should take so much takes more than all of it, less is tried."""


def plan(
    recipe: Recipe, *, memory_mib: float | None = None, progress: Progress | None = None
) -> Forecast:
    """Measure what a recipe will need on this device.

    Of several devices the share of one is measured, but not what they say to each other.

    Args:
        recipe: whose data can be read.
        memory_mib: of a device that is meant in place of this one; None: what this one has.
        progress: told what is being measured.

    Raises:
        UserError: for anything wrong with recipe, data, weights or device, or if a GPU has enough
            memory for the steps on crops but not for whole images.
    """
    prepare_process()
    with tempfile.TemporaryDirectory(prefix="cag-uda-plan-") as scratch:
        return _Planner(recipe, memory_mib, progress or Silent(), Path(scratch)).forecast()


class _Planner:
    """Measures one recipe."""

    def __init__(
        self, recipe: Recipe, memory_mib: float | None, progress: Progress, scratch: Path
    ) -> None:
        self.progress, self.scratch = progress, scratch
        self.devices = recipe.compute.devices
        self.share = recipe.loading.batch_size // self.devices
        alone = recipe.compute.model_copy(update={"devices": 1})
        self.launched = launch(alone)
        self.device = self.launched.device
        self.available_mib = memory_mib or available_mib(self.device)
        self.scenario = Scenario.open(recipe, progress.note)
        begun_s = time.perf_counter()
        self.recipe = recipe.model_copy(update={"compute": alone})
        self.initial = initial_segmenter(self.recipe, self.scenario)
        self.built_s = time.perf_counter() - begun_s
        # By kind, the first stage of it.
        self.kinds: dict[str, Stage] = {}
        for stage in recipe.stages:
            self.kinds.setdefault(_kind(stage), stage)
        self.numbers = count()

    def forecast(self) -> Forecast:
        """Try steps; then rehearse, or look for settings that fit."""
        crop_px = self.recipe.loading.crop_px
        small_px, _ = trial_crops(self.recipe)
        compute = resolve(self.recipe.compute, self.initial, small_px, self.share)
        try:
            growths = self._growths(compute)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.available_mib / 1024:.1f} GiB do not suffice for crops smaller than the "
                "recipe's; choose a smaller backbone, or a larger device"
            ) from error
        pixels = self.share * crop_px[0] * crop_px[1]
        tried = Forecast(
            recipe=self.recipe.name,
            computing=describe(compute, self.devices),
            available_mib=self.available_mib,
            batch_size=self.recipe.loading.batch_size,
            stages=tuple(
                _by_growth(stage, growths.get(_kind(stage)), pixels) for stage in self.recipe.stages
            ),
        )
        if not tried.fits:
            return replace(tried, settings=self._settings(compute, growths))
        timed = {kind: _steps_to_time(each.step_s(pixels)) for kind, each in growths.items()}
        return self._rehearsed(tried, timed)

    def _growths(self, compute: ComputeConfig) -> dict[str, Growth]:
        """How memory and time of each kind of stage that trains grow with its crops."""
        crops = trial_crops(self.recipe)
        growths = {}
        for kind, stage in self.kinds.items():
            if stage.steps:
                tried = {
                    each: self._try(stage, each, self.share, compute)
                    for each in dict.fromkeys(crops)
                }
                growths[kind] = Growth(*(tried[each] for each in crops))
        return growths

    def _try(
        self, stage: Stage, crop_px: tuple[int, int], share: int, compute: ComputeConfig
    ) -> Trial:
        """Take a few steps of a stage, with so many crops of each domain on this device."""
        self.progress.note(
            f"trying {stage.name} with {share} + {share} crops of {crop_px[0]}×{crop_px[1]} "
            f"in {compute.precision}{', checkpointed' if compute.checkpointing else ''}"
        )
        loading = self.recipe.loading.model_copy(update={"crop_px": crop_px, "batch_size": share})
        recipe = _short(self.recipe, [stage], {}, compute)
        recipe = recipe.model_copy(update={"loading": loading})
        folder = self.scratch / f"trial-{next(self.numbers)}"
        fabric = with_precision(self.launched, compute)
        measured = StepTrial(recipe, RunFolder(folder), self.scenario, fabric).measure(self.initial)
        shutil.rmtree(folder)
        # What is garbage now must not count as the next trial's.
        gc.collect()
        return Trial(share * crop_px[0] * crop_px[1], measured.training_mib, measured.step_s)

    def _settings(self, compute: ComputeConfig, growths: dict[str, Growth]) -> tuple[Setting, ...]:
        """Settings that fit by what was tried, and when they are tried themselves."""
        by_way = {
            Way(each.precision, each.checkpointing): [
                *(growths if each is compute else self._growths(each)).values()
            ]
            for each in self._ways(compute)
        }
        for share in _SAFE_SHARES:
            most_mib = share * self.available_mib
            found = settings_that_fit(self.recipe, self.devices, by_way, most_mib)
            tried = [self._tried(each, compute, growths) for each in found[:_MOST_SETTINGS]]
            fitting = tuple(each for each in tried if each.peak_memory_mib <= self.available_mib)
            if fitting:
                return fitting
        return ()

    def _ways(self, compute: ComputeConfig) -> list[ComputeConfig]:
        """The recipe's own way to compute, and others that need less memory."""
        ways = [compute]
        if compute.precision == "32":
            ways.append(compute.model_copy(update={"precision": half_precision(self.device)}))
        if not (compute.checkpointing or compute.compile):
            ways += [each.model_copy(update={"checkpointing": (BLOCKS,)}) for each in ways]
        return ways

    def _tried(
        self, setting: Setting, compute: ComputeConfig, growths: dict[str, Growth]
    ) -> Setting:
        """A setting with the memory that the hungriest kind of stage takes with it."""
        share = setting.batch_size // self.devices
        pixels = share * setting.crop_px[0] * setting.crop_px[1]
        hungriest = max(growths, key=lambda kind: growths[kind].mib(pixels))
        update = {**setting.way._asdict(), "accumulation": setting.accumulation}
        changed = compute.model_copy(update=update)
        try:
            tried = self._try(self.kinds[hungriest], setting.crop_px, share, changed)
        except torch.OutOfMemoryError:
            return replace(setting, peak_memory_mib=math.inf)
        return replace(setting, peak_memory_mib=tried.mib)

    def _rehearsed(self, tried: Forecast, timed: Mapping[str, int]) -> Forecast:
        """Run the recipe in small, and scale what was measured."""
        recipe = self.recipe
        begun_s = time.perf_counter()
        compute = resolve(recipe.compute, self.initial, recipe.loading.crop_px, self.share)
        start_s = self.built_s + time.perf_counter() - begun_s
        load_s = self._loading_s()
        stages = [stage for stage in recipe.stages if self.kinds[_kind(stage)] is stage]
        self.progress.note(f"rehearsing {', '.join(stage.name for stage in stages)}")
        rehearsal, end_s = self._rehearse(_short(recipe, stages, timed, compute))
        measured = [rehearsal.measured[self.kinds[_kind(stage)].name] for stage in recipe.stages]
        sweeps = [sweep for each in measured for sweep in (*each.before, *each.after)]
        images = self._images(any(sweep.images_of == "held_out" for sweep in sweeps))
        forecasts = [
            scaled(stage, each, images, load_s, recipe)
            for stage, each in zip(recipe.stages, measured, strict=True)
        ]
        return replace(
            tried,
            computing=describe(compute, self.devices),
            stages=tuple(forecasts),
            load_s=load_s,
            start_s=start_s,
            end_s=end_s,
        )

    def _rehearse(self, recipe: Recipe) -> tuple[Rehearsal, float]:
        """Run a short recipe; returns what was measured, and seconds after its last stage."""
        run = RunFolder(self.scratch / "run")
        run.create(recipe)
        fabric = with_precision(self.launched, recipe.compute)
        rehearsal = Rehearsal(recipe, run, self.scenario, fabric, self.devices)
        try:
            rehearsal.run(self.initial)
        except torch.OutOfMemoryError as error:
            raise UserError(_too_little(rehearsal, self.available_mib)) from error
        finally:
            rehearsal.trackers.close(True)
        return rehearsal, rehearsal.lap()

    def _loading_s(self) -> float:
        """Seconds a batch of the loader's processes, with nobody else at work."""
        loading = self.recipe.loading
        wanted = _LOADED * max(1, loading.workers) + 1
        # Of a stage that is not there: the rehearsal shall not find its files in memory.
        nowhere = len(self.recipe.stages)
        shard = Shard(0, self.devices)
        source = BatchSource(
            self.scenario.sources, self.scenario.target, loading, self.recipe.seed, nowhere, shard
        )
        self.progress.note(f"loading {wanted} batches in {loading.workers} processes")
        arrived_s = [time.perf_counter() for _ in load_batches(source, range(wanted), self.device)]
        return (arrived_s[-1] - arrived_s[0]) / (wanted - 1)

    def _images(self, sweeps_held_out: bool) -> Images:
        """What one process has to do with."""
        most = self.recipe.loading.sweep_images
        # Not looked for in vain: rendered scenes that are missing would be made first.
        unseen = held_out(self.recipe) if sweeps_held_out else None
        sources = [len(images) for images in self.scenario.sources]
        split = self.scenario.test_split
        frames = [] if split is None else self.scenario.test.items(split, with_labels=False)
        return Images(
            *(
                -(-total // self.devices)
                for total in (
                    sum(each if most is None else min(each, most) for each in sources),
                    len(self.scenario.target),
                    len(frames),
                    0 if unseen is None else min(len(unseen), most or len(unseen)),
                )
            )
        )


def _kind(stage: Stage) -> str:
    """What a stage's needs depend on: stages of one kind need the same for a step."""
    others = {"name", "steps", "start", "refresh_every", "checkpoint_every"}
    return stage.model_dump_json(exclude=others)


def _short(
    recipe: Recipe, stages: Iterable[Stage], timed: Mapping[str, int], compute: ComputeConfig
) -> Recipe:
    """A recipe of some stages, each from the initial network and of few steps.

    Args:
        recipe: the whole one.
        stages: of it.
        timed: by kind, steps that are timed; one, where nothing is said.
        compute: resolved.
    """

    def after_warm_up(every: int | None) -> int | None:
        return None if every is None else WARM_UP

    def short(stage: Stage) -> Stage:
        steps = WARM_UP + timed.get(_kind(stage), 1) + 1
        return stage.model_copy(
            update={
                "start": INITIAL,
                "steps": steps if stage.steps else 0,
                "optim": stage.optim.model_copy(update={"learning_rate": _HARMLESS_RATE}),
                "refresh_every": None,
                "evaluate_every": after_warm_up(stage.evaluate_every),
                "checkpoint_every": _NEVER,
            }
        )

    tracking = recipe.tracking
    # Services elsewhere are not told of runs that are none.
    loggers = tuple(name for name in tracking.loggers if name == "tensorboard")
    pictures = after_warm_up(tracking.pictures_every)
    return recipe.model_copy(
        update={
            "stages": tuple(short(stage) for stage in stages),
            "compute": compute,
            "deliver": "last",
            "tracking": tracking.model_copy(
                update={"loggers": loggers, "pictures_every": pictures}
            ),
        }
    )


def _by_growth(stage: Stage, growth: Growth | None, pixels: int) -> StageForecast:
    """What trials tell of a stage; nothing of one that takes no steps."""
    named = StageForecast(stage.name, stage.method.name, stage.steps, 0.0)
    if growth is None:
        return named
    mib, step_s = growth.mib(pixels), growth.step_s(pixels)
    return replace(named, peak_memory_mib=mib, step_s=step_s)


def _steps_to_time(step_s: float) -> int:
    return max(_FEWEST_STEPS, min(_MOST_STEPS, round(_TIMED_S / max(step_s, 1e-3))))


def _too_little(rehearsal: Rehearsal, mib: float) -> str:
    """The message where a GPU's memory did not suffice in a rehearsal."""
    stage = next(name for name, each in rehearsal.measured.items() if each is rehearsal.now)
    advice = {
        "preparation": "sweeps look at whole images, eight at a time: set loading.width_px lower",
        "training": "set loading.batch_size or loading.crop_px lower",
        "scoring": "evaluation looks at whole images, four at a time: set loading.width_px lower",
    }
    return (
        f"{mib / 1024:.1f} GiB do not suffice for the {rehearsal.now.part} of stage {stage!r}; "
        f"{advice[rehearsal.now.part]}"
    )
