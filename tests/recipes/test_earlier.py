"""Recipes of earlier versions: the released code's CAG as settings of one method, old pieces."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cag_uda.comparison.plan import base_of
from cag_uda.errors import RecipeError
from cag_uda.methods.base import MethodConfig
from cag_uda.methods.cag_released import CAGReleasedConfig
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.recipes import load_recipe
from cag_uda.recipes.schema import AnyMethod
from tests.support.trees import RECIPE, write_recipe

WHOLE = {
    "name": "cag",
    "labels": ["anchor"],
    "margin": {"kind": "absolute", "value": 2.5},
    "confidence": 0.95,
    "average": "pixel",
    "only_correct": False,
    "min_pixels": 1,
    "anchors": "refreshed",
    "anchor_momentum": 0.99,
    "distance": "pixel",
    "distance_weight": 0.7,
    "target_weight": 1.0,
}
"""As a run of an earlier version has it in its recipe.toml: every setting written out."""
RELEASED = {
    "labels": ["anchor", "confidence"],
    "average": "image",
    "only_correct": True,
    "min_pixels": 10,
    "max_count": 3000,
    "distance": "centroid",
}
PAPER_IN_RELEASED: dict[str, Any] = {
    "labels": ("anchor",),
    "average": "pixel",
    "only_correct": False,
    "min_pixels": 1,
    "max_count": 0,
    "distance": "pixel",
}


def read(table: dict[str, Any]) -> MethodConfig:
    adapter: TypeAdapter[MethodConfig] = TypeAdapter(AnyMethod)
    return adapter.validate_python(table)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, CAGConfig()),
        (RELEASED, CAGReleasedConfig()),
        ({"max_count": None}, CAGConfig()),
        ({"max_count": 9}, CAGReleasedConfig(**PAPER_IN_RELEASED | {"max_count": 9})),
        (
            {"distance": "centroid"},
            CAGReleasedConfig(**PAPER_IN_RELEASED | {"distance": "centroid"}),
        ),
    ],
)
def test_settings_of_a_variant_give_its_row(changes: dict[str, Any], wanted: MethodConfig) -> None:
    found = read(WHOLE | changes)
    assert found == wanted
    assert read(found.model_dump(mode="json", exclude_none=True)) == found
    assert found.family == "cag"


def test_what_an_earlier_recipe_leaves_out_is_the_papers() -> None:
    wanted = PAPER_IN_RELEASED | {"average": "image"}
    assert read({"name": "cag", "average": "image"}) == CAGReleasedConfig(**wanted)


def test_variants_by_name_keep_their_own_defaults() -> None:
    assert read({"name": "cag-released"}) == CAGReleasedConfig()
    assert read({"name": "cag-released", "anchors": "refreshed"}) == CAGReleasedConfig()


def test_anchors_that_outlive_their_labeller_are_refused() -> None:
    with pytest.raises(RecipeError, match='anchors = "fixed": taken out'):
        load_recipe("camvid-drives", ["stages.stage-1.method.anchors=fixed"])
    with pytest.raises(RecipeError, match="cag-moving: taken out"):
        load_recipe("camvid-drives", ["stages.stage-1.method.name=cag-moving"])


def test_a_released_recipe_is_compared_as_cag() -> None:
    assert base_of(load_recipe("gta5-cityscapes-released")) == "cag"


PLUS = {
    "name": "cag-plus",
    "adapted_weight": 0.0,
    "anchor_confidence": 0.9,
    "label_anchors": ["source", "target"],
    "anchor_weight": 0.0,
    "anchor_momentum": 0.99,
    "prior_strength": 0.0,
    "prior_momentum": 0.99,
    "contrast": {"weight": 0.0, "temperature": 0.1},
}
"""As a run of version 0.2 has it in its recipe.toml, as far as it differs."""


@pytest.mark.parametrize("name", ["cag-plus", "cag-plus-source-free"])
def test_pieces_that_were_taken_out_of_cag_plus_may_be_off(name: str) -> None:
    assert read(PLUS | {"name": name}) == read({"name": name})


@pytest.mark.parametrize("piece", ["adapted_weight", "answer", "anchors"])
def test_anchors_of_the_source_free_form_are_those_of_the_stage_before(piece: str) -> None:
    free = {"name": "cag-plus-source-free"}
    assert read(free | {piece: 0.0}) == read(free)
    with pytest.raises(ValueError, match=f"{piece}: taken out"):
        read(free | {piece: 0.5})


@pytest.mark.parametrize(
    ("on", "named"),
    [
        ({"adapted_weight": 0.5}, "adapted_weight"),
        ({"anchor_weight": 1.0}, "anchor_weight"),
        ({"prior_strength": 0.3}, "prior_strength"),
        ({"contrast": {"weight": 0.1}}, r"contrast\.weight"),
    ],
)
def test_a_piece_that_was_taken_out_is_refused_where_it_is_on(
    on: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=f"{named}: taken out"):
        read(PLUS | on)


def test_a_recipe_of_one_stage_with_such_a_piece_has_one_error(tmp_path: Path) -> None:
    """And none about the number of stages, of which no sound one is left."""
    first = "[[stages]]".join(RECIPE.split("[[stages]]")[:2])
    method = 'method = { name = "source-only" }'
    assert method in first
    wrong = first.replace(method, 'method = { name = "cag-plus", prior_strength = 0.3 }')
    with pytest.raises(RecipeError) as refused:
        load_recipe(write_recipe(tmp_path, wrong))
    (problem,) = refused.value.problems
    assert "prior_strength: taken out" in problem
