"""The bench measures what it says, and says whether a bound is met."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.methods import MethodConfig, Passes
from cag_uda.models.config import SegmenterConfig
from cag_uda.recipes import load_recipe
from cag_uda.runs.bench import step
from cag_uda.runs.bench.timing import Row, interleaved_s, median_ratio
from cag_uda.training.settings import ComputeConfig
from tests.support.places import REPOSITORY

CPU = torch.device("cpu")
_NETWORK = SegmenterConfig(backbone="resnet-tiny", decoder="light")
TINY = step.Size("tiny", _NETWORK, batch=2, crop_px=(32, 32), num_classes=3)


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


def test_a_step_with_and_without_the_method() -> None:
    compute = ComputeConfig(accelerator="cpu", precision="32", channels_last=False)
    row = step.overhead(TINY, compute, rounds=2)
    assert row.figure > 0
    assert row.at_most == 1.05
    assert "2+2 of 32×32" in row.what
    time, memory = step.plus_over_dacs(TINY, compute, rounds=1)
    assert time.figure > 0
    assert (time.at_most, memory.at_most) == (1.10, 1.15)


@pytest.mark.slow
def test_memory_is_what_a_method_needs_beside_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    class Copies(step.Bare):
        def prepare(self, passes: Passes) -> None:
            self.held = torch.ones(160 << 20, dtype=torch.uint8)

    size = replace(TINY, crop_px=(128, 128))
    bench = step.StepBench(size, ComputeConfig(accelerator="cpu", precision="32"))
    config = MethodConfig(name="bare")
    bench.need_mib(lambda segmenter: step.Bare(segmenter, config))
    more = bench.need_mib(lambda segmenter: Copies(segmenter, config))
    less = bench.need_mib(lambda segmenter: step.Bare(segmenter, config))
    assert more - less == pytest.approx(160, abs=16)


def test_anchor_maths_grows_with_what_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    anchors = importlib.import_module("anchors")
    small = {"batch": 1, "channels": 8, "height": 8, "width": 8, "classes": 3}
    monkeypatch.setattr(anchors.labels_and_anchors_of, "__defaults__", (1, 8, 8, 8, 3))
    monkeypatch.setattr(anchors, "GROWTH", {"the same": small})
    assert 0.01 < anchors.growth(3)["the same"] < 100


@pytest.mark.slow
def test_every_rung_of_the_ladder_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    cpu = importlib.import_module("cpu")
    for rung in cpu.RUNGS.values():
        # The thresholds of malloc would stay changed in this process.
        assert cpu.measure("resnet-18-half", (rung[0], rung[1], False), steps=1) > 0


@pytest.mark.slow
def test_the_command_prints_and_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(step, "SIZES", (TINY,))
    file = tmp_path / "bench.json"
    options = ["--rounds", "1", "--accelerator", "cpu", "--precision", "32", "--json", str(file)]
    result = CliRunner().invoke(app, ["bench", *options])
    assert result.exit_code == 0, result.output
    assert "CAG-plus step / DACS step" in result.output
    assert [row["part"] for row in json.loads(file.read_text())] == ["step", "plus", "plus"]


def test_an_unknown_part_is_named() -> None:
    result = CliRunner().invoke(app, ["bench", "stepp"])
    assert result.exit_code == 2
    assert "stepp" in result.output


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
