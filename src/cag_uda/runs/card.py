"""The card of the network that a run delivers: its domains, recipe and scores."""

from pathlib import Path

from cag_uda.files import write_text
from cag_uda.models.card import CARD, StageFacts, Training, model_card
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import INITIAL
from cag_uda.runs.own_domains import name_of, source_words
from cag_uda.runs.records.run import Scores, StageScores


def write_card(
    folder: Path, segmenter: Segmenter, recipe: Recipe, scores: Scores, delivered: Path
) -> None:
    """Write the card of a run's model folder.

    Args:
        folder: RUN/model.
        segmenter: any network of the run: all have its configuration and classes.
        recipe: of the run.
        scores: what RUN/scores.json holds.
        delivered: the model folder that the network was copied from.

    Raises:
        RunError: if it cannot be written.
    """
    # A stage's last network lies in STAGE/model and was scored; one from the middle was not.
    is_last = delivered.name == "model"
    folder_name = _stage_folder(delivered)
    of_stage = next((each for each in scores.stages if each.folder == folder_name), None)
    scored = of_stage if is_last else None
    step = "" if is_last else f", after {delivered.name} steps"
    target, few = name_of(recipe.target.domain), recipe.target.labelled
    training = Training(
        recipe=recipe.name,
        description=recipe.description,
        source=source_words(recipe),
        target=f"{target}/{recipe.target.train}",
        stages=[
            StageFacts(each.name, each.method, each.start or INITIAL, each.steps or 0, each.miou)
            for each in scores.stages
            if each.name != INITIAL
        ],
        delivered=_delivered_words(of_stage, recipe) + step,
        reads_target_labels=recipe.target.domain in [entry.domain for entry in recipe.source],
        few_labels=None if few is None else f"{name_of(recipe.target.labelled_domain)}/{few.split}",
        scored_on=f"{name_of(recipe.target.scored_domain)}/{recipe.target.test}"
        if scores.target
        else None,
        miou=scored.miou if scored else None,
        iou=scored.iou if scored else None,
    )
    write_text(folder / CARD, model_card(segmenter.config, segmenter.classes, training))


def _delivered_words(stage: StageScores | None, recipe: Recipe) -> str:
    if stage is not None and stage.name == INITIAL:
        return f"{stage.in_words}, as it was given"
    return f"the network of {stage.name if stage else recipe.stages[-1].name}"


def _stage_folder(model: Path) -> str:
    """Name of the folder of the stage that a model folder lies in."""
    return (model.parent if model.name == "model" else model.parents[1]).name
