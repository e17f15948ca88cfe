"""Copy the network that a run begins with into its folder, which then needs no other one.

Knows recipes and model folders, not how a network begins with another.
"""

from pathlib import Path

from cag_uda.errors import ModelError
from cag_uda.files import digest
from cag_uda.models.storage import WEIGHTS, copy_model, locate
from cag_uda.recipes import Recipe

FOLDER = "start"


def copy_start(recipe: Recipe, run: Path) -> Recipe:
    """Copy the network of `segmenter.start` into RUN/start; returns the recipe with the copy.

    Raises:
        ModelError: if it is missing or damaged.
        RunError: if the folder cannot be written.
    """
    start = recipe.segmenter.start
    if start is None:
        return recipe
    copy = run.resolve() / FOLDER / name_of(start)
    copy_model(locate(start), copy)
    return with_start(recipe, str(copy))


def with_start(recipe: Recipe, start: str) -> Recipe:
    """Return the recipe with another initial network."""
    return recipe.model_copy(
        update={"segmenter": recipe.segmenter.model_copy(update={"start": start})}
    )


def name_of(start: str) -> str:
    """Return the name of a model without its folders; for RUN/model, the name of the run."""
    parts = [part for part in Path(start).parts if part not in ("/", "..", ".")]
    is_inside = len(parts) > 1 and parts[-1] == "model"
    return (parts[-2] if is_inside else parts[-1]) if parts else "network"


def is_same_start(start: str, other: str) -> bool:
    """Tell whether two models have the same weights, wherever they lie."""
    if start == other:
        return True
    try:
        return digest(locate(start) / WEIGHTS) == digest(locate(other) / WEIGHTS)
    except (ModelError, OSError):
        return False
