"""Find settings with which a recipe's steps fit into a device's memory, by measured steps."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from cag_uda.models.memory import free_bytes, resident_bytes
from cag_uda.recipes import Recipe

_MIB = 1 << 20
_CROP_SHARES = (1.0, 0.75, 0.5)
_TRIAL_SHARES = (0.25, 0.5)
"""Sides of the crops that are tried, as shares between the least possible crop and the recipe's."""


class Trial(NamedTuple):
    """Measurements of some steps on crops of one size."""

    pixels: int
    """Pixels of one domain's crops in one device's share of a batch, all together."""
    mib: float
    step_s: float


@dataclass(frozen=True)
class Growth:
    """Growth of a step's memory and time with its pixels: a line through two trials."""

    less: Trial
    more: Trial

    def at(self, pixels: int) -> Trial:
        """Estimate the peak memory and the time of steps on so many pixels."""
        # Where crops are too small to be made smaller, both trials have one size: no slope.
        between = (self.more.pixels - self.less.pixels) or math.inf
        mib, step_s = (
            more + max(0.0, more - less) / between * (pixels - self.more.pixels)
            for less, more in zip(self.less[1:], self.more[1:], strict=True)
        )
        return Trial(pixels, mib, step_s)


class Way(NamedTuple):
    """Settings by which steps are computed."""

    precision: str
    checkpointing: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """A change of a recipe that makes it need less memory."""

    way: Way
    accumulation: int
    crop_px: tuple[int, int]
    batch_size: int
    """Images of each domain in a batch, over all devices."""
    given_up: tuple[int, ...]
    """Steps down from the recipe's precision, checkpointing, accumulation, crop and batch."""
    peak_memory_mib: float

    def changes(self) -> list[str]:
        """List the changes as `--set` takes them."""
        parts = ", ".join(f'"{name}"' for name in self.way.checkpointing)
        values = (
            f'compute.precision="{self.way.precision}"',
            f"compute.checkpointing=[{parts}]",
            f"compute.accumulation={self.accumulation}",
            f"loading.crop_px=[{self.crop_px[0]}, {self.crop_px[1]}]",
            f"loading.batch_size={self.batch_size}",
        )
        return [value for value, notches in zip(values, self.given_up, strict=True) if notches]


def settings_that_fit(
    recipe: Recipe, devices: int, growths: Mapping[Way, Sequence[Growth]], available_mib: float
) -> list[Setting]:
    """Find the smallest changes with which every stage fits.

    Args:
        recipe: its crop and batch do not fit.
        devices: number of those that share a batch.
        growths: measured with the recipe's accumulation: for each way to compute steps, the
            recipe's own first, the growth of each kind of stage.
        available_mib: memory of a device.

    Returns:
        Settings of which none is further from the recipe than another one in every respect. Those
        with the most pixels a step come first, and of equals those that change the least.
    """
    first = next(iter(growths))
    fitting = []
    for way, kinds in growths.items():
        ways = tuple(int(mine != own) for mine, own in zip(way, first, strict=True))
        for crop_notch, crop_px in _crops(recipe):
            for notches, batch_size, accumulation in _batches(recipe, devices):
                pixels = batch_size // devices * crop_px[0] * crop_px[1]
                at_once = pixels * recipe.compute.accumulation // accumulation
                mib = max(growth.at(at_once).mib for growth in kinds)
                given_up = (*ways, notches[0], crop_notch, notches[1])
                if any(given_up) and mib <= available_mib:
                    setting = Setting(way, accumulation, crop_px, batch_size, given_up, mib)
                    fitting.append(setting)
    kept = [each for each in fitting if not any(_is_gentler(other, each) for other in fitting)]
    return sorted(
        kept,
        key=lambda each: (
            -each.crop_px[0] * each.crop_px[1] * each.batch_size,
            sum(each.given_up),
            each.given_up,
        ),
    )


def _is_gentler(one: Setting, other: Setting) -> bool:
    pairs = zip(one.given_up, other.given_up, strict=True)
    return one != other and all(mine <= theirs for mine, theirs in pairs)


def _crops(recipe: Recipe) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the recipe's crop and smaller ones, each with the number of steps down to it."""
    crop_px, least = recipe.loading.crop_px, _least_share(recipe)
    for notch, share in enumerate(_CROP_SHARES):
        if share >= least:
            yield notch, crop_px if notch == 0 else _smaller_crop(crop_px, share)


def trial_crops(recipe: Recipe) -> tuple[tuple[int, int], tuple[int, int]]:
    """Choose two crops, the smaller one first, from which the memory of the recipe's follows.

    They hold the segmenter's detail crop, if it has one: smaller crops need no less memory.
    """
    least = _least_share(recipe)
    less, more = (
        _smaller_crop(recipe.loading.crop_px, least + (1 - least) * share)
        for share in _TRIAL_SHARES
    )
    return less, more


def _least_share(recipe: Recipe) -> float:
    """Compute the side of the smallest crop that holds the detail crop, over the recipe's."""
    detail = recipe.segmenter.detail
    if detail is None:
        return 0.0
    pairs = zip(detail.crop_px, recipe.loading.crop_px, strict=True)
    return max(inner / outer for inner, outer in pairs)


def _smaller_crop(crop_px: tuple[int, int], share: float) -> tuple[int, int]:
    """Shrink a crop to about this share of each side, in multiples of 8 px, at least 32 px."""
    height, width = (max(32, round(side * share / 8) * 8) for side in crop_px)
    return height, width


def _batches(recipe: Recipe, devices: int) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Halve the batch, and the part of it that is computed at once, as long as a recipe may.

    Yields the steps down of accumulation and batch, the batch size, and the accumulation.
    """
    whole, least = recipe.loading.batch_size, max(1, len(recipe.source))
    for notch in range(whole.bit_length()):
        batch_size = whole >> notch
        if batch_size < least or whole % (1 << notch):
            break
        loading = recipe.loading.model_copy(update={"batch_size": batch_size})
        for parts in range(batch_size.bit_length()):
            accumulation = recipe.compute.accumulation << parts
            compute = recipe.compute.model_copy(update={"accumulation": accumulation})
            changed = recipe.model_copy(update={"loading": loading, "compute": compute})
            if changed.problem_with_processes(devices):
                break
            yield (parts, notch), batch_size, accumulation


def available_mib(device: torch.device) -> float:
    """Find the memory that this process can have of a device, with what it already holds."""
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes()
    return (free_bytes(device) + held) / _MIB
