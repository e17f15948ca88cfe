"""`cag-uda check RECIPE --network NETWORK`: class shares of both domains, before any run."""

import shutil
from pathlib import Path

import pytest

import cag_uda
from cag_uda.recipes import load_recipe
from cag_uda.runs import class_shares
from cag_uda.runs.class_shares import settings_for_equal_shares
from cag_uda.runs.records import run as run_records
from cag_uda.runs.records.run import ClassShares, read_class_shares
from cag_uda.runs.runner import adapt
from tests.support.command_line import failure, run
from tests.support.trees import RECIPE, write_domain, write_recipe

SHORT = "[[stages]]".join(RECIPE.split("[[stages]]")[:2])
NOTE = "note: the target seems to show the classes in other shares than the source"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, a run of it, a pack of that, and a network that sees nothing but sky."""
    folder = tmp_path_factory.mktemp("world")
    adapt(write_recipe(folder, SHORT), folder / "run", progress=False)
    run("pack", folder / "run", "--out", folder / "day.safetensors")
    network = cag_uda.load(folder / "run")
    network.state_dict()["classifier.bias"][3] += 1000
    network.save_pretrained(folder / "sky")
    return folder


def rows(shares: ClassShares) -> list[list[str]]:
    pairs = zip(shares.classes, shares.source, shares.target, strict=True)
    return [
        f"{name} {100 * source:.1f} % {100 * target:.1f} % {100 * (target - source):+.1f}".split()
        for name, source, target in pairs
    ]


def told(*arguments: object) -> tuple[str, list[list[str]]]:
    """What the command prints, as one line and as the words of its lines."""
    text = run("check", *arguments)
    assert "nothing is wrong" in text
    return " ".join(text.split()), [line.split() for line in text.splitlines()]


def test_the_shares_are_those_that_a_run_records(world: Path) -> None:
    recorded = read_class_shares(world / "run")
    assert recorded is not None
    for network in ("run", "run/stages/0-source-only/model", "day.safetensors"):
        text, lines = told(world / "tiny.toml", "--network", world / network)
        assert all(row in lines for row in rows(recorded)), network
        assert f"total variation {100 * recorded.total_variation:.0f} %" in text
        assert "labels 6 of its images" in text


def test_shares_that_differ_have_a_sentence_that_says_what_follows(world: Path) -> None:
    text, _ = told(world / "tiny.toml", "--network", world / "run")
    assert NOTE in text
    assert "mixed statistics (segmenter.target_share = 0.5)" in text
    assert "leave that out" not in text, "the recipe forces nothing"
    forced = (world / "tiny.toml").read_text().replace("[loading]", "target_share = 1\n[loading]")
    (world / "forced.toml").write_text(forced)
    text, _ = told(world / "forced.toml", "--network", world / "run")
    assert "this recipe has segmenter.target_share = 1: leave that out" in text


def test_a_network_that_has_collapsed_is_not_believed(world: Path) -> None:
    text, _ = told(world / "tiny.toml", "--network", world / "sky")
    assert "labels nearly all of the target as sky, of which the source has far less" in text
    assert NOTE not in text


def test_like_shares_are_called_so(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_records, "CLEARLY_APART", 0.99)
    text, _ = told(world / "tiny.toml", "--network", world / "run")
    assert "class shares: much alike (total variation" in text
    assert NOTE not in text


def test_a_recipe_that_begins_with_a_network_is_looked_at_by_that(world: Path) -> None:
    started = SHORT.replace("[loading]", 'start = "run/model"\n[loading]')
    (world / "started.toml").write_text(started)
    text, _ = told(world / "started.toml")
    assert NOTE in text
    packed = SHORT.replace('[source]\ndomain = "day.toml"', "").replace(
        'name = "tiny"', 'name = "tiny"\npack = "day.safetensors"'
    )
    packed = packed.replace('steps = 3\nmethod = { name = "source-only" }', "method.name = 'adabn'")
    (world / "packed.toml").write_text(packed)
    text, _ = told(world / "packed.toml")
    assert "day.safetensors labels 6 of its images" in text
    text, _ = told(world / "tiny.toml")
    assert "class shares" not in text


def test_only_a_few_images_are_looked_at(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_shares, "_FEW", 2)
    text, _ = told(world / "tiny.toml", "--network", world / "sky")
    assert "labels 2 of its images" in text


def test_mistakes_are_told_before_anything_is_read(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = failure(capsys, "check", world / "day.toml", "--network", world / "sky")
    assert "give a recipe, which names both, in place of" in text
    words = ["--network", world / "sky", "--submission", tmp_path]
    text = failure(capsys, "check", world / "tiny.toml", *words)
    assert "leave --network out" in text
    text = failure(capsys, "check", world / "tiny.toml", "--network", "nowhere")
    assert "no model at nowhere" in text
    text = failure(capsys, "check", world / "tiny.toml", "--network", "none.safetensors")
    assert "no pack at none.safetensors" in text
    for name in ("day", "dusk"):
        described = write_domain(tmp_path, name)
        described.write_text(described.read_text().replace('"tree"', '"bush"'))
    shutil.copy(world / "tiny.toml", tmp_path)
    text = failure(capsys, "check", tmp_path / "tiny.toml", "--network", world / "sky")
    assert "sky tells road, car, tree, sky apart, but the recipe's domains road, car, bush" in text


def test_no_network_is_run_where_the_data_are_broken(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(tmp_path, SHORT)
    (tmp_path / "dusk/images/001.png").write_bytes(b"no picture")
    text = failure(capsys, "check", tmp_path / "tiny.toml", "--network", world / "sky")
    assert "mend them and check again" in text


def test_what_assumes_equal_shares_is_listed(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    changes = [
        "segmenter.target_share=1",
        "stages.adabn.method.target_share=1",
        "stages.stage-1.method.margin.prior_portion=0.8",
    ]
    assert settings_for_equal_shares(load_recipe(tmp_path / "tiny.toml", changes)) == [
        "segmenter.target_share = 1",
        "stages.adabn.method.target_share = 1",
        "stages.stage-1.method.margin.prior_portion = 0.8",
    ]
    shared = load_recipe(tmp_path / "tiny.toml", ["segmenter.norm='shared'", changes[0]])
    assert settings_for_equal_shares(shared) == []
    assert settings_for_equal_shares(load_recipe("demo")) == []
