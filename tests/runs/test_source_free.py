"""Runs without their source: from a pack, after the source's folder is gone."""

import json
import shutil
from pathlib import Path

import pytest

import cag_uda
from cag_uda.errors import ModelError, RecipeError
from cag_uda.models.pack import read_pack
from cag_uda.recipes import Recipe, load_recipe
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.run import read_class_shares, read_scores, read_verdict
from cag_uda.runs.records.stage import read_stage_criteria
from cag_uda.runs.runner import adapt
from cag_uda.training.interrupt import Interrupted
from tests.support.command_line import failure, run
from tests.support.run_folders import assert_same
from tests.support.stopping import StopAt
from tests.support.trees import RECIPE, read_pixels, write_recipe

HEAD, FIRST, STATISTICS, *_ = RECIPE.split("[[stages]]")
FREE = """[[stages]]
name = "source-free"
steps = 4
refresh_every = 2
checkpoint_every = 1
log_every = 1
method = { name = "cag-plus-source-free", confidence = 0.3 }
optim = { learning_rate = 0.01 }
"""
WITH_SOURCE = f"{HEAD}[[stages]]{FIRST}{FREE}"
PACKED = WITH_SOURCE.replace('[source]\ndomain = "day.toml"', "").replace(
    'name = "tiny"', 'name = "tiny"\npack = "day.safetensors"'
)
PACKED = PACKED.replace(FIRST, STATISTICS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that had the source, and a pack of its first stage; then the source is taken away."""
    folder = tmp_path_factory.mktemp("world")
    adapt(write_recipe(folder, WITH_SOURCE), folder / "given")
    run("pack", folder / "given", "--stage", "source-only", "--out", folder / "day.safetensors")
    shutil.rmtree(folder / "day")
    (folder / "day.toml").unlink()
    (folder / "packed.toml").write_text(PACKED)
    adapt(folder / "packed.toml", folder / "free")
    return folder


def losses(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "stages" / "1-source-free" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["losses"] for line in lines if "losses" in line]


def test_from_a_pack_the_network_is_that_of_the_run_that_had_the_source(world: Path) -> None:
    """To the last bit: nothing but the pack has gone from the source into it."""
    free, given = (world / name / "model" / "model.safetensors" for name in ("free", "given"))
    assert free.read_bytes() == given.read_bytes()
    assert losses(world / "free") == losses(world / "given")
    assert set(losses(world / "free")[-1]) == {"mixed/ce", "source/pull"}


def test_class_shares_of_the_source_are_those_of_the_pack(world: Path) -> None:
    counts = read_pack(world / "day.safetensors").figures.counts.double()
    shares = read_class_shares(world / "free")
    assert shares is not None
    assert shares.source == pytest.approx((counts / counts.sum()).tolist())
    first = read_pixels(world / "dusk" / "images" / "000.png")
    assert first.shape == (48, 64, 3)


def test_a_stopped_run_goes_on_to_the_last_bit_wherever_the_pack_has_gone(world: Path) -> None:
    pack = world / "day.safetensors"
    with pytest.raises(Interrupted):
        adapt(world / "packed.toml", world / "stopped", progress=StopAt("source-free", 3))
    moved = (world / "stopped").rename(world / "elsewhere")
    hidden = pack.rename(world / "hidden.safetensors")
    try:
        adapt(moved / "recipe.toml", moved, resume=True)
    finally:
        hidden.rename(pack)
    assert_same(moved, world / "free")


def test_the_run_holds_its_pack_and_another_one_is_another_run(world: Path) -> None:
    begun = load_recipe(world / "free" / "recipe.toml")
    assert begun.pack == str((world / "free" / "pack.safetensors").resolve())
    asked = load_recipe(world / "packed.toml")
    assert RunFolder(world / "free").resume(asked).pack == begun.pack
    pack = read_pack(world / "day.safetensors")
    other = world / "other.safetensors"
    other.write_bytes((world / "day.safetensors").read_bytes()[:-1] + b"\x00")
    assert pack.source == "day/train"
    with pytest.raises(Exception, match="begun with another recipe"):
        RunFolder(world / "free").resume(asked.model_copy(update={"pack": str(other)}))


def test_a_recipe_in_python_is_completed_by_its_pack_too(world: Path) -> None:
    begun = load_recipe(world / "packed.toml")
    table = begun.model_dump(exclude_none=True)
    table["segmenter"] = {}
    table["compute"] = load_recipe(world / "free" / "recipe.toml").compute.model_dump()
    run_again = adapt(Recipe.model_validate(table), world / "free", resume=True)
    assert run_again.scores.stage("source-free") is not None


def test_its_records_and_report_say_where_it_came_from(world: Path) -> None:
    scores = json.loads((world / "free" / "scores.json").read_text())
    assert scores["source"] == "pack of day/train"
    assert [stage["name"] for stage in scores["stages"]] == ["initial", "adabn", "source-free"]
    stage = world / "free" / "stages" / "1-source-free"
    found = json.loads((stage / "criteria.json").read_text())["records"][-1]["criteria"]
    assert set(found) == {"entropy", "infomax", "expected-iou", "probe-iou", "snd", "snd-outputs"}
    assert not (stage / "features.safetensors").exists()
    assert set(json.loads((stage / "pseudo_labels.json").read_text())) == {"confidence"}
    page = run("report", world / "free")
    assert "report.html" in page
    assert "pack of day/train" in (world / "free" / "report.html").read_text()
    assert "pack of day/train" in (world / "free" / "model" / "README.md").read_text()
    assert "source-free" in run("select", world / "free")


def test_the_verdict_holds_it_against_the_packs_network(world: Path) -> None:
    pack = read_pack(world / "day.safetensors")
    kept = cag_uda.load(world / "free" / "stages" / "initial" / "model")
    assert all(pack.weights[name].equal(each) for name, each in kept.state_dict().items())
    scores = read_scores(world / "free")
    assert scores is not None
    assert scores.stages[0].in_words == "the pack's network"
    floor = json.loads((world / "given" / "scores.json").read_text())["stages"][0]
    assert scores.stages[0].iou == floor["iou"], "as it was"
    assert scores.stages[-1].gain is not None
    assert scores.stages[-1].gain.over == "the pack's network"
    verdict = read_verdict(world / "free")
    assert verdict is not None
    assert (verdict.source_only, verdict.given) == ("initial", "pack")
    assert "(the pack's network) to" in verdict.in_words()
    counts = pack.figures.counts.double()
    shares = read_stage_criteria(world / "free" / "stages" / "initial").source_shares
    assert shares == pytest.approx((counts / counts.sum()).tolist())
    page = (world / "free" / "report.html").read_text().replace("&#39;", "'")
    assert "(the pack's network)" in page
    assert "No stage is named source-only" not in page


def test_a_run_of_an_earlier_version_is_held_against_it_when_resumed(world: Path) -> None:
    old = world / "old"
    shutil.copytree(world / "free", old)
    shutil.rmtree(old / "stages" / "initial")
    (old / "verdict.json").unlink()
    scores = read_scores(old)
    assert scores is not None
    stages = [stage.with_changes(gain=None) for stage in scores.stages[1:]]
    write_record(old / "scores.json", scores.with_changes(stages=stages))
    for words in (("report", old), ("select", old)):
        run(*words)
    assert "No stage is named source-only" in (old / "report.html").read_text()
    assert "initial" not in run("select", old)
    resumed = adapt(old / "recipe.toml", old, resume=True)
    assert [stage.name for stage in resumed.scores.stages] == ["initial", "adabn", "source-free"]
    assert resumed.verdict == read_verdict(world / "free")


@pytest.mark.slow
def test_check_and_plan_take_such_a_recipe(world: Path) -> None:
    checked = run("check", world / "packed.toml")
    assert "4 classes, anchors of 4 by day/train; its checksum holds" in checked
    assert "nothing is wrong" in checked
    assert "source-free" in run("plan", world / "packed.toml")


def test_a_new_recipe_for_a_pack_refuses_what_a_pack_cannot_do(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack, target = world / "day.safetensors", world / "dusk.toml"
    assert "leave --method out" in failure(
        capsys, "recipes", "new", pack, target, "--method", "cag"
    )
    assert "give it first" in failure(capsys, "recipes", "new", target, pack)


def test_a_new_recipe_for_a_pack_takes_no_step(world: Path) -> None:
    for machine in ("small", "gpu"):
        out = world / "recipes" / f"untrained-{machine}.toml"
        run("recipes", "new", world / "day.safetensors", world / "dusk.toml", "--out", out,
            "--machine", machine)  # fmt: skip
        recipe = load_recipe(out)
        names = [stage.name for stage in recipe.stages]
        assert names == ["source-only", "statistics", "training-free"]
        assert all(stage.steps == 0 for stage in recipe.stages)
    run("adapt", out, "--out", world / "untrained-run", "--accelerator", "cpu", "--precision", "32")
    scores = json.loads((world / "untrained-run" / "scores.json").read_text())
    floor = json.loads((world / "given" / "scores.json").read_text())["stages"][0]
    assert scores["stages"][0]["iou"] == floor["iou"], "the packed network, as it was"


def test_a_new_recipe_for_a_pack_that_trains_is_whole(world: Path) -> None:
    out = world / "recipes" / "mine.toml"
    trains = ("--method", "cag-plus-source-free")
    run("recipes", "new", world / "day.safetensors", world / "dusk.toml", "--out", out, *trains)
    recipe = load_recipe(out)
    assert recipe.name == "day-to-dusk"
    assert not recipe.source
    assert recipe.segmenter.backbone == "resnet-tiny", "as the pack has it"
    names = [stage.name for stage in recipe.stages]
    assert names == ["source-only", "statistics", "training-free", "source-free"]
    assert recipe.target.test == "test"
    text = run("recipes", "show", out, "--complete")
    assert 'backbone = "resnet-tiny"' in text
    run("recipes", "new", world / "day.safetensors", world / "dusk.toml", "--out",
        out.with_name("gpu.toml"), "--machine", "gpu", *trains)  # fmt: skip
    short = world / "mine-run"
    run("adapt", out, "--out", short, "--steps", "2", "--set", "loading.batch_size=2",
        "--accelerator", "cpu", "--precision", "32")  # fmt: skip
    scores = json.loads((short / "scores.json").read_text())
    assert scores["stages"][-1]["gain"]["over"] == "source-only"
    floor = json.loads((world / "given" / "scores.json").read_text())["stages"][0]
    assert scores["stages"][0]["iou"] == floor["iou"], "the packed network, as it was"


MISTAKES = {
    "a method that learns from the source": (
        {'"cag-plus-source-free", confidence = 0.3': '"cag"'},
        "stage 'source-free': method 'cag' learns from the source's images and labels, and of a "
        "pack there are none; choose from adabn, anchor-classifier, cag-plus-source-free",
    ),
    "a source beside the pack": (
        {"[target]": '[source]\ndomain = "dusk.toml"\n[target]'},
        "pack stands in place of source",
    ),
    "neither": ({'pack = "day.safetensors"': ""}, "source: missing; give the labelled domain"),
    "a pack as source": (
        {'pack = "day.safetensors"': 'source = "day.safetensors"'},
        "a pack is named by `pack`",
    ),
    "rare classes of the source": (
        {"workers = 0": "workers = 0\nrare_class_temperature = 0.1"},
        "chooses source images, and there are none: set 0",
    ),
    "a criterion on the source": (
        {'deliver = "last"': 'deliver = "infomax+source-miou"'},
        "deliver: source-miou wants images of the source",
    ),
    "weights": (
        {"[segmenter]": '[segmenter]\nweights = "imagenet"'},
        "leave out segmenter.weights",
    ),
    "another network": (
        {'decoder = "light"': 'decoder = "deeplab-v3plus"'},
        "pack: its network has decoder 'light', but the recipe wants",
    ),
    "no pack there": ({"day.safetensors": "night.safetensors"}, "no pack at"),
    "another file": ({"day.safetensors": "given/model/model.safetensors"}, "is no pack of this"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_a_line(
    world: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, (changes, message) = PACKED, MISTAKES[name]
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = world / "mistake.toml"
    path.write_text(text)
    told = failure(capsys, "adapt", path, "--out", world / "mistake")
    assert message in told
    assert told.count("\n") == 1
    assert not (world / "mistake").exists()


def test_a_target_of_other_classes_is_refused(world: Path) -> None:
    text = (world / "dusk.toml").read_text()
    (world / "other.toml").write_text(text.replace('"tree"', '"bush"'))
    (world / "mistake.toml").write_text(PACKED.replace("dusk.toml", "other.toml"))
    with pytest.raises(Exception, match="has no class 'tree'"):
        adapt(world / "mistake.toml", world / "mistake")


def test_what_wants_the_source_is_refused_in_a_line(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = failure(capsys, "compare", world / "packed.toml", "--out", world / "compared")
    assert "has a pack in its place" in told
    told = failure(
        capsys, "pseudo-label", world / "free", "--domain", world / "dusk.toml",
        "--out", world / "labels",
    )  # fmt: skip
    assert "its source, of which anchors are made, is not here" in told
    told = failure(capsys, "pack", world / "free", "--out", world / "again.safetensors")
    assert "its source, of which anchors are made, is not here" in told
    with pytest.raises(RecipeError):
        load_recipe(world / "packed.toml", ["stages.source-free.method.pull=-1"])


def test_a_damaged_pack_is_told_before_anything(world: Path) -> None:
    whole = (world / "day.safetensors").read_bytes()
    (world / "broken.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (world / "mistake.toml").write_text(PACKED.replace("day.safetensors", "broken.safetensors"))
    with pytest.raises(ModelError, match="its checksum differs"):
        adapt(world / "mistake.toml", world / "mistake")
