"""A model's card: the README.md beside its weights, with the front matter that the hub reads.

Knows classes and what it is told of the training; reads no run and no data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCardData

from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.runs.records.run import INITIAL, StageScores

CARD = "README.md"
PLACEHOLDER = "owner/name"
"""Stands for the model's name on the hub, until it has one."""


@dataclass(frozen=True)
class Training:
    """Facts of a run about the network that it delivers."""

    recipe: str
    description: str
    source: str
    """DOMAIN/SPLIT, joined by + where there are several."""
    target: str
    """DOMAIN/SPLIT whose images were adapted to."""
    stages: Sequence[StageScores]
    delivered: str
    """Description of the run's network that this is."""
    reads_target_labels: bool
    """True if the source holds the target's domain, as an oracle's does."""
    few_labels: str | None = None
    """DOMAIN/SPLIT of the few images of the target that were trained on with labels, if any."""
    scored_on: str | None = None
    """DOMAIN/SPLIT; None where the target has no labels."""
    miou: float | None = None
    """mIoU in [0, 1] of the delivered network."""
    iou: Sequence[float | None] | None = None
    """IoU (K,) in [0, 1] of the delivered network; None for a class without pixels."""


def model_card(config: SegmenterConfig, classes: Classes, training: Training | None = None) -> str:
    """Write a card in Markdown, of what is known of the training; None: nothing."""
    parts = [
        f"---\n{_front_matter(training)}\n---",
        _introduction(training),
        _use(config),
        _classes(classes, training),
        *([] if training is None else [_training(training)]),
        _limits(training),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(training: Training | None) -> str:
    results = None
    if training is not None and training.miou is not None and training.scored_on is not None:
        results = [
            EvalResult(
                task_type="image-segmentation",
                dataset_type=training.scored_on.partition("/")[0],
                dataset_name=training.scored_on,
                metric_type="mean_iou",
                metric_value=round(training.miou, 4),
            )
        ]
    tags = ["semantic-segmentation", "domain-adaptation", "unsupervised-domain-adaptation"]
    data = ModelCardData(
        library_name="cag-uda",
        pipeline_tag="image-segmentation",
        tags=[*tags, "cag-uda"],
        model_name="segmenter" if training is None else training.recipe,
        eval_results=results,
    )
    return data.to_yaml()


def _introduction(training: Training | None) -> str:
    if training is None:
        return (
            "# A semantic segmentation network\n"
            "Written by cag-uda, outside of a run: nothing is known here of how it was trained."
        )
    labels = (
        "Labels of the target's domain were among its training data: it is an oracle, a yardstick "
        "for adaptation."
        if training.reads_target_labels
        else "No label of the target was read in training, nor to choose this network."
    )
    if training.few_labels is not None:
        labels = (
            f"Labels of a few images of the target, **{training.few_labels}**, were trained on too."
        )
    description = f"{training.description}\n\n" if training.description else ""
    return (
        f"# {training.recipe}\n{description}"
        f"A semantic segmentation network for images like those of **{training.target}**, learned "
        f"from the labels of **{training.source}**. {labels}"
    )


def _use(config: SegmenterConfig) -> str:
    width = "" if config.input_width_px is None else f", resized to {config.input_width_px} px wide"
    return (
        "## Use\n```python\nimport cag_uda\n\n"
        f'labels = cag_uda.load("{PLACEHOLDER}").predict("photo.jpg")  # (H, W) uint8 train ids\n'
        f"```\nor `cag-uda predict {PLACEHOLDER} photos --out predictions`; `cag-uda export` makes "
        f"an ONNX file of it. It takes RGB images of any size{width}; the network normalises them "
        f"itself.\n\nBackbone {config.backbone}, decoder {config.decoder}."
    )


def _classes(classes: Classes, training: Training | None) -> str:
    """Make one row a class: train id, name, colour, label id, and IoU where it was scored."""
    columns: dict[str, Sequence[str]] = {
        "train id": [str(index) for index in range(len(classes.names))],
        "class": classes.names,
        "colour": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in classes.palette],
    }
    if classes.label_ids is not None:
        columns["label id"] = [str(each) for each in classes.label_ids]
    if training is not None and training.iou is not None:
        columns[f"IoU on {training.scored_on}"] = [_per_cent(each) for each in training.iou]
    rows = list(zip(*columns.values(), strict=True))
    return "## Classes\n" + _table(list(columns), rows)


def _training(training: Training) -> str:
    rows = [
        (each.name, each.method, each.start or INITIAL, str(each.steps or 0), _per_cent(each.miou))
        for each in training.stages
    ]
    scored = (
        f"Scores are mIoU in per cent on {training.scored_on}, whose labels served for nothing else"
        if training.scored_on is not None
        else "The target has no labels, so nothing was scored"
    )
    return (
        f"## Training\nRecipe `{training.recipe}`; delivered is {training.delivered}. {scored}.\n\n"
        + _table(["stage", "method", "from", "steps", "mIoU"], rows)
    )


def _limits(training: Training | None) -> str:
    target = "the images that it was adapted to"
    source = "its source"
    if training is not None:
        target, source = f"those of {training.target}", training.source
    return (
        "## Intended use and limits\n"
        f"- Meant for images like {target}: the same kind of camera, place, light and weather. On "
        "others it may be worse than a network that was never adapted; score it on labelled images "
        "of your own before you rely on it.\n"
        f"- It knows the classes above and no others: everything is given one of them, also what "
        f"{source} never showed.\n"
        "- Adaptation by pseudo-labels can lose rare and small classes while the mean rises; look "
        "at the IoU of each class that matters to you.\n"
        "- Not fit, by itself, for decisions about people's safety.\n"
        "- The licences of the data and of the initial weights that it was trained from bind its "
        "use; this card does not know them."
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _per_cent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
