"""Which runs a comparison is made of: budgets, methods, variants, and impossible rows."""

from pathlib import Path

import pytest

from cag_uda.comparison.plan import (
    base_of,
    budget_of,
    delivered_stages,
    last_trained,
    plan_ablation,
    plan_methods,
)
from cag_uda.comparison.settings import choose, read_contenders, read_variants
from cag_uda.errors import RecipeError
from cag_uda.methods.adabn import AdaBNConfig
from cag_uda.methods.anchor_classifier import AnchorClassifierConfig
from cag_uda.recipes import builtin_recipes, load_recipe
from cag_uda.recipes.schema import Stage
from tests.support.trees import ANCHORED, RECIPE, write_recipe


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    """Day to dusk: a warm-up of 3 steps and two anchor-guided stages of 3 steps."""
    return write_recipe(tmp_path, RECIPE + ANCHORED)


@pytest.mark.parametrize("name", sorted(builtin_recipes()))
def test_every_method_has_the_recipes_budget_network_and_data(name: str) -> None:
    recipe = load_recipe(name)
    steps = budget_of(recipe)["steps"]
    contenders = read_contenders()
    if last_trained(delivered_stages(recipe)).method.family != "cag":
        with pytest.raises(RecipeError, match="'cag' is the recipe's own stages"):
            plan_methods(recipe, contenders)
        return
    for entry in plan_methods(recipe, contenders):
        stages = delivered_stages(entry.recipe)
        assert sum(stage.steps for stage in stages) == entry.steps == steps
        assert entry.recipe.segmenter == recipe.segmenter
        assert entry.recipe.target == recipe.target
        assert stages[0].optim == delivered_stages(recipe)[0].optim
        if entry.name == "oracle":
            continue
        assert entry.recipe.source == recipe.source
        assert entry.recipe.loading == recipe.loading


def test_the_oracle_sees_the_source_images_of_the_others_and_as_many_of_the_target() -> None:
    recipe = load_recipe("camvid-day-dusk")
    oracle = plan_methods(recipe, read_contenders())[-1].recipe
    assert [each.domain for each in oracle.source] == ["camvid-day", "camvid-dusk"]
    assert oracle.loading.batch_size == 2 * recipe.loading.batch_size
    known = load_recipe("camvid-day-dusk-oracle")
    assert (oracle.source, oracle.loading) == (known.source, known.loading)
    assert [(s.method, s.steps, s.optim) for s in oracle.stages[:1]] == [
        (s.method, s.steps, s.optim) for s in known.stages[:1]
    ]


def test_methods_are_planned_as_their_file_says(recipe_path: Path) -> None:
    entries = {e.name: e for e in plan_methods(load_recipe(recipe_path), read_contenders())}
    stages = {
        name: [(s.name, s.steps, s.refresh_every) for s in entry.recipe.stages]
        for name, entry in entries.items()
    }
    assert stages["cbst"] == [("source-only", 4, None), ("cbst", 5, 2)]
    assert stages["cag"] == [("warmup", 3, None), ("stage-1", 3, None), ("stage-2", 3, None)]
    assert stages["adabn"] == [
        ("source-only", 9, None),
        ("alpha-bn", 0, None),
        ("adabn", 0, None),
    ]
    assert {entries[name].run for name in ("adabn", "alpha-bn", "source-only")} == {"source-only"}
    assert entries["adabn"].scored == ("adabn",)
    assert entries["cbst"].recipe.stages[0].optim == entries["cag"].recipe.stages[0].optim
    assert entries["cbst"].recipe.stages[1].optim == entries["cag"].recipe.stages[-1].optim


def test_variants_change_one_thing_each_and_keep_the_budget(recipe_path: Path) -> None:
    base = plan_methods(load_recipe(recipe_path), choose(read_contenders(), ["cag"]))[0]
    entries = {e.name: e for e in plan_ablation(base, read_variants())}
    assert {entry.steps for entry in entries.values()} == {9}
    assert entries["stages-2"].run == "cag", "the recipe has two stages"
    assert entries["warmup"].run == "cag"
    assert entries["warmup"].scored == ("warmup",)
    longer = entries["warmup-longer"].recipe.stages
    assert [(stage.name, stage.steps) for stage in longer] == [("warmup", 9)]
    five = entries["stages-5"].recipe.stages
    assert [stage.steps for stage in five] == [3, 1, 1, 2, 1, 1]
    assert [stage.name for stage in five[-2:]] == ["stage-4", "stage-5"]
    both = entries["labels-both"].recipe.stages
    for stage, own in zip(both[1:], base.recipe.stages[1:], strict=True):
        changed = {**own.method.model_dump(), "labels": ("anchor", "confidence")}
        assert stage.method.model_dump() == changed
        assert (stage.steps, stage.optim) == (own.steps, own.optim)
    refreshed = entries["anchors-refreshed"].recipe.stages
    assert [(stage.steps, stage.refresh_every) for stage in refreshed[1:]] == [(6, 2)]


def test_stages_that_do_not_train_stay_around_those_that_vary(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    warmup, *anchored = delivered_stages(recipe)
    statistics = Stage(name="statistics", method=AdaBNConfig())
    answer = Stage(name="answer", method=AnchorClassifierConfig())
    stages = (warmup, statistics, anchored[0].model_copy(update={"start": None}), answer)
    made = recipe.model_copy(update={"stages": stages})
    assert base_of(made) == "cag"
    rows = plan_methods(made, choose(read_contenders(), ["cag", "dacs"]))
    cag, dacs = (next(e for e in rows if e.name == name) for name in ("cag", "dacs"))
    assert cag.scored == ("answer",)
    assert dacs.recipe.stages[0].optim == warmup.optim
    chosen = choose(read_variants(), ["warmup", "warmup-longer", "answer-none", "stages-2"])
    entries = {e.name: e for e in plan_ablation(cag, chosen)}
    assert entries["answer-none"].scored == (anchored[0].name,)
    assert entries["answer-none"].run == "cag"
    assert entries["warmup"].scored == ("statistics",)
    longer = entries["warmup-longer"].recipe.stages
    assert [(each.name, each.steps) for each in longer] == [("warmup", 6), ("statistics", 0)]
    assert entries["stages-2"].recipe.stages[-1].method == answer.method


def test_impossible_rows_are_named(recipe_path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    with pytest.raises(RecipeError, match=r"no 'cagg'; did you mean 'cag'"):
        choose(read_contenders(), ["cagg"])
    dacs, base = plan_methods(recipe, choose(read_contenders(), ["dacs", "cag"]))
    variants = read_variants()
    with pytest.raises(RecipeError, match="'distance-none': wanted a warm-up and then stages of"):
        plan_ablation(dacs, choose(variants, ["distance-none"]))
    odd = variants["labels-both"].model_copy(update={"method": {"labels": []}})
    with pytest.raises(RecipeError, match=r"'odd'(.|\n)*labels must name at least one kind"):
        plan_ablation(base, {"odd": odd})
    own = tmp_path / "own.toml"
    own.write_text('[mine]\nstages = [{ name = "a", share = 0.5, method = { name = "dacs" } }]\n')
    with pytest.raises(RecipeError, match=r"add up to 0\.5"):
        read_contenders(own)
    own.write_text('[mine]\nrun = "nobody"\nscored = "a"\n')
    with pytest.raises(RecipeError) as caught:
        read_contenders(own)
    assert len(caught.value.problems) == 3, "floor, oracle, and the run of nobody"
