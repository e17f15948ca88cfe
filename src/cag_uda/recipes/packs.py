"""The form of the network, which a recipe that adapts from a pack leaves to the pack."""

from pathlib import Path

from pydantic import ValidationError

from cag_uda.data.domains.schema_errors import problems_of
from cag_uda.errors import RecipeError
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.pack import read_pack_header
from cag_uda.recipes.schema import Recipe

_NOT_OF_A_PACK = {"weights", "start", "images", "tuning", "lora_rank"}
"""Settings that are no form of the network: its start, its reading of photographs, its tuning."""


def completed(recipe: Recipe) -> Recipe:
    """Take from the pack what the recipe does not say of the network, and the width of images.

    Args:
        recipe: with the path of its pack, if it has one; where that is no file, nothing is taken.

    Raises:
        ModelError: if the file is no pack.
        RecipeError: if the rest of the recipe does not suit the pack's network.
    """
    if recipe.pack is None or not Path(recipe.pack).is_file():
        return recipe
    theirs = read_pack_header(Path(recipe.pack)).config
    given, loading = recipe.segmenter.model_fields_set, recipe.loading
    wanted = set(SegmenterConfig.model_fields) - given - _NOT_OF_A_PACK
    segmenter = recipe.segmenter.model_copy(update={each: getattr(theirs, each) for each in wanted})
    if "width_px" not in loading.model_fields_set:
        loading = loading.model_copy(update={"width_px": theirs.input_width_px})
    made = recipe.model_copy(update={"segmenter": segmenter, "loading": loading})
    try:
        return Recipe.model_validate(made.model_dump())
    except ValidationError as error:
        raise RecipeError(problems_of(error, Recipe)) from error
