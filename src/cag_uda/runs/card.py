"""The card of the network that a run delivers: its domains, recipe and scores."""

from pathlib import Path

from cag_uda.files import write_text
from cag_uda.models.card import CARD, Training, model_card
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import INITIAL
from cag_uda.runs.own_files import name_of, source_words
from cag_uda.runs.records.run import Scores


def write_card(
    folder: Path, segmenter: Segmenter, recipe: Recipe, scores: Scores, delivered: Path
) -> None:
    """Write the card of a run's model folder, whose network was copied from `delivered`.

    Any network of the run will do as `segmenter`: all have its configuration and classes.
    """
    # A stage's last network lies in STAGE/model and was scored; one from the middle was not.
    is_last = delivered.name == "model"
    stage = delivered.parent if is_last else delivered.parents[1]
    of_stage = next((each for each in scores.stages if each.folder == stage.name), None)
    scored = of_stage if is_last else None
    network = f"the network of {of_stage.name if of_stage else recipe.stages[-1].name}"
    if of_stage is not None and of_stage.name == INITIAL:
        network = f"{of_stage.in_words}, as it was given"
    step = "" if is_last else f", after {delivered.name} steps"
    target, few = name_of(recipe.target.domain), recipe.target.labelled
    training = Training(
        recipe=recipe.name,
        description=recipe.description,
        source=source_words(recipe),
        target=f"{target}/{recipe.target.train}",
        stages=[each for each in scores.stages if each.name != INITIAL],
        delivered=f"{network}{step}",
        reads_target_labels=recipe.target.domain in [entry.domain for entry in recipe.source],
        few_labels=None if few is None else f"{name_of(recipe.target.labelled_domain)}/{few.split}",
        scored_on=f"{name_of(recipe.target.scored_domain)}/{recipe.target.test}"
        if scores.target
        else None,
        miou=scored.miou if scored else None,
        iou=scored.iou if scored else None,
    )
    write_text(folder / CARD, model_card(segmenter.config, segmenter.classes, training))
