"""CAG-plus in comparisons: beside the other methods, and taken apart piece by piece."""

import pytest
from pydantic import ValidationError

from cag_uda.comparison.plan import (
    base_of,
    budget_of,
    delivered_stages,
    last_trained,
    plan_ablation,
    plan_methods,
)
from cag_uda.comparison.settings import choose, read_contenders, read_variants
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.recipes import Recipe, builtin_recipes, load_recipe

RECIPES = [name for name in builtin_recipes() if name.startswith("cag-plus-")]


def test_beside_cag_it_takes_as_many_steps_from_the_initial_network() -> None:
    recipe = load_recipe("camvid-day-dusk")
    names = ["dacs", "cag", "cag-plus"]
    dacs, cag, plus = plan_methods(recipe, choose(read_contenders(), names))
    assert [(s.name, s.method.name, s.steps) for s in plus.recipe.stages] == [
        ("cag-plus", "cag-plus", 600),
        ("answer", "anchor-classifier", 0),
    ]
    assert plus.steps == cag.steps == budget_of(recipe)["steps"]
    assert base_of(recipe) == "cag"
    trained = plus.recipe.stages[0]
    assert trained.optim == cag.recipe.stages[0].optim == dacs.recipe.stages[0].optim
    assert plus.recipe.loading == dacs.recipe.loading == cag.recipe.loading
    own = load_recipe("cag-plus-camvid-day-dusk")
    stage = last_trained(delivered_stages(own))
    assert stage.method == trained.method
    assert stage.optim == trained.optim
    assert own.loading == plus.recipe.loading
    assert own.segmenter == recipe.segmenter


def test_a_recipe_that_ends_in_it_is_its_row() -> None:
    for name in RECIPES:
        recipe = load_recipe(name)
        (entry,) = plan_methods(recipe, choose(read_contenders(), ["cag-plus"]))
        own = [stage.method for stage in delivered_stages(recipe)]
        assert [stage.method for stage in entry.recipe.stages] == own
        assert entry.recipe.loading == recipe.loading
        assert base_of(recipe) == "cag-plus"


def test_every_variant_takes_one_thing_out_and_keeps_the_rest() -> None:
    recipe = load_recipe("cag-plus-camvid-day-dusk")
    (base,) = plan_methods(recipe, choose(read_contenders(), ["cag-plus"]))
    entries = {e.name: e for e in plan_ablation(base, read_variants(base="cag-plus"))}
    assert {e.steps for e in entries.values()} == {1200}
    base_row = ("cag-plus", ("cag-plus",))
    assert (entries["answer-none"].run, entries["answer-none"].scored) == base_row
    own = last_trained(delivered_stages(recipe)).method.model_dump()
    for name, entry in entries.items():
        method = last_trained(entry.recipe.stages).method.model_dump()
        changed = [key for key in own if own[key] != method[key]]
        if entry.recipe.loading != recipe.loading:
            changed.append("loading")
        # Another stage of the same run; and small recipes lack two pieces.
        expected = {"answer-none": 0, "initial-none": 0, "sampling-none": 0}.get(name, 1)
        assert len(changed) == expected, name
        assert (entry.run == name) == (expected > 0)
    sampled = entries["sampling"].recipe.loading
    assert sampled == recipe.loading.model_copy(update={"rare_class_temperature": 0.1})


def test_a_recipe_that_wants_features_near_random_ones_is_refused_before_any_training() -> None:
    table = load_recipe("cag-plus-camvid-day-dusk").model_dump()
    table["segmenter"]["weights"] = None
    table["stages"][3]["method"]["initial"]["weight"] = 0.005
    with pytest.raises(ValidationError, match=r"'cag-plus': initial\.weight .*initial\.weight = 0"):
        Recipe.model_validate(table)


def test_the_defaults_are_the_published_numbers() -> None:
    config = CAGPlusConfig()
    assert config.momentum == 0.99, "DACS"
    assert (config.mask.ratio, config.mask.block) == (0.7, 64 / 1024), "MIC"
    assert config.label_temperature == 0.5, "MixMatch"
    for name in ("cag-plus-gta5-cityscapes", "cag-plus-synthia-cityscapes"):
        recipe = load_recipe(name)
        stage = recipe.stages[0]
        assert isinstance(stage.method, CAGPlusConfig)
        assert stage.method.momentum == 0.999
        assert stage.method.initial.weight == 0.005
        assert (stage.steps, stage.optim.learning_rate, stage.optim.warmup_steps) == (
            40_000,
            6e-5,
            1500,
        )
        assert recipe.loading.rare_class_temperature == 0.01
        assert (recipe.loading.batch_size, recipe.loading.crop_px) == (2, (512, 512))
