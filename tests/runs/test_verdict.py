"""The verdict of a run, and what is delivered by it."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

import cag_uda
from cag_uda.cli.app import app
from cag_uda.models.pack import read_pack
from cag_uda.prediction.labeller import read_recipe_of
from cag_uda.recipes import Recipe, builtin_recipes, load_recipe
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.run import NoVerdict, Verdict, read_reason, read_verdict
from cag_uda.runs.records.stage import CRITERIA, StageCriteria, read_criteria
from cag_uda.runs.runner import adapt
from cag_uda.runs.verdict import judge
from tests.support.trees import RECIPE, write_recipe

BEST = {"expected-iou": 0.99, "probe-iou": 0.99}
SHORT = ["stages.*.steps=2", "stages.adabn.steps=0", 'deliver="safe"']


@dataclass
class Ends:
    """A run folder that holds nothing but the criteria of its stages' networks."""

    folder: Path
    stages: list[dict[str, object]] = field(default_factory=list)
    segmenter: dict[str, object] = field(default_factory=dict)

    def add(
        self,
        name: str,
        method: str,
        value: float | None,
        steps: int = 10,
        shares: list[float] | None = None,
        probe: float | None = None,
        **settings: object,
    ) -> None:
        is_given = name == "initial"
        number = "" if is_given else f"{len(self.stages)}-"
        place = self.folder / "stages" / f"{number}{name}"
        place.mkdir(parents=True)
        criteria = {"entropy": 0.5} | ({} if value is None else {"expected-iou": value})
        criteria |= {} if probe is None else {"probe-iou": probe}
        # A network from within the stage, whose value must not count.
        within = {"step": 1, "network": "networks/1", "criteria": {"expected-iou": 0.99}}
        last = {"step": steps, "network": "model", "criteria": criteria, "shares": shares}
        record = {"source_shares": [0.5, 0.4, 0.1], "records": [within, last]}
        (place / "criteria.json").write_text(json.dumps(record))
        table: dict[str, object] = {"name": name, "method": {"name": method, **settings}}
        if not is_given:
            self.stages.append(table | ({"steps": steps} if method != "adabn" else {}))

    def outcome(self) -> Verdict | NoVerdict:
        recipe = Recipe.model_validate(
            {
                "name": "ends",
                "source": {"domain": "rendered-clean"},
                "target": {"domain": "rendered-hard"},
                "segmenter": self.segmenter,
                "stages": self.stages,
            }
        )
        return judge(self.folder, recipe)

    def judge(self) -> Verdict:
        found = self.outcome()
        assert isinstance(found, Verdict)
        return found

    def reason(self) -> str:
        found = self.outcome()
        assert isinstance(found, NoVerdict)
        return found.because


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends(tmp_path)


@pytest.mark.parametrize(
    ("last", "says", "safe"),
    [
        (0.36, "helps", "cag-plus"),
        (0.34, "makes no difference", "source-only"),
        (0.26, "makes no difference", "source-only"),
        (0.24, "harms", "source-only"),
    ],
)
def test_the_adapted_network_is_held_against_source_only(
    ends: Ends, last: float, says: str, safe: str
) -> None:
    ends.add("warmup", "source-only", 0.1, steps=5)
    ends.add("source-only", "source-only", 0.3)
    ends.add("cag-plus", "cag-plus", last)
    found = ends.judge()
    assert (found.source_only, found.judged) == ("source-only", "cag-plus"), "the longest"
    assert (found.says, found.safe) == (says, safe)
    place = {"source-only": 1, "cag-plus": 2}[safe]
    assert found.of(safe).network == f"stages/{place}-{safe}/model"
    assert found.of("cag-plus").value == last
    assert f"estimated IoU 30.0 (source-only) to {100 * last:.1f} (cag-plus)" in found.in_words()


def test_of_several_the_best_is_judged_and_delivered(ends: Ends) -> None:
    ends.add("source-only", "source-only", 0.3)
    ends.add("adabn", "adabn", 0.38)
    ends.add("second", "dacs", 0.37)
    ends.add("third", "cag-plus", 0.25)
    found = ends.judge()
    assert (found.judged, found.says, found.safe) == ("adabn", "helps", "adabn")


def test_what_a_linear_probe_does_not_predict_counts_less(ends: Ends) -> None:
    ends.add("source-only", "source-only", 0.3, probe=0.3)
    ends.add("adabn", "adabn", 0.4, probe=0.1)
    ends.add("cag-plus", "cag-plus", 0.35, probe=0.4)
    found = ends.judge()
    assert found.criterion == "expected-iou+probe-iou"
    assert (found.judged, found.says) == ("cag-plus", "helps")
    assert [each.value for each in found.networks] == pytest.approx([0.3, 0.25, 0.375])


def test_without_the_probe_of_all_networks_none_counts(ends: Ends) -> None:
    ends.add("source-only", "source-only", 0.3)
    ends.add("cag-plus", "cag-plus", 0.36, probe=0.1)
    found = ends.judge()
    assert (found.criterion, found.says) == ("expected-iou", "helps")


def test_a_network_that_has_collapsed_is_not_delivered(ends: Ends) -> None:
    ends.add("source-only", "source-only", 0.3, shares=[0.5, 0.3, 0.2])
    ends.add("dacs", "dacs", 0.4, shares=[0.6, 0.3, 0.1])
    ends.add("cag", "cag", 0.6, shares=[0.95, 0.05, 0.0])
    found = ends.judge()
    assert [each.is_collapsed for each in found.networks] == [False, False, True]
    assert (found.judged, found.says, found.safe) == ("dacs", "helps", "dacs")
    (ends.folder / "stages/1-dacs/criteria.json").unlink()
    alone = ends.judge()
    assert (alone.says, alone.safe) == ("harms", "source-only")
    assert "(cag, whose predictions have collapsed)" in alone.in_words()


def test_shares_that_are_the_sources_are_no_collapse(ends: Ends) -> None:
    ends.add("source-only", "source-only", 0.3, shares=[0.1, 0.1, 0.8])
    ends.add("cag", "cag", 0.6, shares=[0.6, 0.3, 0.1])
    found = ends.judge()
    assert (found.says, found.safe) == ("helps", "cag"), "source-only was wrong of the target"


def test_without_anything_to_compare_it_says_why(ends: Ends) -> None:
    ends.add("source-only", "source-only", 0.3)
    assert ends.reason() == "no stage adapts the network to the target"
    ends.add("adabn", "adabn", None)
    assert "is not recorded of them" in ends.reason(), "a run of an earlier version"


def test_without_a_network_before_adaptation_it_says_why(ends: Ends) -> None:
    ends.add("warmup", "adversarial", 0.3)
    ends.add("stage-1", "cag", 0.4)
    assert ends.reason() == (
        "no stage trains on the source alone (method source-only), and the run begins with no "
        "trained network (pack, segmenter.start) to hold the adapted ones against"
    )


def test_a_warmup_on_the_source_alone_is_the_network_before_adaptation(ends: Ends) -> None:
    ends.add("warmup", "source-only", 0.3)
    ends.add("cag-plus", "cag-plus", 0.4)
    assert ends.judge().source_only == "warmup"


@pytest.mark.parametrize(("last", "safe"), [(0.4, "cag-plus"), (0.2, "initial")])
def test_the_network_that_was_given_is_held_against(ends: Ends, last: float, safe: str) -> None:
    ends.segmenter = {"start": "model"}
    ends.add("initial", "start", 0.3)
    ends.add("warmup", "adversarial", 0.1)
    ends.add("cag-plus", "cag-plus", last)
    found = ends.judge()
    assert (found.source_only, found.given, found.safe) == ("initial", "start", safe)
    assert [each.stage for each in found.networks] == ["initial", "warmup", "cag-plus"]
    assert found.of("initial").network == "stages/initial/model"
    assert "estimated IoU 30.0 (the given network) to" in found.in_words()


def test_a_stage_on_the_source_alone_comes_before_the_network_that_was_given(ends: Ends) -> None:
    ends.segmenter = {"start": "model"}
    ends.add("initial", "start", 0.9)
    ends.add("source-only", "source-only", 0.3)
    ends.add("cag-plus", "cag-plus", 0.4)
    found = ends.judge()
    assert (found.source_only, found.given, found.says) == ("source-only", None, "helps")


@pytest.mark.parametrize("norm", ["per-domain", "shared"])
def test_statistics_of_the_source_alone_are_no_adaptation(ends: Ends, norm: str) -> None:
    ends.segmenter = {"start": "model", "norm": norm}
    ends.add("initial", "start", 0.3)
    ends.add("source-only", "adabn", 0.3, target_share=0.0)
    ends.add("cag-plus", "cag-plus", 0.2)
    found = ends.judge()
    wanted = (
        ("source-only", "harms") if norm == "per-domain" else ("initial", "makes no difference")
    )
    assert (found.source_only, found.says) == wanted, "a shared set is the target's then"


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
    best = last.with_changes(criteria={**last.criteria, **BEST})
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
    assert read_reason(tmp_path / "run") is None
    assert done.output.splitlines()[-1] == f"verdict: {found.in_words()}"
    assert delivers(tmp_path / "run", "stage-1")
    assert "delivered by it" not in (tmp_path / "run/report.html").read_text()


def test_a_run_without_a_verdict_says_why(tmp_path: Path) -> None:
    text = "[[stages]]".join(RECIPE.split("[[stages]]")[i] for i in (0, 3, 4))
    path = write_recipe(tmp_path, text)
    done = CliRunner().invoke(app, ["adapt", str(path), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    reason = read_reason(tmp_path / "run")
    assert reason is not None
    assert reason.startswith("no stage trains on the source alone")
    assert done.output.splitlines()[-1] == f"no verdict: {reason}"
    assert read_verdict(tmp_path / "run") is None
    assert delivers(tmp_path / "run", "stage-1")
    page = (tmp_path / "run/report.html").read_text()
    assert f"There is no verdict without labels either: {reason}." in page


@pytest.mark.slow
@pytest.mark.parametrize("is_labelled", [True, False])
def test_a_run_from_a_network_of_ones_own_is_held_against_it(
    tmp_path: Path, is_labelled: bool
) -> None:
    parts = RECIPE.split("[[stages]]")
    adapt(write_recipe(tmp_path, "[[stages]]".join(parts[:3])), tmp_path / "first", progress=False)
    text = "[[stages]]".join([parts[0], parts[2], parts[4]]).replace('"last"', '"safe"')
    # Other statistics in the adapted networks than in the one that is given.
    text = text.replace("[loading]", 'start = "first"\ntarget_share = 1.0\n[loading]')
    (tmp_path / "second.toml").write_text(text)
    if not is_labelled:
        shutil.rmtree(tmp_path / "dusk/labels")
        described = tmp_path / "dusk.toml"
        described.write_text(described.read_text().replace('labels = "labels/*"\n', ""))
    run = adapt(tmp_path / "second.toml", tmp_path / "run", progress=False)
    assert [stage.name for stage in run.scores.stages] == ["initial", "adabn", "stage-1"]
    first = load_file(tmp_path / "first/model/model.safetensors")
    kept = load_file(run.folder / "stages/initial/model/model.safetensors")
    assert all(np.array_equal(kept[name], each) for name, each in first.items())
    assert run.verdict is not None
    assert run.verdict.source_only == "initial"
    for logged in ("initial", "1-stage-1"):
        assert any((run.folder / "stages" / logged / "tensorboard").iterdir())

    # Whoever loses that network gets it back from the one that the run was given.
    shutil.rmtree(run.folder / "stages/initial")
    again = adapt(tmp_path / "second.toml", run.folder, resume=True, progress=False)
    assert again.scores == run.scores
    assert again.verdict == run.verdict

    # As if that network had been better by far: the run goes on to deliver it.
    place = run.folder / "stages/initial"
    (last,) = read_criteria(place)
    best = last.with_changes(criteria={**last.criteria, **BEST})
    write_record(place / CRITERIA, StageCriteria(records=[best]))
    words = ["adapt", str(tmp_path / "second.toml"), "--out", str(run.folder), "--resume"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].endswith("; the given network is delivered")
    assert cag_uda.load(run.folder).predict(tmp_path / "dusk/images/000.png").tolist() == (
        cag_uda.load(tmp_path / "first").predict(tmp_path / "dusk/images/000.png").tolist()
    )
    card = (run.folder / "model/README.md").read_text()
    assert "delivered is the given network, as it was given" in card
    page = (run.folder / "report.html").read_text()
    assert "The given network is delivered by it." in page
    assert "(the given network)" in page
    if is_labelled:
        gain = run.scores.stages[-1].gain
        assert gain is not None
        assert gain.over == "the given network"
        assert "mIoU without adaptation, which harms here" in page
        assert "over the given network" in done.output
    packed = CliRunner().invoke(app, ["pack", str(run.folder), "--stage", "initial"])
    assert packed.exit_code == 0, packed.output
    assert read_pack(run.folder / "pack.safetensors").source == "day/train"
    recipe = load_recipe(run.folder / "recipe.toml")
    assert read_recipe_of(str(place)) == read_recipe_of(str(place / "model")) == recipe
    ranked = CliRunner().invoke(app, ["select", str(run.folder)])
    assert ranked.exit_code == 0, ranked.output
    assert "stages/initial/model" in ranked.output.replace("\n", "")


def test_gains_are_over_the_network_without_adaptation_whatever_its_name(tmp_path: Path) -> None:
    parts = RECIPE.split("[[stages]]")
    text = "[[stages]]".join(parts[:3]).replace(
        'name = "source-only"\nsteps', 'name = "warmup"\nsteps'
    )
    run = adapt(write_recipe(tmp_path, text), tmp_path / "run", progress=False)
    assert run.verdict is not None
    assert run.verdict.source_only == "warmup"
    gain = run.scores.stages[-1].gain
    assert gain is not None
    assert gain.over == "warmup"
    page = (run.folder / "report.html").read_text()
    assert "Gain over warmup" in page
    assert "No stage is named source-only" not in page
