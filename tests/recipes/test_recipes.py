"""Recipes: every shipped one is valid, changes apply, mistakes are named."""

import json
from pathlib import Path

import pytest

import cag_uda
from cag_uda.errors import RecipeError
from cag_uda.methods.margin_fitting import MarginConfig
from cag_uda.recipes import Recipe, as_toml, builtin_recipes, changed, dump_recipe, load_recipe
from cag_uda.recipes.json_schema import json_schema
from tests.support.trees import RECIPE


@pytest.mark.parametrize("name", builtin_recipes())
def test_shipped_recipes_are_valid_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    (tmp_path / "copy.toml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "copy.toml") == recipe


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def test_changes_apply_by_stage_name_number_and_to_all(tiny: Path) -> None:
    recipe = load_recipe(
        tiny,
        [
            "seed=7",
            "loading.photometric=1.0",
            "stages.warmup.steps=9",
            "stages.0.steps=8",
            "stages.*.optim.learning_rate=0.5",
            "stages.stage-1.method.margin={kind='relative', value=0.2}",
            "target.domain=dawn.toml",
        ],
    )
    assert recipe.seed == 7
    assert recipe.loading.photometric == 1.0
    assert [stage.steps for stage in recipe.stages] == [8, 0, 9, 3]
    assert {stage.optim.learning_rate for stage in recipe.stages} == {0.5}
    margin = recipe.stages[3].method.model_dump()["margin"]
    wanted = MarginConfig(kind="relative", value=0.2)
    assert margin == wanted.model_dump(), "a table replaces the whole of another"
    assert recipe.target.domain == str(tiny.parent / "dawn.toml")


@pytest.mark.parametrize("bits", ["32", "16"])
def test_bits_of_precision_may_be_a_number(tiny: Path, bits: str) -> None:
    as_text, as_number = (
        load_recipe(tiny, [f"compute.precision={each}"]) for each in (f"'{bits}'", bits)
    )
    assert as_number == as_text
    assert as_number.compute.precision == bits
    for wrong in ("64", "true", "32.0"):
        with pytest.raises(RecipeError, match="should be 'auto', '32', 'bf16' or '16'"):
            load_recipe(tiny, [f"compute.precision={wrong}"])
    enum = json.loads(json_schema("recipe"))["$defs"]["ComputeConfig"]["properties"]["precision"]
    assert {"32", 32} <= set(enum["enum"])
    assert "type" not in enum


def test_data_root_is_kept_absolute(tiny: Path) -> None:
    recipe = load_recipe(tiny, data_root=Path("some/where"))
    assert recipe.data_root == str(Path("some/where").absolute())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("loading.crop=[1,2]", "crop.*did you mean 'crop_px'"),
        ("stages.warmup.method.name=dann", "dann"),
        ("stages.warmup.method.weigth=1", "weigth"),
        ("stages.nine.steps=1", "nine"),
        ("nonsense", "KEY=VALUE"),
        ("loading.batch_size=1", "batch norm"),
        ("stages.adabn.steps=3", "takes no training steps"),
        ("stages.warmup.steps=0", "at least 1"),
        ("stages.warmup.start=later", "no earlier stage"),
        ("stages.stage-1.name=warmup", "own name"),
        ("stages.stage-1.method.margin={kind='relative', value=2.5}", "between 0 and 1"),
        ("segmenter.std=[0,1,1]", "std"),
        ("loading.scale=[2.0, 1.0]", "scale"),
        ("compute.devices=3", "multiple"),
        ("source=[]", "source"),
    ],
)
def test_mistakes_are_named(tiny: Path, change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny, [change])


def test_all_problems_at_once(tiny: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(tiny, ["loading.flip=3", "segmenter.output_stride=7", "nmae=1"])
    assert len(caught.value.problems) >= 3


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'demo'"):
        load_recipe("demoo")
    with pytest.raises(RecipeError, match="no recipe file"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(RecipeError, match="TOML"):
        load_recipe(tmp_path / "broken.toml")


def test_overrides_from_python_are_changes_of_the_command_line() -> None:
    recipe = load_recipe("demo")
    values: dict[str, object] = {
        "stages.cag-plus.steps": 7,
        "loading.crop_px": (64, 96),
        "name": "x",
    }
    changes = [f"{key}={as_toml(value)}" for key, value in values.items()]
    assert changed(recipe, changes) == load_recipe("demo", changes)
    assert changed(recipe, changes).loading.crop_px == (64, 96)
    assert changed(recipe, []) is recipe


def test_steps_of_all_stages_are_those_of_stages_that_take_some() -> None:
    for change in ("stages.*.steps=7", "stages.*.steps = 7"):
        recipe = load_recipe("demo", [change])
        assert {stage.steps for stage in recipe.stages if stage.trains} == {7}
        assert [stage.steps for stage in recipe.stages if not stage.trains] == [0, 0, 0]


def test_a_recipe_that_was_copied_into_what_none_may_be_is_refused() -> None:
    """`model_copy` checks nothing: a run of such a recipe could not be opened again."""
    recipe = load_recipe("demo")
    segmenter = recipe.segmenter.model_copy(update={"start": "somewhere"})
    with pytest.raises(RecipeError, match="brings the backbone's weights too"):
        changed(recipe.model_copy(update={"segmenter": segmenter}), [])
    with pytest.raises(RecipeError, match="loading"):
        cag_uda.adapt(recipe, "nowhere", overrides={"loading.batch_sise": 2})
    with pytest.raises(RecipeError, match="cannot be"):
        cag_uda.adapt("demo", "nowhere", overrides={"seed": object()})
    with pytest.raises(RecipeError, match="got int"):
        cag_uda.adapt(3, "nowhere")  # type: ignore[arg-type]


def test_a_repeated_stage_is_written_out(tmp_path: Path) -> None:
    """Settings of the whole and of single repetitions can be changed, in any order."""
    changes = ["stages.stage-2.steps=7", "stages.stage.steps=5", "stages.*.log_every=3"]
    recipe = load_recipe("camvid-drives", [*changes, "stages.stage.repeat=2"])
    stages = [(each.name, each.steps, each.log_every) for each in recipe.stages[5:7]]
    assert stages == [("stage-1", 5, 3), ("stage-2", 7, 3)]
    assert [recipe.start_of(index) for index in (5, 6)] == ["training-free", "stage-1"]
    path = tmp_path / "again.toml"
    path.write_text(dump_recipe(recipe))
    assert "repeat" not in path.read_text()
    assert load_recipe(path).stages == recipe.stages


@pytest.mark.parametrize("value", ["0", "101", "many", "1.5"])
def test_a_stage_is_repeated_a_sensible_number_of_times(value: str) -> None:
    with pytest.raises(RecipeError, match=r"stages\.5\.repeat"):
        load_recipe("camvid-drives", [f"stages.stage.repeat={value}"])


def test_repetitions_start_where_the_stage_says() -> None:
    table = load_recipe("demo").model_dump(mode="json")
    cag = {**table["stages"][3], "name": "more", "start": "initial", "repeat": 2}
    recipe = Recipe.model_validate({**table, "stages": [table["stages"][0], cag]})
    assert [recipe.start_of(index) for index in (1, 2)] == ["initial", "more-1"]


def test_whole_images_have_the_width_of_the_networks_input() -> None:
    assert load_recipe("demo").sweep_loading.width_px == load_recipe("demo").loading.width_px
    wider = load_recipe("demo", ["segmenter.input_width_px=256"])
    assert (wider.loading.width_px, wider.sweep_loading.width_px) == (192, 256)


def test_a_misspelt_key_is_one_problem(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("[target]\ndomain", "[target]\ndomian", 1))
    with pytest.raises(RecipeError) as refused:
        load_recipe(tiny)
    assert len(refused.value.problems) == 1
    assert "did you mean 'domain'" in refused.value.problems[0]


@pytest.mark.parametrize("name", ["camvid-day-dusk", "camvid-drives", "rendered-camvid", "nuclei"])
def test_cag_and_cag_plus_have_one_network_and_one_loader(name: str) -> None:
    """So what they deliver differs by the method alone, and both are augmented."""
    cag, plus = load_recipe(name), load_recipe(f"cag-plus-{name}")
    for part in ("source", "target", "segmenter", "loading"):
        assert getattr(cag, part) == getattr(plus, part), part
    assert cag.loading.photometric == 0.5
    assert cag.stages[0].optim == plus.stages[0].optim
