"""The bench measures what it says, and says whether a bound is met."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.errors import UserError
from cag_uda.methods import MethodConfig, Passes
from cag_uda.models.config import SegmenterConfig
from cag_uda.recipes import load_recipe
from cag_uda.runs.bench import anchors, ladder, step
from cag_uda.runs.bench.timing import Row, interleaved_s, median_ratio
from cag_uda.training.settings import ComputeConfig
from tests.support.places import REPOSITORY

CPU = torch.device("cpu")


def test_every_part_runs_once_a_round_after_a_warm_up() -> None:
    calls: list[str] = []
    parts = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = interleaved_s(parts, 4, CPU)
    assert [calls.count(name) for name in "abc"] == [5, 5, 5]
    assert all(len(times[name]) == 4 for name in "abc")
    # No part always follows the same other one at the start of a round.
    assert {"".join(calls[at : at + 3]) for at in range(0, 15, 3)} == {"abc", "bca", "cab"}


def test_ratios_are_within_rounds() -> None:
    assert median_ratio([2.0, 30.0, 6.0], [1.0, 10.0, 2.0]) == 3.0


def test_a_row_knows_whether_its_bound_holds() -> None:
    assert Row("a", "b", 1.04, "×", at_most=1.05).is_met is True
    assert Row("a", "b", 1.06, "×", at_most=1.05).is_met is False
    assert Row("a", "b", 2.9, "×", at_least=3).is_met is False
    assert Row("a", "b", 2.9, "×").is_met is None


def test_a_step_with_and_without_the_method() -> None:
    network = SegmenterConfig(backbone="resnet-tiny", decoder="light")
    size = step.Size("tiny", network, batch=2, crop_px=(32, 32), num_classes=3)
    compute = ComputeConfig(accelerator="cpu", precision="32", channels_last=False)
    row = step.overhead(size, compute, rounds=2)
    assert row.figure > 0
    assert row.at_most == 1.05
    assert "2+2 of 32×32" in row.what
    time, memory = step.plus_over_dacs(size, compute, rounds=1)
    assert time.figure > 0
    assert (time.at_most, memory.at_most) == (1.10, 1.15)


def test_memory_is_what_a_method_needs_beside_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    class Copies(step.Bare):
        def prepare(self, passes: Passes) -> None:
            self.held = torch.ones(160 << 20, dtype=torch.uint8)

    network = SegmenterConfig(backbone="resnet-tiny", decoder="light")
    size = step.Size("tiny", network, batch=2, crop_px=(128, 128), num_classes=3)
    bench = step.StepBench(size, ComputeConfig(accelerator="cpu", precision="32"))
    config = MethodConfig(name="bare")
    bench.need_mib(lambda segmenter: step.Bare(segmenter, config))
    more = bench.need_mib(lambda segmenter: Copies(segmenter, config))
    less = bench.need_mib(lambda segmenter: step.Bare(segmenter, config))
    assert more - less == pytest.approx(160, abs=16)


def test_anchor_maths_and_its_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    small = anchors.Features(batch=1, channels=8, height=8, width=8, num_classes=3)
    monkeypatch.setattr(anchors, "PAPER", small)
    monkeypatch.setattr(anchors, "GROWTH", {"the same": small})
    assert anchors.over_product(CPU, 2).figure > 0
    (row,) = anchors.growth(CPU, 3)
    assert 0.01 < row.figure < 100


@pytest.mark.slow
def test_every_rung_of_the_ladder_trains() -> None:
    for rung in ladder.RUNGS.values():
        # The thresholds of malloc would stay changed in this process.
        assert ladder.measure("resnet-18-half", (rung[0], rung[1], False), steps=1) > 0


def test_the_command_prints_and_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = anchors.Features(batch=1, channels=8, height=8, width=8, num_classes=3)
    monkeypatch.setattr(anchors, "PAPER", small)
    file = tmp_path / "bench.json"
    result = CliRunner().invoke(app, ["bench", "anchors", "--rounds", "1", "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "labels and anchors" in result.output
    assert json.loads(file.read_text())[0]["part"] == "anchors"


def test_an_unknown_part_is_named() -> None:
    result = CliRunner().invoke(app, ["bench", "stepp"])
    assert isinstance(result.exception, UserError)
    assert "stepp" in str(result.exception)


def test_arithmetic_of_steps_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution; and stages whose steps are so many passes of the same network."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    arithmetic = importlib.import_module("arithmetic")
    with torch.device("meta"):
        convolution = nn.Conv2d(3, 8, 3, padding=1)
    operations = 1e12 * arithmetic.forward_tflop(convolution, (2, 3, 10, 20))
    assert operations == pytest.approx(2 * (3 * 9) * 8 * 2 * 10 * 20)
    half, whole = (
        arithmetic.step_tflop(load_recipe("camvid-drives", [f"loading.crop_px=[{height}, 128]"]))
        for height in (64, 128)
    )
    assert whole["stage-1"] == whole["stage-3"]
    assert whole["stage-1"] == pytest.approx(2 * half["stage-1"], rel=0.01)


@pytest.mark.slow
def test_the_script_for_a_gpu_goes_its_way_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr("sys.argv", ["gpu.py", "--smoke"])
    gpu.main()
    _, table = capsys.readouterr().out.split("|---|---|---|---|\n")
    figures = dict(line.strip("| ").split(" | ")[:2] for line in table.splitlines())
    assert "not measured" not in table
    assert sum("images/s" in figure for figure in figures.values()) == 2
    assert any("blocks recomputed" in what for what in figures)
    waits = [figure for what, figure in figures.items() if what.startswith("waits")]
    assert waits == ["none"] * 3
    assert "equal" in figures.values()
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_script_for_a_gpu_says_what_it_had_no_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    gpu = importlib.import_module("gpu")
    compute = ComputeConfig(accelerator="cpu", precision="32", channels_last=False)
    late = gpu.Asked(compute, (gpu._TINY,), (gpu._TINY,), gpu._TINY, 3, begun_s=-1e6)
    lines = list(gpu.measure(late))
    assert [line.what for line in lines] == [part.__name__ for part in gpu.PARTS]
    assert {line.figure for line in lines} == {"not measured: the time is up"}
