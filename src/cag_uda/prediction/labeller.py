"""Anchors and margin for a finished network, and the two kinds of pseudo-label that it gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from pydantic import ValidationError
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.data.domains.schema_errors import problems_of
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages
from cag_uda.data.loading.sampler import Shard
from cag_uda.data.loading.sweeps import sweep_source, sweep_target
from cag_uda.errors import DataError, ModelError, UserError
from cag_uda.methods import METHODS
from cag_uda.methods.base import Passes, predict
from cag_uda.methods.cag import CAG, AnchorLabels
from cag_uda.methods.cag_settings import CAGConfig, CAGSettings
from cag_uda.methods.label_kinds import LabelKind
from cag_uda.methods.labeller import LabellerPasses
from cag_uda.methods.margin_fitting import MarginConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.prediction.opening import as_learned
from cag_uda.recipes import Recipe, load_recipe
from cag_uda.runs.anchor_files import ANCHORS, load_anchors, save_anchors
from cag_uda.runs.scenario import held_out, open_sources
from cag_uda.types import Labelled, PseudoLabels, Unlabelled

_CHUNK = 8
_RECIPE = "recipe.toml"
_STAGES = "stages"

Watch = Callable[[str, int, int], None]
"""Function that takes the purpose of a sweep, the number of images seen, and that of all."""


class Given(NamedTuple):
    """One kind of pseudo-label for a batch."""

    trusted: PseudoLabels
    """Labels of the pixels at which the network is sure enough."""
    all: PseudoLabels
    """Labels of all pixels, without a threshold."""


@dataclass(frozen=True)
class Source:
    """Images that anchors are made of, and margins calibrated on."""

    images: Sequence[LabelledImages]
    held_out: LabelledImages | None = None
    """Images for calibration that no anchor is made of; None: each half of `images` is labelled by
    the anchors of the other half."""


@dataclass(frozen=True, eq=False)
class Labeller:
    """A network with its kinds of pseudo-label."""

    network: Segmenter
    kinds: Mapping[str, LabelKind]
    """"anchor" and "confidence", prepared."""
    anchors: CategoryAnchors
    anchors_from: str
    """Origin of the anchors, in words."""

    def label(self, image: Tensor) -> dict[str, Given]:
        """Label images of the target on the feature grid, by each kind.

        They are (B, 3, H, W) uint8, at the width that the network was trained at.
        """
        seen = predict(self.network, image.to(self.network.mean.device), "target")
        return {
            name: Given(kind.labels(seen), kind.labels_everywhere(seen))
            for name, kind in self.kinds.items()
        }


def read_recipe_of(model: str) -> Recipe | None:
    """Read the resolved recipe of the run that a model is, or lies in; None where there is none.

    Raises RecipeError if it is damaged.
    """
    path = Path(model)
    # RUN, RUN/model, RUN/stages/N-NAME, RUN/stages/N-NAME/model.
    of_stage = path.parents[1:2] if path.parent.name == _STAGES else path.parents[2:3]
    for folder in (path, path.parent, *of_stage):
        if (folder / _RECIPE).is_file():
            return load_recipe(folder / _RECIPE)
    return None


def labelling_config(
    recipe: Recipe | None, margin: str | None, confidence: float | None
) -> CAGSettings:
    """Take the settings of labelling from a run's last stage with anchors, with changes.

    Args:
        recipe: of the run.
        margin: KIND:VALUE, as in a recipe's `margin`; None: the run's, or else the clearer half of
            each class, since a margin in feature units means nothing on another network.
        confidence: least probability of a label by confidence; None: the run's, or else 0.95.

    Raises:
        UserError: for a margin or a confidence out of range.
    """
    stages = () if recipe is None else recipe.stages
    methods = [stage.method for stage in stages if isinstance(stage.method, CAGSettings)]
    config: CAGSettings = CAGConfig(margin=MarginConfig(kind="clearest", value=0.5))
    config = methods[-1] if methods else config
    changes: dict[str, object] = {}
    if margin is not None:
        kind, _, value = margin.partition(":")
        changes["margin"] = {"kind": kind.strip(), "value": value.strip()}
    if confidence is not None:
        changes["confidence"] = confidence
    try:
        return type(config).model_validate(config.model_dump() | changes)
    except ValidationError as error:
        raise UserError(
            [
                *problems_of(error, type(config)),
                "--margin is KIND:VALUE, such as relative:0.1 or clearest:0.5; --confidence is a "
                "probability",
            ]
        ) from error


def make_labeller(
    segmenter: Segmenter,
    model: str,
    config: CAGSettings,
    target: UnlabelledImages,
    source: Source | None,
    watch: Watch,
) -> Labeller:
    """Make anchors of the source, or load the model's own; fit the margin to the target.

    Raises UserError if there is neither a source nor anchors, or the margin wants a source.
    """
    device = segmenter.mean.device
    loading = LoadingConfig(width_px=segmenter.config.input_width_px)
    unseen = None if source is None else source.held_out

    def labelled(what: str, images: Sequence[LabelledImages]) -> Iterator[Labelled]:
        return sweep_labelled(images, loading, device, partial(watch, what))

    passes = Passes(
        source=lambda: labelled("anchors", () if source is None else source.images),
        target=lambda: sweep_unlabelled(target, loading, device, partial(watch, "margin")),
        all_reduce=lambda tensor: tensor,
        held_out=lambda: labelled("margin", [unseen]) if unseen is not None else None,
    )
    segmenter.eval()
    kinds = cast(type[CAG], METHODS[config.name]).label_kinds(segmenter, config)
    kinds = {name: kinds[name].to(device) for name in ("anchor", "confidence")}
    anchor = cast(AnchorLabels, kinds["anchor"])
    seen = LabellerPasses(segmenter, partial(predict, segmenter), passes)
    if source is not None:
        for kind in kinds.values():
            kind.prepare(seen)
        return Labeller(segmenter, kinds, anchor.anchors, "made of the source")
    path = anchors_of(model)
    if path is None:
        raise UserError(
            f"{model} has no anchors: there is no {ANCHORS} beside its weights, and it is of no "
            "run here; give --source DOMAIN, the labelled domain to make them of"
        )
    if config.margin.is_of_source:
        raise UserError(
            f"the {config.margin.kind} margin is fitted to the labelled source: give --source "
            "DOMAIN, or another --margin, such as clearest:0.5"
        )
    _take_anchors(anchor.anchors, path)
    anchor.fit(seen)
    return Labeller(segmenter, kinds, anchor.anchors, str(path))


def anchors_of(model: str) -> Path | None:
    """Return the anchors beside a network's weights, or None."""
    for folder in (Path(model), Path(model) / "model"):
        if (folder / ANCHORS).is_file():
            return folder / ANCHORS
    return None


def keep_anchors(labeller: Labeller, model: str) -> Path:
    """Save a labeller's anchors beside the network's weights; returns the file."""
    folder = Path(model)
    folder = folder / "model" if (folder / _RECIPE).is_file() else folder
    save_anchors(folder / ANCHORS, labeller.anchors)
    return folder / ANCHORS


def source_of(
    recipe: Recipe, config: CAGSettings, segmenter: Segmenter, model: str, data_root: Path | None
) -> Source:
    """Open the labelled images that a run learned from, and those for calibrating margins.

    Raises UserError if they are not there (any more).
    """
    if data_root is not None:
        recipe = recipe.model_copy(update={"data_root": str(data_root)})
    try:
        images = labelled_images(recipe, segmenter, model)
        return Source(images, held_out(recipe) if config.margin.kind == "calibrated" else None)
    except DataError as error:
        advice = (
            "anchors are made of the run's source: give it by --data-root, or give --source or, "
            "where there are anchors beside the weights, a --margin like clearest:0.5"
        )
        raise UserError([*error.problems, advice]) from error


def labelled_images(recipe: Recipe, segmenter: Segmenter, model: str) -> list[LabelledImages]:
    """Open the labelled images that a run learned from, with the classes of its network.

    Raises UserError if they are not there (any more).
    """
    if recipe.pack is not None:
        raise UserError(
            f"{model} was adapted from the pack {recipe.pack}: its source, of which anchors are "
            "made, is not here; go on where its images are, or with that pack"
        )
    opened = (as_learned(each, segmenter, model) for each in open_sources(recipe))
    return [
        LabelledImages(domain, entry.split, entry.size_px)
        for entry, domain in zip(recipe.source, opened, strict=True)
    ]


def _take_anchors(ours: CategoryAnchors, path: Path) -> None:
    """Copy the anchors of a file into those of the network. Raises ModelError if they misfit."""
    theirs = load_anchors(path)
    if theirs.sums.shape != ours.sums.shape:
        raise ModelError(
            f"{path} has anchors {tuple(theirs.sums.shape)}, and the network wants "
            f"{tuple(ours.sums.shape)} (classes, feature channels): they are of another network; "
            "give --source DOMAIN"
        )
    ours.sums.copy_(theirs.sums)
    ours.counts.copy_(theirs.counts)


def sweep_labelled(
    images: Sequence[LabelledImages],
    loading: LoadingConfig,
    device: torch.device,
    watch: Callable[[int, int], object],
) -> Iterator[Labelled]:
    """Read all labelled images once, batch by batch; `watch` is told how many of how many."""
    done, total = 0, sum(map(len, images))
    for each in images:
        for batch in sweep_source(each, loading, _CHUNK, Shard(), device):
            done += len(batch.image)
            watch(done, total)
            yield batch


def sweep_unlabelled(
    images: UnlabelledImages,
    loading: LoadingConfig,
    device: torch.device,
    watch: Callable[[int, int], object],
) -> Iterator[Unlabelled]:
    """Read all images of the target once, as `sweep_labelled` does."""
    done = 0
    for batch in sweep_target(images, loading, _CHUNK, Shard(), device):
        done += len(batch.plain)
        watch(done, len(images))
        yield batch
