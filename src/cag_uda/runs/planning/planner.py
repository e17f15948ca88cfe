"""Measurement of a recipe on this device before it is run."""

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from cag_uda.data.loading.sampler import BatchSource, Shard, load_batches
from cag_uda.errors import UserError
from cag_uda.methods import METHODS
from cag_uda.models.recomputing import BLOCKS
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import INITIAL, Stage
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.planning.fitting import (
    Growth,
    Setting,
    Way,
    available_mib,
    settings_that_fit,
    trial_crops,
)
from cag_uda.runs.planning.forecast import Forecast, Images, StageForecast, scaled
from cag_uda.runs.planning.rehearsal import Rehearsal, short_stage
from cag_uda.runs.planning.trial import HARMLESS_RATE, Trial, try_steps
from cag_uda.runs.progress import Progress, Silent
from cag_uda.runs.runner import initial_segmenter
from cag_uda.runs.scenario import Scenario, held_out
from cag_uda.training.compute import describe, half_precision, launch, resolve, with_precision
from cag_uda.training.settings import ComputeConfig

_TIMED_S, _FEWEST_STEPS, _MOST_STEPS = 2.5, 3, 40
"""Steps of a rehearsal are timed for about so long; so many at least, so many at most."""
_LOADED = 3
"""Batches that each loader process has to give: as many as it reads ahead."""
_MOST_SETTINGS = 5
_SAFE_SHARES = (0.95, 0.85, 0.7, 0.5)
"""Shares of the device's memory that proposed settings may take by the estimate, largest first:
where none of them fits when it is tried, the next share is used."""
_ADVICE = {
    "preparation": "sweeps look at whole images, eight at a time: set loading.width_px lower",
    "training": "set loading.batch_size or loading.crop_px lower",
    "scoring": "evaluation looks at whole images, four at a time: set loading.width_px lower",
}


def plan(
    recipe: Recipe, *, memory_mib: float | None = None, progress: Progress | None = None
) -> Forecast:
    """Measure what a recipe will need on this device.

    Of several devices the share of one is measured, but not what they exchange.

    Args:
        recipe: whose data can be read.
        memory_mib: of a device that is meant in place of this one; None: what this one has.
        progress: shown what is being measured.

    Raises:
        UserError: for anything wrong with recipe, data, weights or device, or if a GPU has enough
            memory for the steps on crops but not for whole images.
    """
    return _Planner(recipe, memory_mib, progress or Silent()).forecast()


class _Planner:
    """Measures one recipe."""

    def __init__(self, recipe: Recipe, memory_mib: float | None, progress: Progress) -> None:
        self.progress = progress
        self.devices = recipe.compute.devices
        self.share = recipe.loading.batch_size // self.devices
        alone = recipe.compute.model_copy(update={"devices": 1})
        self.launched = launch(alone)
        self.available_mib = memory_mib or available_mib(self.launched.device)
        self.scenario = Scenario.open(recipe, progress.note)
        begun_s = time.perf_counter()
        self.recipe = recipe.model_copy(update={"compute": alone})
        self.initial = initial_segmenter(self.recipe, self.scenario)
        self.compute = resolve(alone, self.initial, recipe.loading.crop_px, self.share)
        self.start_s = time.perf_counter() - begun_s
        # By kind, the first stage of it.
        self.kinds: dict[str, Stage] = {}
        for stage in recipe.stages:
            self.kinds.setdefault(_kind(stage), stage)

    def forecast(self) -> Forecast:
        """Try steps; then rehearse, or look for settings that fit."""
        crop_px = self.recipe.loading.crop_px
        try:
            growths = self._growths(self.compute)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.available_mib / 1024:.1f} GiB do not suffice for crops smaller than the "
                "recipe's; choose a smaller backbone, or a larger device"
            ) from error
        pixels = self.share * crop_px[0] * crop_px[1]
        tried = Forecast(
            recipe=self.recipe.name,
            computing=describe(self.compute, self.devices),
            available_mib=self.available_mib,
            batch_size=self.recipe.loading.batch_size,
            stages=tuple(
                _by_growth(stage, growths.get(_kind(stage)), pixels) for stage in self.recipe.stages
            ),
        )
        if not tried.fits:
            return replace(tried, settings=self._settings(growths))
        times_s = [each.step_s(pixels) for each in growths.values()] or [0.0]
        timed = round(_TIMED_S * len(times_s) / max(sum(times_s), 1e-3))
        return self._rehearsed(tried, max(_FEWEST_STEPS, min(_MOST_STEPS, timed)))

    def _growths(self, compute: ComputeConfig) -> dict[str, Growth]:
        """Measure how memory and time of each kind of stage that trains grow with its crops."""
        crops, growths = trial_crops(self.recipe), {}
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
        fabric = with_precision(self.launched, compute)
        labelled = 0
        learns = METHODS[stage.method.name].learns_from_target_labels
        if learns and self.scenario.labelled is not None:
            batch = {"batch_size": share * self.devices}
            whole = self.recipe.loading.model_copy(update=batch)
            labelled = whole.labelled_images // self.devices
        return try_steps(
            stage, self.initial, compute, fabric, crop_px, share, self.devices, labelled
        )

    def _settings(self, growths: dict[str, Growth]) -> tuple[Setting, ...]:
        """Find settings that fit by the estimate, and confirm them by a trial."""
        compute = self.compute
        ways = [compute]
        if compute.precision == "32":
            half = half_precision(self.launched.device)
            ways.append(compute.model_copy(update={"precision": half}))
        if not (compute.checkpointing or compute.compile):
            ways += [each.model_copy(update={"checkpointing": (BLOCKS,)}) for each in ways]
        by_way = {
            Way(each.precision, each.checkpointing): [
                *(growths if each is compute else self._growths(each)).values()
            ]
            for each in ways
        }
        for share in _SAFE_SHARES:
            most_mib = share * self.available_mib
            found = settings_that_fit(self.recipe, self.devices, by_way, most_mib)
            tried = [self._tried(each, growths) for each in found[:_MOST_SETTINGS]]
            fitting = tuple(each for each in tried if each.peak_memory_mib <= self.available_mib)
            if fitting:
                return fitting
        return ()

    def _tried(self, setting: Setting, growths: Mapping[str, Growth]) -> Setting:
        """Measure the memory of the kind of stage that needs most with a setting."""
        share = setting.batch_size // self.devices
        pixels = share * setting.crop_px[0] * setting.crop_px[1]
        hungriest = max(growths, key=lambda kind: growths[kind].mib(pixels))
        update = {**setting.way._asdict(), "accumulation": setting.accumulation}
        changed = self.compute.model_copy(update=update)
        try:
            mib = self._try(self.kinds[hungriest], setting.crop_px, share, changed).mib
        except torch.OutOfMemoryError:
            mib = math.inf
        return replace(setting, peak_memory_mib=mib)

    def _rehearsed(self, tried: Forecast, timed: int) -> Forecast:
        """Run the shortened recipe, and scale the measurements."""
        recipe, load_s = self.recipe, self._loading_s()
        self.progress.note(f"rehearsing {', '.join(each.name for each in self.kinds.values())}")
        with tempfile.TemporaryDirectory(prefix="cag-uda-plan-") as scratch:
            short = self._short(timed)
            RunFolder(Path(scratch)).create(short)
            fabric = with_precision(self.launched, self.compute)
            rehearsal = Rehearsal(short, Path(scratch), self.scenario, fabric, self.devices)
            try:
                end_s = rehearsal.run(self.initial)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"{self.available_mib / 1024:.1f} GiB do not suffice for the {rehearsal.part} "
                    f"of stage {rehearsal.stage!r}; {_ADVICE[rehearsal.part]}"
                ) from error
        measured = [rehearsal.measured[self.kinds[_kind(stage)].name] for stage in recipe.stages]
        sweeps = [sweep for each in measured for sweep in (*each.before, *each.after)]
        images = self._images(any(sweep.images_of == "held_out" for sweep in sweeps))
        stages = tuple(
            scaled(stage, each, images, load_s, recipe)
            for stage, each in zip(recipe.stages, measured, strict=True)
        )
        return replace(tried, stages=stages, load_s=load_s, start_s=self.start_s, end_s=end_s)

    def _short(self, timed: int) -> Recipe:
        """Shorten the recipe to one stage of each kind, each from the initial network."""
        stages = []
        for stage in self.kinds.values():
            optim = stage.optim.model_copy(update={"learning_rate": HARMLESS_RATE})
            short = short_stage(stage, timed)
            stages.append(short.model_copy(update={"start": INITIAL, "optim": optim}))
        # Tracking services elsewhere get no entry for a rehearsal.
        tracking = self.recipe.tracking
        loggers = tuple(name for name in tracking.loggers if name == "tensorboard")
        every = None
        if tracking.pictures_every is not None:
            every = max(each.steps for each in stages) - 2
        update = {"loggers": loggers, "pictures_every": every}
        return self.recipe.model_copy(
            update={
                "stages": tuple(stages),
                "compute": self.compute,
                "deliver": "last",
                "tracking": tracking.model_copy(update=update),
            }
        )

    def _loading_s(self) -> float:
        """Measure the loader's seconds a batch, while nothing else runs."""
        loading, scenario = self.recipe.loading, self.scenario
        wanted = _LOADED * max(1, loading.workers) + 1
        # Images of a stage that does not exist, so that the rehearsal's are not in the file cache.
        nowhere, shard = len(self.recipe.stages), Shard(0, self.devices)
        source = BatchSource(
            scenario.sources,
            scenario.target,
            loading,
            self.recipe.seed,
            nowhere,
            shard,
            scenario.labelled,
        )
        self.progress.note(f"loading {wanted} batches with loading.workers = {loading.workers}")
        batches = load_batches(source, range(wanted), self.launched.device)
        arrived_s = [time.perf_counter() for _ in batches]
        return (arrived_s[-1] - arrived_s[0]) / (wanted - 1)

    def _images(self, sweeps_held_out: bool) -> Images:
        """Count the images that one process reads."""
        scenario, most = self.scenario, self.recipe.loading.sweep_images or math.inf
        # Opened only if needed: missing scenes of a rendered domain would be rendered first.
        unseen = held_out(self.recipe) if sweeps_held_out else None
        split = scenario.test_split
        frames = [] if split is None else scenario.test.items(split, with_labels=False)
        totals = (
            sum(min(len(images), most) for images in scenario.sources),
            len(scenario.target),
            len(frames),
            min(len(unseen or ()), most),
            min(len(scenario.labelled or ()), most),
        )
        return Images(*(math.ceil(total / self.devices) for total in totals))


def _kind(stage: Stage) -> str:
    """Return the settings of a stage that its steps' time and memory depend on, as text."""
    others = {"name", "steps", "start", "refresh_every", "checkpoint_every"}
    return stage.model_dump_json(exclude=others)


def _by_growth(stage: Stage, growth: Growth | None, pixels: int) -> StageForecast:
    """Forecast a stage by trials; one that takes no steps needs nothing."""
    named = StageForecast(stage.name, stage.method.name, stage.steps, 0.0)
    if growth is None:
        return named
    mib, step_s = growth.mib(pixels), growth.step_s(pixels)
    return replace(named, peak_memory_mib=mib, step_s=step_s)
