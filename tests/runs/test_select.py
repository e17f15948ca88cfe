"""Choosing a network without labels: ranks, records of a run, `select`, and `deliver`."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.errors import RecipeError, RunError, UserError
from cag_uda.models.config import Classes
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import load_recipe
from cag_uda.runs.criteria import Criteria
from cag_uda.runs.runner import Run, adapt
from cag_uda.runs.scenario import Scenario
from cag_uda.runs.selection import Checkpoint, best, best_kept, checkpoints, ordered, rank_of, ranks
from cag_uda.types import CriterionName
from tests.support.feature_cells import cells_of, write_labels_by_pixel
from tests.support.places import REPOSITORY
from tests.support.trees import RECIPE, hold_out, write_domain, write_recipe

# Whole runs in the fixtures: seconds, but many on a machine that does much else.
pytestmark = pytest.mark.timeout(400)

NAMES = set(get_args(CriterionName)) - {"probe-iou"}  # Runs here begin with random weights.
SHORT = ["stages.*.steps=2", "stages.adabn.steps=0"]


def candidate(stage: str, step: int = 1, **criteria: float) -> Checkpoint:
    found = {name.replace("_", "-"): value for name, value in criteria.items()}
    return Checkpoint(Path("run"), stage, step, Path(stage), found)


def test_ranks_by_hand() -> None:
    assert rank_of(np.array([3.0, 1.0, 2.0, 1.0])).tolist() == [4, 1.5, 3, 1.5]
    four = [
        candidate("a", entropy=0.5, infomax=1.0),
        candidate("b", entropy=0.2, infomax=0.9),
        candidate("c", entropy=0.3, infomax=1.2),
        candidate("d", entropy=0.4),
    ]
    assert ranks(four, "entropy").tolist() == [4, 1, 2, 3], "less entropy is better"
    assert ranks(four, "infomax").tolist() == [2, 3, 1, 4], "unknown comes last"
    assert ranks(four, "entropy+infomax").tolist() == [3, 2, 1.5, 3.5]
    assert best(four, "entropy").stage == "b"
    assert best(four, "entropy+infomax").stage == "c"


def test_of_equals_the_latest_is_chosen() -> None:
    same = [candidate("a", 1, snd=2.0), candidate("b", 2, snd=2.0), candidate("c", 3, snd=1.0)]
    assert best(same, "snd").stage == "b"
    assert [each.stage for _, each in ordered(same, "snd")] == ["b", "a", "c"]
    with pytest.raises(UserError, match="no network"):
        best([], "snd")
    with pytest.raises(UserError, match=r"no criterion 'miou'; there are entropy"):
        best(same, "snd+miou")


def test_what_was_not_kept_is_ranked_but_not_chosen() -> None:
    """Ranks over all: what is advised and delivered is the first of the table that is there."""
    lost = replace(candidate("lost", 1, entropy=0.1, infomax=1.0), network=None)
    kept = [
        candidate("b", 2, entropy=0.3, infomax=1.5),
        candidate("a", 3, entropy=0.2, infomax=0.5),
    ]
    assert best([lost, *kept], "entropy+infomax").stage == "lost"
    assert best_kept([lost, *kept], "entropy").stage == "a"
    assert best_kept([lost, *kept], "entropy+infomax").stage == "b"
    with pytest.raises(UserError, match="no network"):
        best_kept([lost], "entropy")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with an evaluation within each stage, whose network the warm-up keeps."""
    folder = tmp_path_factory.mktemp("selected")
    changes = [*SHORT, "stages.*.evaluate_every=1", "stages.warmup.keep_networks=true"]
    return adapt(load_recipe(write_recipe(folder), changes), folder / "run")


def records(stage: Path) -> list[dict[str, Any]]:
    held: list[dict[str, Any]] = json.loads((stage / "criteria.json").read_text())["records"]
    return held


def test_criteria_are_recorded_after_stages_and_at_evaluations(finished: Run) -> None:
    stages = finished.folder / "stages"
    for folder, steps in (("0-source-only", [1, 2]), ("1-adabn", [0]), ("3-stage-1", [1, 2])):
        found = records(stages / folder)
        assert [record["step"] for record in found] == steps
        assert all(set(record["criteria"]) == NAMES for record in found)
        assert all(record["elapsed_s"] > 0 for record in found)
        assert found[-1]["network"] == "model"
    warmup = records(stages / "2-warmup")
    assert [record["network"] for record in warmup] == ["networks/1", "model"]
    kept = load_file(stages / "2-warmup/networks/1/model.safetensors")
    last = load_file(stages / "2-warmup/model/model.safetensors")
    assert not np.array_equal(kept["classifier.weight"], last["classifier.weight"])
    whole = json.loads((stages / "2-warmup" / "criteria.json").read_text())
    assert {name: whole[name] for name in NAMES} == warmup[-1]["criteria"]
    logged = (stages / "2-warmup" / "metrics.jsonl").read_text().splitlines()
    assert any("miou" in json.loads(line).get("scores", {}) for line in logged)


def test_memory_and_the_time_of_sweeps_are_in_the_scores(finished: Run) -> None:
    for stage in finished.scores.stages:
        assert 50 < (stage.peak_memory_mib or 0) < 50_000
        assert (stage.elapsed_s or 0) > 0, "AdaBN takes no step, but a sweep"


def test_criteria_are_of_the_kept_network_on_the_targets_training_images(finished: Run) -> None:
    recipe = load_recipe(finished.folder / "recipe.toml")
    criteria = Criteria(recipe, Scenario.open(recipe))
    segmenter = Segmenter.from_pretrained(finished.model)
    found = criteria.measure(segmenter, 2, None).criteria
    recorded = records(finished.folder / "stages" / "3-stage-1")[-1]["criteria"]
    assert found == pytest.approx(recorded, rel=1e-4)
    assert criteria.source_validation == "train", "train and test are the same images here"

    images = torch.stack(
        [torch.from_numpy(scenario_image(recipe, index)).permute(2, 0, 1) for index in range(6)]
    )
    with torch.no_grad():
        p = segmenter.eval()(images.float() / 255, "target").logits.softmax(dim=1)
    entropy = -(p * p.log()).sum(dim=1).mean().item()
    assert found["entropy"] == pytest.approx(entropy, rel=1e-4)


def scenario_image(recipe: Any, index: int) -> np.ndarray:
    return Scenario.open(recipe).target.read(index)


@pytest.mark.parametrize("aligned", [False, True])
def test_criteria_are_those_of_numpy(aligned: bool, tmp_path: Path, classes: Classes) -> None:
    path = write_recipe(tmp_path)
    write_labels_by_pixel(tmp_path / "day", 5)
    recipe = load_recipe(path, [f"segmenter.align_corners={str(aligned).lower()}"])
    torch.manual_seed(0)
    segmenter = Segmenter(recipe.segmenter, classes)
    segmenter.estimate_statistics([torch.rand(2, 3, 48, 64) * 0.4], "target")
    found = Criteria(recipe, Scenario.open(recipe)).measure(segmenter, 0, None).criteria

    first_px = 0 if aligned else 2  # A cell's first corner, or its centre.
    features, p, truth = cells_of(tmp_path / "day", segmenter, "source", first_px)
    predicted = p.argmax(axis=1)
    both = [((truth == k) & (predicted == k)).sum() for k in range(4)]
    either = [((truth == k) | (predicted == k)).sum() for k in range(4)]
    assert found["source-miou"] == pytest.approx(np.mean(np.divide(both, either)))
    anchors = np.stack([features[truth == k].mean(axis=0) for k in range(4)])

    features, p, _ = cells_of(tmp_path / "dusk", segmenter, "target", first_px)
    distances = np.linalg.norm(features[:, None] - anchors[None], axis=2)
    nearest, second = np.sort(distances, axis=1)[:, :2].T
    of_each = -(p * np.log(p)).sum(axis=1).mean()
    of_mean = -(p.mean(axis=0) * np.log(p.mean(axis=0))).sum()
    expected = {
        "entropy": of_each,
        "infomax": of_mean - of_each,
        "agreement": (distances.argmin(axis=1) == p.argmax(axis=1)).mean(),
        "active-share": ((second - nearest) / (second + nearest) >= 0.1).mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=2e-3), name


def test_held_out_source_images_are_preferred(tmp_path: Path) -> None:
    recipe_path = write_recipe(tmp_path)
    hold_out(tmp_path / "day.toml")
    recipe = load_recipe(recipe_path)
    criteria = Criteria(recipe, Scenario.open(recipe))
    torch.manual_seed(0)
    segmenter = Segmenter(recipe.segmenter, Scenario.open(recipe).classes)
    criteria.measure(segmenter, 0, None)
    assert criteria.source_validation == "held-out"
    assert sum(len(image) for image, _ in criteria._source) == 2, "of six, four are trained on"


def test_select_ranks_the_networks_of_a_run(finished: Run, tmp_path: Path) -> None:
    out = tmp_path / "ranking.json"
    done = CliRunner().invoke(
        app, ["select", str(finished.folder), "--by", "snd", "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    ranking = json.loads(out.read_text())["ranking"]
    assert len(ranking) == 7
    values = [each["criteria"]["snd"] for each in ranking]
    assert values == sorted(values, reverse=True)
    kept = [each for each in ranking if each["network"]]
    assert len(kept) == 5
    assert Path(kept[0]["network"]).is_dir()
    assert "the best that was kept" in done.output


def test_select_measures_runs_that_have_no_criteria(finished: Run, tmp_path: Path) -> None:
    run = tmp_path / "old"
    shutil.copytree(finished.folder, run)
    for path in run.glob("stages/*/criteria.json"):
        path.unlink()
    done = CliRunner().invoke(app, ["select", str(run)])
    assert done.exit_code == 0, done.output
    for name in ("0-source-only", "3-stage-1"):
        again = records(run / "stages" / name)
        assert [record["step"] for record in again] == [2]
        before = records(finished.folder / "stages" / name)[-1]["criteria"]
        assert again[-1]["criteria"] == pytest.approx(before, rel=1e-4)


def test_select_refuses_what_is_no_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["select", str(tmp_path)])
    assert isinstance(done.exception, RunError)
    assert "no run folder" in str(done.exception)


def test_a_run_delivers_the_best_by_a_criterion(tmp_path: Path) -> None:
    """Without any label of the target anywhere."""
    write_domain(tmp_path, "day", 3, seed=1)
    write_domain(tmp_path, "dusk", 3, light=0.4, labels=False, seed=2)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    changes = [*SHORT, 'deliver="entropy"', "stages.*.keep_networks=true"]
    changes += ["stages.*.evaluate_every=1"]
    run = adapt(load_recipe(tmp_path / "tiny.toml", changes), tmp_path / "run")
    found = [each for each in checkpoints(run.folder) if each.network]
    assert len(found) == 7
    chosen = min(found, key=lambda each: each.criteria["entropy"])
    assert chosen.network is not None
    wanted = load_file(chosen.network / "model.safetensors")
    for name, value in load_file(run.model / "model.safetensors").items():
        assert np.array_equal(value, wanted[name])
    with pytest.raises(RecipeError, match="deliver wants safe, last, or criteria joined"):
        load_recipe(tmp_path / "tiny.toml", ['deliver="best"'])


def test_records_beyond_a_resumed_step_are_found_anew(finished: Run, tmp_path: Path) -> None:
    recipe = load_recipe(finished.folder / "recipe.toml")
    criteria = Criteria(recipe, Scenario.open(recipe))
    segmenter = Segmenter.from_pretrained(finished.model)
    for step in (10, 20, 30, 20):
        criteria.record(tmp_path, segmenter, step, None)
    assert [record["step"] for record in records(tmp_path)] == [10, 20]


def judge(name: str) -> Any:
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        return __import__(name)
    finally:
        sys.path.pop(0)


def test_rank_correlation_and_regret_by_hand() -> None:
    selection = judge("selection")
    one, other = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 4, 3, 5])
    # 1 − 6 Σ d² / (n (n² − 1)) with d = ±1 four times.
    assert selection.spearman(one, other) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert np.isnan(selection.spearman(one, np.ones(5)))
    judged = [
        selection.Judged(candidate("a", entropy=0.3, snd=1.0), 0.2),
        selection.Judged(candidate("b", entropy=0.2, snd=3.0), 0.3),
        selection.Judged(candidate("c", entropy=0.1, snd=2.0), 0.25),
    ]
    assert selection.correlation(judged, "entropy") == pytest.approx(0.5)
    assert selection.correlation(judged, "snd") == pytest.approx(1)
    assert selection.regret(judged, "entropy") == pytest.approx(5)
    # A stage that two runs share was copied with its criteria: it counts once over all runs.
    copied = [selection.Judged(replace(judged[0].checkpoint, run=Path("other")), 0.2), *judged[1:]]
    assert selection.distinct([judged, copied]) == judged
    assert len(selection.distinct([judged, [selection.Judged(judged[0].checkpoint, 0.21)]])) == 4
    assert selection.regret(judged, "snd") == 0
    rows = selection.table_of([judged])
    assert rows["last"]["regret_in_runs"] == pytest.approx(5)
    assert rows["any"]["regret_in_runs"] == pytest.approx(5)


def test_the_benchmark_judges_every_checkpoint_of_a_run(
    finished: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["selection", str(finished.folder), "--json", str(out)])
    judge("selection").main()
    assert "7 checkpoints of 1 runs" in capsys.readouterr().out
    figures = next(iter(json.loads(out.read_text()).values()))
    assert set(figures) > NAMES
    assert "+".join(("infomax", "agreement")) in figures
    assert all(figures[name]["regret"] >= 0 for name in NAMES)
