"""The verdict of a run, and what is delivered by it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.recipes import Recipe, builtin_recipes, load_recipe
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.run import Verdict, read_verdict
from cag_uda.runs.records.stage import CRITERIA, StageCriteria, read_criteria
from cag_uda.runs.runner import adapt
from cag_uda.runs.verdict import judge
from tests.support.trees import write_recipe

SHORT = ["stages.*.steps=2", "stages.adabn.steps=0", 'deliver="safe"']


@dataclass
class Ends:
    """A run folder that holds nothing but the criteria of its stages' networks."""

    folder: Path
    stages: list[dict[str, object]] = field(default_factory=list)

    def add(
        self,
        name: str,
        method: str,
        value: float | None,
        steps: int = 10,
        shares: list[float] | None = None,
    ) -> None:
        place = self.folder / "stages" / f"{len(self.stages)}-{name}"
        place.mkdir(parents=True)
        criteria = {"entropy": 0.5} | ({} if value is None else {"expected-iou": value})
        # A network from within the stage, whose value must not count.
        within = {"step": 1, "network": "networks/1", "criteria": {"expected-iou": 0.99}}
        last = {"step": steps, "network": "model", "criteria": criteria, "shares": shares}
        record = {"source_shares": [0.5, 0.4, 0.1], "records": [within, last]}
        (place / "criteria.json").write_text(json.dumps(record))
        table: dict[str, object] = {"name": name, "method": {"name": method}}
        self.stages.append(table | ({"steps": steps} if method != "adabn" else {}))

    def judge(self) -> Verdict | None:
        recipe = Recipe.model_validate(
            {
                "name": "ends",
                "source": {"domain": "rendered-clean"},
                "target": {"domain": "rendered-hard"},
                "stages": self.stages,
            }
        )
        return judge(self.folder, recipe.stages)


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends(tmp_path)


@pytest.mark.parametrize(
    ("last", "says", "safe"),
    [
        (0.35, "helps", "cag-plus"),
        (0.305, "makes no difference", "source-only"),
        (0.295, "makes no difference", "source-only"),
        (0.20, "harms", "source-only"),
    ],
)
def test_the_adapted_network_is_held_against_source_only(
    ends: Ends, last: float, says: str, safe: str
) -> None:
    ends.add("warmup", "source-only", 0.1, steps=5)
    ends.add("source-only", "source-only", 0.3)
    ends.add("cag-plus", "cag-plus", last)
    found = ends.judge()
    assert found is not None
    assert (found.source_only, found.judged) == ("source-only", "cag-plus"), "the longest"
    assert (found.says, found.safe) == (says, safe)
    place = {"source-only": 1, "cag-plus": 2}[safe]
    assert found.network_of(safe) == f"stages/{place}-{safe}/model"
    assert found.value_of("cag-plus") == last
    assert f"expected IoU 30.0 (source-only) to {100 * last:.1f} (cag-plus)" in found.in_words()


def test_of_several_the_best_is_judged_and_delivered(ends: Ends) -> None:
    ends.add("source-only", "source-only", 0.3)
    ends.add("adabn", "adabn", 0.34)
    ends.add("second", "dacs", 0.32)
    ends.add("third", "cag-plus", 0.25)
    found = ends.judge()
    assert found is not None
    assert (found.judged, found.says, found.safe) == ("adabn", "helps", "adabn")


def test_a_network_that_has_collapsed_is_not_delivered(ends: Ends) -> None:
    ends.add("source-only", "source-only", 0.3, shares=[0.5, 0.3, 0.2])
    ends.add("dacs", "dacs", 0.4, shares=[0.6, 0.3, 0.1])
    ends.add("cag", "cag", 0.6, shares=[0.95, 0.05, 0.0])
    found = ends.judge()
    assert found is not None
    assert [each.is_collapsed for each in found.networks] == [False, False, True]
    assert (found.judged, found.says, found.safe) == ("dacs", "helps", "dacs")
    (ends.folder / "stages/1-dacs/criteria.json").unlink()
    alone = ends.judge()
    assert alone is not None
    assert (alone.says, alone.safe) == ("harms", "source-only")
    assert "(cag, whose predictions have collapsed)" in alone.in_words()


def test_shares_that_are_the_sources_are_no_collapse(ends: Ends) -> None:
    ends.add("source-only", "source-only", 0.3, shares=[0.1, 0.1, 0.8])
    ends.add("cag", "cag", 0.6, shares=[0.6, 0.3, 0.1])
    found = ends.judge()
    assert found is not None
    assert (found.says, found.safe) == ("helps", "cag"), "source-only was wrong of the target"


def test_without_anything_to_compare_there_is_no_verdict(ends: Ends) -> None:
    ends.add("source-only", "source-only", 0.3)
    assert ends.judge() is None, "nothing is adapted"
    ends.add("adabn", "adabn", None)
    assert ends.judge() is None, "a run of an earlier version has not measured it"


def delivers(run: Path, stage: str) -> bool:
    folder = next((run / "stages").glob(f"*-{stage}"))
    wanted = load_file(folder / "model/model.safetensors")
    found = load_file(run / "model/model.safetensors")
    return all(np.array_equal(found[name], each) for name, each in wanted.items())


def test_safe_is_the_default_but_of_the_released_recipes() -> None:
    for name in builtin_recipes():
        wanted = "last" if name.endswith("-released") else "safe"
        assert load_recipe(name).deliver == wanted, name


def test_a_run_delivers_the_safe_choice_and_says_so(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), SHORT)
    run = adapt(recipe, tmp_path / "run", progress=False)
    found = run.verdict
    assert found is not None
    assert [each.stage for each in found.networks] == [stage.name for stage in recipe.stages]
    assert delivers(run.folder, found.safe)
    assert found.in_words().split(":")[0] == f"adaptation {found.says} here"
    page = (run.folder / "report.html").read_text()
    assert f"Without labels, the verdict is that adaptation {found.says} here" in page
    assert f"The network of {found.safe} is delivered by it." in page

    # As if source-only had been better by far: the run goes on to deliver that.
    first = run.folder / "stages/0-source-only"
    *within, last = read_criteria(first)
    best = last.with_changes(criteria={**last.criteria, "expected-iou": 0.99})
    write_record(first / CRITERIA, StageCriteria(records=[*within, best]))
    again = adapt(recipe, run.folder, resume=True, progress=False)
    assert again.verdict is not None
    assert (again.verdict.says, again.verdict.safe) == ("harms", "source-only")
    assert delivers(run.folder, "source-only")
    page = (run.folder / "report.html").read_text()
    assert "mIoU without adaptation, which harms here" in page


def test_the_last_stage_is_delivered_on_request_and_judged_all_the_same(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    words = [word for change in SHORT[:-1] for word in ("--set", change)]
    done = CliRunner().invoke(app, ["adapt", str(path), "--out", str(tmp_path / "run"), *words])
    assert done.exit_code == 0, done.output
    found = read_verdict(tmp_path / "run")
    assert found is not None
    assert done.output.splitlines()[-1] == f"verdict: {found.in_words()}"
    assert delivers(tmp_path / "run", "stage-1")
    assert "delivered by it" not in (tmp_path / "run/report.html").read_text()
