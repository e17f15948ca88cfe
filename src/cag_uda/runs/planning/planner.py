"""Measurement of a recipe on this device before it is run."""

import copy
import gc
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from cag_uda.errors import UserError
from cag_uda.models.recomputing import BLOCKS
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import Stage
from cag_uda.runs.bench.step import noise, stepper
from cag_uda.runs.bench.timing import wait_for
from cag_uda.runs.initial import initial_segmenter
from cag_uda.runs.planning.fitting import (
    Growth,
    Setting,
    Trial,
    Way,
    available_mib,
    settings_that_fit,
    trial_crops,
)
from cag_uda.runs.planning.forecast import Forecast, StageForecast, scaled
from cag_uda.runs.planning.rehearsal import WARM_UP, Rehearsal, harmless, shortened
from cag_uda.runs.progress import Progress, Silent
from cag_uda.runs.runner import build_method
from cag_uda.runs.scenario import Scenario
from cag_uda.training.compute import describe, half_precision, launch, resolve, with_precision
from cag_uda.training.memory import PeakMemory
from cag_uda.training.settings import ComputeConfig
from cag_uda.types import Labelled

_TIMED_S, _FEWEST_STEPS, _MOST_STEPS = 2.5, 3, 40
"""Steps of a rehearsal are timed for about so long; so many at least, so many at most."""
_TRIED_STEPS = 2
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
        recipe: a recipe whose data can be read.
        memory_mib: memory of another device that is meant; None: what this one has.
        progress: receives what is being measured.

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
        crop_px = recipe.loading.crop_px
        self.compute = resolve(alone, self.initial, crop_px, self.share, trains=recipe.trains)
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
        times_s = [each.at(pixels).step_s for each in growths.values()] or [0.0]
        timed = round(_TIMED_S * len(times_s) / max(sum(times_s), 1e-3))
        return self._rehearsed(tried, max(_FEWEST_STEPS, min(_MOST_STEPS, timed)))

    def _growths(self, compute: ComputeConfig) -> dict[str, Growth]:
        """Measure how memory and time of each kind of stage that trains grow with its crops."""
        crops, growths = dict.fromkeys(trial_crops(self.recipe)), {}
        for kind, stage in self.kinds.items():
            if stage.steps:
                tried = [self._try(stage, each, self.share, compute) for each in crops]
                growths[kind] = Growth(tried[0], tried[-1])
        return growths

    def _try(
        self, stage: Stage, crop_px: tuple[int, int], share: int, compute: ComputeConfig
    ) -> Trial:
        """Take a few steps of a stage on noise, with `share` crops of each domain at once."""
        self.progress.note(
            f"trying {stage.name} with {share} + {share} crops of {crop_px[0]}×{crop_px[1]} "
            f"in {compute.precision}{', checkpointed' if compute.checkpointing else ''}"
        )
        fabric, initial = with_precision(self.launched, compute), copy.deepcopy(self.initial)
        device, memory = fabric.device, PeakMemory(fabric.device)
        method = build_method(initial, stage, compute, device, self.devices > 1)
        batch = noise(share, crop_px, initial.num_classes, device)
        if method.learns_from_target_labels and self.scenario.labelled is not None:
            whole = {"batch_size": share * self.devices}
            few = self.recipe.loading.model_copy(update=whole).labelled_images // self.devices
            labelled = Labelled(batch.source.image[:few], batch.source.label[:few])
            batch = batch._replace(labelled=labelled)
        take_step = stepper(method, harmless(stage), compute, fabric, batch)
        for step in range(WARM_UP + _TRIED_STEPS):
            if step == WARM_UP:
                wait_for(device)
                began_s = time.perf_counter()
            take_step()
        wait_for(device)
        step_s = (time.perf_counter() - began_s) / _TRIED_STEPS
        trial = Trial(share * crop_px[0] * crop_px[1], memory.mib(), step_s)
        # Memory that is no longer used must not count in what is measured next.
        del initial, method, take_step
        gc.collect()
        return trial

    def _settings(self, growths: dict[str, Growth]) -> tuple[Setting, ...]:
        """Find settings that fit by the estimate, and confirm them by a trial."""
        compute, ways = self.compute, [self.compute]
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
        hungriest = max(growths, key=lambda kind: growths[kind].at(pixels).mib)
        update = {**setting.way._asdict(), "accumulation": setting.accumulation}
        changed = self.compute.model_copy(update=update)
        try:
            mib = self._try(self.kinds[hungriest], setting.crop_px, share, changed).mib
        except torch.OutOfMemoryError:
            mib = math.inf
        return replace(setting, peak_memory_mib=mib)

    def _rehearsed(self, tried: Forecast, timed: int) -> Forecast:
        self.progress.note(f"rehearsing {', '.join(each.name for each in self.kinds.values())}")
        short = shortened(self.recipe, self.kinds.values(), self.compute, timed)
        fabric = with_precision(self.launched, self.compute)
        with tempfile.TemporaryDirectory(prefix="cag-uda-plan-") as folder:
            rehearsal = Rehearsal(short, Path(folder), self.scenario, fabric, self.devices)
            try:
                end_s = rehearsal.run(self.initial)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"{self.available_mib / 1024:.1f} GiB do not suffice for the {rehearsal.part} "
                    f"of stage {rehearsal.stage.name!r}; {_ADVICE[rehearsal.part]}"
                ) from error
        measured, every = rehearsal.measured, self.recipe.tracking.pictures_every
        stages = tuple(
            scaled(stage, measured[self.kinds[_kind(stage)].name], every)
            for stage in self.recipe.stages
        )
        load_s = max(each.load_s for each in measured.values())
        return replace(tried, stages=stages, load_s=load_s, start_s=self.start_s, end_s=end_s)


def _kind(stage: Stage) -> str:
    """Return the settings of a stage that its steps' time and memory depend on, as text."""
    others = {"name", "steps", "start", "refresh_every", "checkpoint_every"}
    return stage.model_dump_json(exclude=others)


def _by_growth(stage: Stage, growth: Growth | None, pixels: int) -> StageForecast:
    """Forecast a stage by trials; one that takes no steps needs nothing."""
    mib, step_s = (0.0, None) if growth is None else growth.at(pixels)[1:]
    return StageForecast(stage.name, stage.method.name, stage.steps, mib, step_s=step_s)
