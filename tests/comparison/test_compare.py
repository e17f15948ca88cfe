"""Comparisons: shared runs, resumption, and figures by hand."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.comparison import cells
from cag_uda.comparison.compare import plan_comparison
from cag_uda.comparison.pages import to_markdown
from cag_uda.comparison.plan import plan_ablation, plan_methods
from cag_uda.comparison.settings import choose, read_contenders, read_variants
from cag_uda.errors import RecipeError, RunError, UserError
from cag_uda.evaluation.bootstrap import bootstrap_of_means
from cag_uda.files import owned
from cag_uda.recipes import Recipe, load_recipe
from cag_uda.runs.records.comparison import ComparisonRecord
from cag_uda.runs.runner import adapt
from tests.support.places import REPOSITORY
from tests.support.trees import ANCHORED, RECIPE, write_domain, write_recipe

# Whole runs in the fixtures: seconds, but many on a machine that does much else.
pytestmark = pytest.mark.timeout(400)

CHANGES = ["stages.*.steps=1", "stages.adabn.steps=0", "segmenter.target_share=1"]
SHORT = [word for change in CHANGES for word in ("--set", change)]


def write_small(folder: Path) -> Path:
    """As `write_recipe`, with a second anchor-guided stage and three images in each domain."""
    write_domain(folder, "day", 3, seed=1)
    write_domain(folder, "dusk", 3, light=0.4, seed=2)
    path = folder / "tiny.toml"
    path.write_text(RECIPE + ANCHORED)
    return path


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    if code == 0 and done.exception:
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def table_in(folder: Path, name: str = "comparison") -> dict[str, Any]:
    table: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return table


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods and the two bounds, two seeds, in as few steps and images as can be."""
    folder = tmp_path_factory.mktemp("compared")
    recipe = write_small(folder)
    run(recipe, "--methods", "adabn,cag", "--seeds", 2, "--out", folder / "out", *SHORT)
    return folder


def test_a_comparison_is_a_table_of_ordinary_runs(compared: Path) -> None:
    out = compared / "out"
    table = table_in(out)
    names = ["source-only", "adabn", "alpha-bn", "cag", "oracle"]
    assert [row["name"] for row in table["methods"]] == names
    rows = {row["name"]: row for row in table["methods"]}
    runs = {path.name for path in out.iterdir() if path.is_dir()}
    wanted = {f"{n}-{s}" for n in names if not n.endswith("bn") for s in (0, 1)}
    assert runs == wanted, "AdaBN is a stage of source-only's run"
    for row in table["methods"]:
        assert [cell["seed"] for cell in row["cells"]] == [0, 1]
        for cell in row["cells"]:
            scores = json.loads((out / cell["run"] / "scores.json").read_text())
            stage = {s["name"]: s for s in scores["stages"]}[row["scored"]]
            assert (cell["miou"], cell["iou"]) == (stage["miou"], stage["iou"])
            assert cell["peak_memory_mib"] > 50
            assert cell["time_s"] > 0
        mious = [cell["miou"] for cell in row["cells"]]
        assert row["summary"]["miou"] == pytest.approx(np.mean(mious))
        assert row["summary"]["deviation"] == pytest.approx(np.std(mious, ddof=1))
        assert row["steps"] == 3
    floor, ceiling = (rows[n]["summary"]["miou"] for n in ("source-only", "oracle"))
    share = (rows["cag"]["summary"]["miou"] - floor) / (ceiling - floor)
    assert rows["cag"]["summary"]["gap_share"] == pytest.approx(share)
    assert rows["oracle"]["summary"]["gap_share"] == 1
    assert [stage["name"] for stage in rows["cag"]["stages"]] == ["warmup", "stage-1", "stage-2"]
    assert table["budget"]["steps"] == 3
    assert "<!doctype html>" in (out / "comparison.html").read_text().lower()
    better = max(rows["oracle"]["stages"], key=lambda stage: stage["miou"])
    assert rows["oracle"]["scored"] == better["name"]


def test_gains_are_paired_over_frames_and_seeds(compared: Path) -> None:
    table = table_in(compared / "out")
    row = next(row for row in table["methods"] if row["name"] == "cag")
    frames: dict[str, list[np.ndarray]] = {}
    for name, stage in (("cag", "2-stage-2"), ("source-only", "0-source-only")):
        for seed in (0, 1):
            path = compared / "out" / f"{name}-{seed}" / "stages" / stage / "frames.npz"
            with np.load(path) as file:
                frames.setdefault(name, []).append(file["confusions"][np.argsort(file["keys"])])
    interval = bootstrap_of_means(frames["cag"], frames["source-only"])
    gain = row["summary"]["gain"]
    assert gain["over"] == "source-only"
    expected = [100 * value for value in interval]
    assert [gain["points"], gain["low"], gain["high"]] == pytest.approx(expected)
    assert row["summary"]["lead"] is None
    assert table["methods"][1]["summary"]["lead"]["over"] == "cag"


def test_the_difference_of_means_is_the_mean_difference() -> None:
    rng = np.random.default_rng(0)
    many = rng.integers(1, 30, (6, 12, 3, 4))
    first, second = list(many[:3]), list(many[3:])
    alone = [bootstrap_of_means([a], [b]).difference for a, b in zip(first, second, strict=True)]
    assert bootstrap_of_means(first, second).difference == pytest.approx(np.mean(alone))


def test_the_interval_of_means_is_that_of_a_plain_loop() -> None:
    """Each resample draws the same frames for every seed of both rows."""
    rng = np.random.default_rng(1)
    rows = [list(rng.integers(0, 30, (count, 9, 3, 4))) for count in (3, 2)]

    def miou(counts: np.ndarray) -> float:
        right = np.diagonal(counts)
        return float(np.mean(right / (counts.sum(axis=1) + counts[:, :3].sum(axis=0) - right)))

    draws = np.random.default_rng(5).multinomial(9, np.full(9, 1 / 9), size=200)
    differences = []
    for draw in [np.ones(9, dtype=int), *draws]:
        chosen = np.repeat(np.arange(9), draw)
        means = [np.mean([miou(seed[chosen].sum(axis=0)) for seed in row]) for row in rows]
        differences.append(means[0] - means[1])
    interval = bootstrap_of_means(rows[0], rows[1], resamples=200, seed=5)
    wanted = [differences[0], *np.percentile(differences[1:], (2.5, 97.5))]
    assert list(interval) == pytest.approx(wanted, abs=1e-12)


def test_markdown_and_csv_say_the_same(compared: Path) -> None:
    table = table_in(compared / "out")
    text = (compared / "out" / "comparison.md").read_text()
    with (compared / "out" / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10
    for row in table["methods"]:
        summary = row["summary"]
        assert f"{100 * summary['miou']:.1f} ± {100 * summary['deviation']:.1f}" in text
        of_row = [line for line in lines if line["method"] == row["name"]]
        assert [float(line["miou"]) for line in of_row] == [c["miou"] for c in row["cells"]]
        assert [float(line["road"]) for line in of_row] == [c["iou"][0] for c in row["cells"]]
    assert "3" in text.split("steps: ")[1].splitlines()[0]
    assert "| over cag |" in text
    for row in table["methods"]:
        if lead := row["summary"]["lead"]:
            lead["over"] = "own"
    assert "| over own |" in to_markdown(ComparisonRecord.model_validate(table)), (
        "the column names the row that leads"
    )


def test_a_second_time_runs_what_is_missing_and_refuses_another_recipe(compared: Path) -> None:
    folder = compared / "again"
    shutil.copytree(compared / "out", folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/model/*")}
    shutil.rmtree(folder / "source-only-1")
    arguments = (compared / "tiny.toml", "--methods", "cag", "--seeds", 2, "--out", folder)
    run(*arguments, *SHORT)
    for path, when in before.items():
        assert (path.stat().st_mtime_ns == when) == ("source-only-1" not in str(path))
    one, other = (table_in(each)["methods"] for each in (compared / "out", folder))
    assert [row["name"] for row in other] == ["source-only", "adabn", "alpha-bn", "cag", "oracle"]
    assert one[0]["cells"][1]["iou"] == other[0]["cells"][1]["iou"], "as it was the first time"
    with pytest.raises(RunError, match="another recipe"):
        run(*arguments, "--set", "stages.*.steps=2", *SHORT[2:])


def test_a_stage_that_another_run_has_taken_is_copied_and_the_rest_is_the_same(
    compared: Path, tmp_path: Path
) -> None:
    """The ablation goes on from CAG's warm-up; the figures are those of a run of its own."""
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    shutil.copytree(compared / "out" / "cag-0", shared / "cag-0")
    recipe = load_recipe(compared / "tiny.toml", CHANGES)
    base = plan_methods(recipe, choose(read_contenders(), ["cag"]))
    variant = plan_ablation(base[0], choose(read_variants(), ["distance-none"]))
    for out in (shared, alone):
        made = cells.cells_of([*base, *variant] if out == shared else variant, [0], out)
        assert cells.run_missing(made, _Quiet(), lambda: None) == []
    scores = [
        json.loads((out / "distance-none-0" / "scores.json").read_text()) for out in (shared, alone)
    ]
    assert scores[0]["taken_from"] == "cag-0"
    assert "taken_from" not in scores[1]
    for one, other in zip(*(each["stages"] for each in scores), strict=True):
        assert (one["name"], one["iou"]) == (other["name"], other["iou"])


class _Quiet:
    """Progress that sends this process a signal when a label is seen, if there is one."""

    def __init__(self, label: str | None = None) -> None:
        self.label = label

    def note(self, text: str) -> None:
        pass

    def update(self, label: str, done: int, total: int, values: Any = None) -> None:
        if self.label is not None and self.label in label:
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_comparison_goes_on(compared: Path, tmp_path: Path) -> None:
    from cag_uda.training.interrupt import Interrupted

    recipe = load_recipe(compared / "tiny.toml", CHANGES)
    shutil.copytree(compared / "out" / "source-only-0", tmp_path / "source-only-0")
    entries = plan_methods(recipe, choose(read_contenders(), ["source-only", "dacs"]))
    made = cells.cells_of(entries, [0], tmp_path)
    with pytest.raises(Interrupted):
        cells.run_missing(made, _Quiet("dacs"), lambda: None)
    assert [cell.is_finished for cell in made] == [True, False]
    assert made[1].is_begun
    done: list[int] = []
    assert cells.run_missing(made, _Quiet(), lambda: done.append(1)) == []
    assert all(cell.is_finished for cell in made)
    assert len(done) == 1


def test_one_failing_run_does_not_keep_the_others(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(compared / "tiny.toml", CHANGES)
    entries = plan_methods(recipe, choose(read_contenders(), ["source-only", "cbst"]))

    def breaking(recipe: Recipe, folder: Path, **rest: Any) -> Any:
        if folder.name.startswith("source-only"):
            raise RunError("the loss is not finite")
        return adapt(recipe, folder, **rest)

    monkeypatch.setattr(cells, "adapt", breaking)
    made = cells.cells_of(entries, [0], tmp_path)
    problems = cells.run_missing(made, _Quiet(), lambda: None)
    assert problems == ["source-only-0: the loss is not finite"]
    assert [cell.is_finished for cell in made] == [False, True]


def test_what_cannot_be_compared_is_said_before_the_first_run(tmp_path: Path) -> None:
    write_domain(tmp_path, "day", seed=1)
    write_domain(tmp_path, "dusk", light=0.4, labels=False, seed=2)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    with pytest.raises(UserError, match="select"):
        run(tmp_path / "tiny.toml", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_target_train_labels_there_is_no_oracle(tmp_path: Path) -> None:
    recipe = write_small(tmp_path)
    dusk = tmp_path / "dusk.toml"
    head, _, tail = dusk.read_text().partition('labels = "labels/*"\n')
    dusk.write_text(head + tail)
    run(recipe, "--methods", "adabn", "--out", tmp_path / "out", *SHORT)
    table = table_in(tmp_path / "out")
    assert [row["name"] for row in table["methods"]] == ["source-only", "adabn", "alpha-bn"]
    assert table["oracle"] is None
    assert any("no oracle" in note for note in table["notes"])
    assert table["methods"][1]["summary"]["gap_share"] is None


@pytest.mark.slow
def test_an_ablation_answers_the_three_questions(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(compared / "out", out)
    arguments = (compared / "tiny.toml", "--ablation", "--out", out, *SHORT)
    run(*arguments, "--methods", "warmup,labels-anchor,distance-none")
    table = table_in(out, "ablation")
    rows = ["source-only", "cag", "warmup", "labels-anchor", "distance-none", "oracle"]
    as_cag = ["answer-none", "distance-paper", "stages-2"]
    names = [row["name"] for row in table["methods"]]
    assert [name for name in names if name not in as_cag] == rows
    assert set(names) == {*rows, *as_cag}, "rows that are CAG's own run are there too"
    assert table["methods"][2]["steps"] == 1, "the warm-up ends before the others"
    answered = table["answers"]
    assert set(answered) == {"source-only", "cag", "labels-anchor", "distance-none"}
    last = answered["cag"]["stage-2"]
    assert last["separation"]["target"] > 0
    assert last["separation"]["centroid_shift"] > 0
    assert set(last["precision_at"]) == {"anchor", "confidence"}
    assert 0 <= last["precision_at"]["confidence"]["0.5"] <= 1
    quality = json.loads((out / "cag-0/stages/2-stage-2/pseudo_labels.json").read_text())
    for kind, error in last["label_error"].items():
        precision = quality[kind]["precision"]
        assert error["error"] == (None if precision is None else pytest.approx(1 - precision))
    assert answered["labels-anchor"]["stage-2"]["separation"] is None, "it is not measured"
    text = (out / "ablation.md").read_text()
    assert all(question in text for question in ("## RQ1", "## RQ2", "## RQ3"))
    curves = json.loads((out / "cag-0/stages/1-stage-1/label_curves.json").read_text())
    assert len(curves["anchor"]["per_class"]["precision"]) == 4
    assert curves["anchor"]["coverage"][0] == pytest.approx(1, abs=0.01)
    assert (out / "comparison.json").exists(), "the table of methods stays"
    assert (out / "ablation.html").exists()
    script, figure = REPOSITORY / "benchmarks" / "ablation.py", tmp_path / "figure.png"
    command = [sys.executable, str(script), str(out), "--figure", str(figure)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (row,) = (line for line in told.splitlines() if line.startswith("| distance-none |"))
    (mine,) = (each for each in table["methods"] if each["name"] == "distance-none")
    assert f"| {100 * mine['summary']['miou']:.1f} |" in row
    shift = answered["distance-none"]["stage-2"]["separation"]["centroid_shift"]
    assert f"{shift:.2f} |" in told
    assert figure.stat().st_size > 0


@pytest.mark.slow
def test_labels_that_training_did_not_take_are_a_dash_side_by_side(tmp_path: Path) -> None:
    """CAG-plus is trained on corrected labels, and judged by anchors and by confidence too."""
    base = {"name": "cag-plus", "description": "all", "question": "", "cells": []}
    stage = {
        "separation": None,
        "precision_at": {kind: {"0.1": 0.875} for kind in ("anchor", "confidence")},
        "label_error": {"confidence": {"error": 0.25, "coverage": 0.5}},
        "miou": 0.125,
    }
    table = {
        "source": "day/train",
        "target": "dusk/test",
        "methods": [base | {"summary": {"miou": 0.125, "lead": None}}],
        "floor": "source-only",
        "answers": {"cag-plus": {"stage": stage}},
    }
    (tmp_path / "ablation.json").write_text(json.dumps(table))
    script = REPOSITORY / "benchmarks" / "ablation.py"
    command = [sys.executable, str(script), str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| day → dusk, stage, anchor | 87.5 | – | 12.5 |" in told
    assert "| day → dusk, stage, confidence | 87.5 | 25.0 of 50.0 | 12.5 |" in told


def test_all_runs_compute_as_the_first_one_did(compared: Path, tmp_path: Path) -> None:
    """What "auto" finds depends on how busy the machine is; a comparison has one answer."""
    recipe = load_recipe(compared / "tiny.toml", [*CHANGES, 'compute.precision="auto"'])
    first = tmp_path / "source-only-0"
    shutil.copytree(compared / "out" / "source-only-0", first)
    begun = (first / "recipe.toml").read_text().replace('precision = "32"', 'precision = "bf16"')
    (first / "recipe.toml").write_text(begun)
    entries = plan_methods(recipe, choose(read_contenders(), ["source-only", "minent"]))
    assert cells.run_missing(cells.cells_of(entries, [0], tmp_path), _Quiet(), lambda: None) == []
    assert load_recipe(tmp_path / "minent-0" / "recipe.toml").compute.precision == "bf16"


def test_a_run_that_another_process_holds_is_left_to_it(compared: Path, tmp_path: Path) -> None:
    recipe = load_recipe(compared / "tiny.toml", CHANGES)
    entries = plan_methods(recipe, choose(read_contenders(), ["source-only"]))
    made = cells.cells_of(entries, [0], tmp_path)
    with owned(tmp_path / ".source-only-0.lock", "source-only-0 is going on"):
        assert cells.run_missing(made, _Quiet(), lambda: None) == []
    assert not made[0].is_begun


def test_rows_that_were_run_before_stay_in_the_table(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(compared / "out", out)
    run(compared / "tiny.toml", "--methods", "source-only", "--seeds", 2, "--out", out, *SHORT)
    names = [row["name"] for row in table_in(out)["methods"]]
    assert names == ["source-only", "adabn", "alpha-bn", "cag", "oracle"]


def test_a_row_that_the_recipe_cannot_have_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    text = RECIPE.replace('name = "cag"', 'name = "dacs"').replace(
        ', labels = ["anchor", "confidence"], margin = { kind = "clearest", value = 0.5 }', ""
    )
    recipe = load_recipe(write_recipe(tmp_path, text))
    plan_rows = partial(
        plan_comparison,
        recipe,
        tmp_path / "out",
        seeds=1,
        ablation=False,
        settings=None,
        progress=_Quiet(),
    )
    planned = plan_rows(rows=None)
    assert "cag" not in [entry.name for entry in planned.entries]
    assert any("'cag' is the recipe's own stages" in note for note in planned.notes)
    with pytest.raises(RecipeError, match="'cag' is the recipe's own stages"):
        plan_rows(rows=["cag"])
