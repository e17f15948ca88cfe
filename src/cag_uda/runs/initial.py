"""The network with which a run begins."""

import torch

from cag_uda.data.files.images import DEFAULT
from cag_uda.models.recomputing import check_names
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.start import begin_with, start_from
from cag_uda.models.tuning import check_tuning
from cag_uda.recipes import Recipe
from cag_uda.runs.scenario import Scenario


def has_learnt(recipe: Recipe) -> bool:
    """Tell whether a run begins with published weights or a trained network, not random ones."""
    given = (recipe.pack, recipe.segmenter.start, recipe.segmenter.weights)
    return any(each is not None for each in given)


def initial_segmenter(recipe: Recipe, scenario: Scenario) -> Segmenter:
    """Make the network before any stage: a function of the recipe and its seed alone.

    Raises ModelError if it cannot be had, or cannot be tuned as the recipe says.
    """
    config = recipe.segmenter.model_copy(update={"start": None})
    if config.input_width_px is None:
        config = config.model_copy(update={"input_width_px": recipe.loading.width_px})
    if config.images is None and scenario.target.reader != DEFAULT:
        config = config.model_copy(update={"images": scenario.target.reader})
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        segmenter = Segmenter(config, scenario.classes)
    if scenario.pack is not None:
        begin_with(segmenter, scenario.pack.segmenter(), "pack: its network")
    if recipe.segmenter.start is not None:
        start_from(segmenter, recipe.segmenter.start)
    check_tuning(segmenter.config, segmenter.backbone)
    check_names(segmenter, recipe.compute.checkpointing)
    return segmenter
