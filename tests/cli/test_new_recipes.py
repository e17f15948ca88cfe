"""From two domains to a recipe without a wizard: `recipes new`; schemas and lists of such files."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from cag_uda.comparison.plan import delivered_stages
from cag_uda.data.domains.builtin import domain_files
from cag_uda.errors import UserError
from cag_uda.recipes import builtin_recipes, load_recipe
from cag_uda.recipes.json_schema import json_schema
from cag_uda.runs.fingerprint import fingerprint
from cag_uda.runs.own_files import copy_domains
from cag_uda.runs.scenario import Scenario
from tests.support.command_line import failure, run
from tests.support.photo_folders import new, write
from tests.support.trees import write_domain


def problems(kind: Any, tables: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(json.loads(json_schema(kind)))
    return [error.message for error in validator.iter_errors(tables)]


def test_schemas_hold_for_every_built_in_file() -> None:
    for name, file in domain_files().items():
        assert not problems("domain", tomllib.loads(file.read_text())), name
    for name, path in builtin_recipes().items():
        assert not problems("recipe", tomllib.loads(path.read_text())), name
        assert not problems("recipe", tomllib.loads(run("recipes", "show", name, "--complete")))


def test_schemas_refuse_what_the_package_refuses() -> None:
    domain = tomllib.loads(domain_files()["camvid"].read_text())
    recipe = tomllib.loads(builtin_recipes()["demo"].read_text())
    assert problems("domain", {**domain, "lables": {}})
    assert problems("domain", {**domain, "labels": {"encoding": "colours"}})
    assert problems("domain", {**domain, "splits": {"train": {"image": "x/*"}}})
    assert problems("domain", {**domain, "splits": {"train": {"images": 3}}})
    assert problems("recipe", {**recipe, "stages": []})
    assert problems("recipe", {**recipe, "loading": {"batch": 4}})
    assert problems("recipe", {**recipe, "segmenter": {"norm": "none"}})
    assert problems("recipe", {**recipe, "segmenter": {"backbone": "resnet-52"}})
    wrong = {**recipe["stages"][0], "method": {"name": "cga"}}
    assert problems("recipe", {**recipe, "stages": [wrong]})


def test_schemas_explain_every_key() -> None:
    recipe, domain = (json.loads(run(kind, "schema")) for kind in ("recipes", "domains"))
    crop = recipe["$defs"]["LoadingConfig"]["properties"]["crop_px"]
    assert crop["description"].startswith("Height and width of a training crop")
    assert (
        "2.5 is the paper's"
        in recipe["$defs"]["MarginConfig"]["properties"]["value"]["description"]
    )
    listed = domain["$defs"]["SplitTable"]["properties"]["list"]
    assert listed["description"].startswith("Text file below the root")


def test_new_files_name_a_schema_that_stands_beside_them(tmp_path: Path) -> None:
    day, dusk = (write_domain(tmp_path, name) for name in ("day", "dusk"))
    run("recipes", "new", day, dusk, "--out", tmp_path / "recipe.toml")
    new(tmp_path / "day" / "images")
    for path, kind in (
        (tmp_path / "recipe.toml", "recipe"),
        (tmp_path / "day" / "images.toml", "domain"),
    ):
        first, *_ = path.read_text().splitlines()
        assert first == f"#:schema ./cag-uda-{kind}.schema.json"
        beside = path.parent / first.removeprefix("#:schema ./")
        assert json.loads(beside.read_text()) == json.loads(json_schema(kind))
        assert not problems(kind, tomllib.loads(path.read_text()))


@pytest.mark.parametrize("machine", ["small", "gpu"])
@pytest.mark.parametrize(
    ("options", "last"),
    [((), ["cag-plus"]), (("--method", "cag"), ["stage-1", "stage-2", "stage-3"])],
)
def test_a_new_recipe_is_whole_and_fits_the_images(
    machine: str, options: tuple[str, ...], last: list[str], tmp_path: Path
) -> None:
    day = write_domain(tmp_path, "day", 3)
    dusk = write_domain(tmp_path, "dusk", 3, labels=False)
    out = tmp_path / "recipes" / "mine.toml"
    run("recipes", "new", day, dusk, "--out", out, "--machine", machine, *options)
    recipe = load_recipe(out)
    assert recipe.name == "day-to-dusk"
    assert Path(recipe.source[0].domain) == day.resolve()
    assert Path(recipe.target.domain) == dusk.resolve()
    assert tomllib.loads(out.read_text())["source"]["domain"] == "../day.toml"
    assert recipe.loading.width_px is None, "both are 64 wide"
    assert recipe.loading.crop_px[0] <= 48
    assert recipe.loading.crop_px[1] <= 64
    names = [stage.name for stage in recipe.stages]
    training_free = ["mixed-statistics", "training-free"] if machine == "small" else []
    # The paper's stages on a large network are left as they were published.
    is_published = bool(options) and machine == "gpu"
    warmup = ["warmup"] if is_published else []
    assert names[: len(training_free) + 2] == ["source-only", *training_free, (warmup or last)[0]]
    trained = [stage.name for stage in recipe.stages if stage.trains]
    assert names[names.index(last[-1]) + 1 :] == ([] if is_published else ["answer"])
    assert trained[-len(last) :] == last
    floor, delivered = recipe.stages[0], delivered_stages(recipe)
    assert sum(stage.steps for stage in delivered) >= floor.steps
    methods = {stage.name: stage.method.name for stage in recipe.stages}
    assert methods[last[-1]] == ("cag" if options else "cag-plus")
    comments = [line for line in out.read_text().splitlines() if line.startswith("#")]
    assert len(comments) > 10


def test_a_new_recipe_scores_what_has_labels_and_resizes_what_differs(tmp_path: Path) -> None:
    day, dusk = write_domain(tmp_path, "day", 3), write_domain(tmp_path, "dusk", 3)
    for path in (tmp_path / "dusk" / "images").iterdir():
        write(path, np.zeros((360, 480, 3), np.uint8))
    run("recipes", "new", day, dusk, "--out", tmp_path / "a.toml")
    recipe = load_recipe(tmp_path / "a.toml")
    assert recipe.target.test == "test"
    assert recipe.loading.width_px == 256
    assert recipe.loading.crop_px == (128, 176)


def test_labels_in_a_folder_of_their_own_are_scored(tmp_path: Path) -> None:
    day, dusk = write_domain(tmp_path, "day", 3), write_domain(tmp_path, "dusk", 3, labels=False)
    labelled = write_domain(tmp_path, "dusk-labelled", 2, seed=5)
    out = tmp_path / "recipes" / "mine.toml"
    run("recipes", "new", day, dusk, "--out", out, "--test", labelled)
    target = tomllib.loads(out.read_text())["target"]
    assert (target["domain"], target["train"]) == ("../dusk.toml", "train")
    assert (target["test_domain"], target["test"]) == ("../dusk-labelled.toml", "test")
    recipe = load_recipe(out)
    scenario = Scenario.open(recipe)
    assert scenario.is_scored
    assert [len(scenario.target), len(scenario.test.items("test"))] == [3, 2]
    assert set(fingerprint(recipe).splits) == {"day/train", "dusk/train", "dusk-labelled/test"}
    own = copy_domains(recipe, tmp_path / "run")
    assert Path(own.target.scored_domain) == tmp_path / "run" / "domains" / "dusk-labelled.toml"
    assert "dusk-labelled/test: 2 images, 2 labelled" in run("check", out)


def test_labels_of_their_own_must_be_there_and_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day, bare = write_domain(tmp_path, "day", 3), write_domain(tmp_path, "bare", 3, labels=False)
    new_one = ("recipes", "new", day, bare, "--out", tmp_path / "a.toml")
    assert "--test wants labelled" in failure(capsys, *new_one, "--test", bare)
    assert "same classes" in failure(capsys, *new_one, "--test", "rendered-hard")
    run(*new_one, "--test", day)
    for change, wanted in (
        ("target.test='tset'", "no split 'tset'"),
        ("target.test_domain='bare.toml'", "has no labels"),
    ):
        with pytest.raises(UserError, match=wanted):
            Scenario.open(load_recipe(tmp_path / "a.toml", [change]))


def test_recipes_for_domains_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day, bare = write_domain(tmp_path, "day", 3), write_domain(tmp_path, "bare", 3, labels=False)
    out = ("--out", tmp_path / "a.toml")
    assert "no labelled split" in failure(capsys, "recipes", "new", bare, day, *out)
    assert "same classes" in failure(capsys, "recipes", "new", day, "rendered-hard", *out)
    assert "small or gpu" in failure(capsys, "recipes", "new", day, bare, *out, "--machine", "tpu")
    assert "cag-plus or cag" in failure(
        capsys, "recipes", "new", day, bare, *out, "--method", "dacs"
    )
    (tmp_path / "a.toml").write_text("mine")
    assert "--overwrite" in failure(capsys, "recipes", "new", day, bare, *out)
    assert "did you mean 'camvid-day'" in failure(capsys, "recipes", "new", "camvid-dya", bare)


def test_lists_and_files_are_shown_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "camvid-day-dusk" in run("recipes")
    assert run("recipes", "demo") == run("recipes", "show", "demo")
    assert run("recipes", "demo") == builtin_recipes()["demo"].read_text()
    assert "checkpoint_every" in run("recipes", "show", "demo", "--complete")
    assert "cityscapes-19" in run("domains")
    assert run("domains", "camvid-dusk") == domain_files()["camvid-dusk"].read_text()
    assert "3 road" in run("domains", "spaces")
    assert "did you mean 'camvid'" in failure(capsys, "domains", "camvdi")
    assert "no built-in recipe" in failure(capsys, "recipes", "demmo")
