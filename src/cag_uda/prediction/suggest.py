"""Suggest which images of a run's target to label next, and write proposals to be corrected.

The run's network sees source and target once each, to adapt category anchors and to find the
centroids of known features; then the target's images are measured, and some are chosen. Of the
target's labels only those are read that the run was trained on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cag_uda.adaptation.adapted_anchors import AdaptedAnchors, FeatureSample, SourceFeatures
from cag_uda.adaptation.centroids import Centroids
from cag_uda.adaptation.teaching import (
    MEASURES,
    Teaching,
    balanced_mean,
    by_class,
    class_weights,
    measure,
)
from cag_uda.data.domains.domain import Item
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages
from cag_uda.errors import DataError, UserError
from cag_uda.files import write_json
from cag_uda.methods.adapted_labels import features_and_logits
from cag_uda.methods.base import predict
from cag_uda.models.segmenter import Segmenter
from cag_uda.prediction.choosing import DIVERSITY, RANDOM, Candidates, Chosen, choose, ranks
from cag_uda.prediction.jobs import refuse_existing
from cag_uda.prediction.labeller import (
    labelled_images,
    read_recipe_of,
    sweep_labelled,
    sweep_unlabelled,
)
from cag_uda.prediction.opening import as_learned, computing_in, open_model
from cag_uda.prediction.proposals import write_proposals
from cag_uda.prediction.shapes import WRITABLE
from cag_uda.prediction.stream import batches_of_one_size, read_frames
from cag_uda.recipes import Recipe
from cag_uda.runs.progress import Progress, Silent
from cag_uda.runs.records.suggestions import SUGGESTIONS, Suggestion, Suggestions
from cag_uda.runs.scenario import labelled_target
from cag_uda.types import DomainName, Prediction

CRITERIA = (*MEASURES, DIVERSITY, RANDOM)
DEFAULT_CRITERIA = ("disagreement", DIVERSITY)
_SURE = 0.9
"""p(c | f) from which a pixel of the target counts as one of class c."""
_NAMED_CLASSES = 3


@dataclass(frozen=True)
class Asked:
    """Settings of suggestions."""

    images: int = 20
    criteria: tuple[str, ...] = DEFAULT_CRITERIA
    forms: tuple[str, ...] = ("cvat",)
    """Annotation formats, of `shapes.WRITABLE`, for the proposals."""
    seed: int = 0
    overwrite: bool = False
    data_root: Path | None = None
    accelerator: str = "auto"
    precision: str = "32"

    def __post_init__(self) -> None:
        problems = []
        unknown = sorted(set(self.criteria) - set(CRITERIA))
        if unknown or not self.criteria:
            named = ", ".join(unknown) or "none"
            problems.append(f"--criteria is of {', '.join(CRITERIA)}, got {named}")
        if wrong := [name for name in self.forms if name not in WRITABLE]:
            problems.append(f"--as is of {', '.join(WRITABLE)}, got {', '.join(wrong)}")
        if self.images < 1:
            problems.append(f"--images is at least 1, got {self.images}")
        if problems:
            raise UserError(problems)


def suggest(
    run: str, out: Path, asked: Asked | None = None, progress: Progress | None = None
) -> Suggestions:
    """Write which images of a run's target to label, with proposals to be corrected.

    OUT/suggestions.json holds the list, OUT/images copies of the images, OUT/labels the network's
    labels as PNGs of train ids, OUT/FORM the same as shapes, and OUT/pictures what a page shows.

    Args:
        run: a finished run's folder.
        out: a new or empty folder, unless files may be replaced.
        asked: settings; None: the defaults.
        progress: told how far the work is.

    Returns:
        Content of OUT/suggestions.json.

    Raises:
        UserError: for a run, data or folder that cannot be used.
    """
    asked, progress = asked or Asked(), progress or Silent()
    recipe = read_recipe_of(run)
    if recipe is None:
        raise UserError(
            f"{run} is no run folder: there is no recipe.toml in it, which names source and "
            "target; give the folder that `cag-uda adapt` wrote"
        )
    refuse_existing(out, asked.overwrite)
    if asked.data_root is not None:
        recipe = recipe.model_copy(update={"data_root": str(asked.data_root)})
    segmenter = open_model(run, asked.accelerator).eval()
    with computing_in(asked.precision, segmenter):
        return Suggester(recipe, run, segmenter, asked, progress).write(out)


class _Measured(NamedTuple):
    """Measurements of one image."""

    item: Item
    values: dict[str, float]
    looks: NDArray[np.float64]
    """(D,) mean feature, in standard deviations within a class."""
    classes: NDArray[np.float64]
    """(K,) share of each predicted class in the image's measures."""


@dataclass
class Suggester:
    """Chooses the images to label next by a run's network, and writes them."""

    recipe: Recipe
    run: str
    segmenter: Segmenter
    asked: Asked
    progress: Progress
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        target = self.recipe.target
        opened = self.recipe.open_domain(target.domain)
        self.domain = as_learned(opened, self.segmenter, self.run)
        self.images = UnlabelledImages(self.domain, target.train)
        self.labelled = labelled_target(self.recipe)
        known = {path.resolve() for path in self.labelled.paths()} if self.labelled else set()
        items = self.domain.items(target.train, with_labels=False)
        self.done = [item for item in items if item.image.resolve() in known]
        self.items = [item for item in items if item.image.resolve() not in known]
        if not self.items:
            raise UserError(
                f"all {len(items)} images of {self.domain.name}/{target.train} have labels already"
            )
        self.sources = labelled_images(self.recipe, self.segmenter, self.run)

    def write(self, out: Path) -> Suggestions:
        """Choose, and write everything."""
        anchors, known = self.learn()
        look = partial(measure, anchors=anchors, known=known)
        weight = class_weights(anchors.share)
        found = list(self.measured(self.items, look, weight))
        if not found:
            raise DataError([*self.broken, "no image of the target could be read"])
        done = list(self.measured(self.done, look, weight))
        values = {
            name: np.array([each.values[name] for each in found])
            for name in self.asked.criteria
            if name in MEASURES
        }
        chosen = choose(
            Candidates(
                [each.item.key for each in found], values, np.array([each.looks for each in found])
            ),
            self.asked.images,
            self.asked.criteria,
            np.array([each.looks for each in done]).reshape(-1, self.segmenter.feature_channels),
            [each.item.key for each in done],
            self.asked.seed,
        )
        pictures = write_proposals(
            out,
            self.segmenter,
            self.domain,
            [found[each.number].item for each in chosen],
            self.asked.forms,
            lambda image: _mean_measure(look(predict(self.segmenter, image, "target")), values),
        )
        by_rank = {name: ranks(each) for name, each in values.items()}
        images = [
            self._suggestion(found, each, {name: by_rank[name][each.number] for name in values})
            for each in chosen
        ]
        written = Suggestions(
            run=self.run,
            recipe=self.recipe.name,
            domain=self.domain.name,
            split=self.recipe.target.train,
            candidates=len(found),
            labelled=len(done),
            criteria=list(self.asked.criteria),
            seed=self.asked.seed,
            forms=list(self.asked.forms),
            classes=list(self.segmenter.classes.names),
            palette=list(self.segmenter.classes.palette),
            images=[each.with_changes(pictures=pictures[each.key]) for each in images],
            left_out=self.broken,
        )
        write_json(out / SUGGESTIONS, written.plain())
        return written

    def learn(self) -> tuple[AdaptedAnchors, Centroids]:
        """Sweep both domains; returns anchors adapted to the target, and the known centroids."""
        network, device = self.segmenter, self.segmenter.mean.device
        width_px = network.config.input_width_px
        loading = self.recipe.loading.model_copy(update={"width_px": width_px})
        source = SourceFeatures(network.num_classes, network.feature_channels, device)
        for seen, label in self.predicted("source", self.sources, loading):
            source.update(seen, label)
        anchors = AdaptedAnchors(network.num_classes, network.feature_channels).to(device)
        anchors.fit(source, lambda tensor: tensor)
        target, labelled = FeatureSample(), FeatureSample()
        watch = partial(self.progress.update, "target")
        for batch in sweep_unlabelled(self.images, loading, device, watch):
            target.update(features_and_logits(predict(network, batch.plain, "target")))
        few = [] if self.labelled is None else [self.labelled]
        for seen, label in self.predicted("target", few, loading):
            labelled.update(seen, label)
        anchors.adapt(target, lambda tensor: tensor, labelled=labelled)

        spread, classes = anchors.spread, network.num_classes
        rows, label = source.sample.rows(len(spread), anchors.source)
        known = Centroids.of(rows, label, spread)
        rows = target.rows(len(spread) + classes, anchors.source)[0][:, : len(spread)]
        scores = anchors.log_likelihood(rows.t()[None, :, :, None])[0, :, :, 0].t()
        sure, label = (scores + anchors.share.clamp(min=1e-6).log()).softmax(dim=1).max(dim=1)
        known = known.joined(Centroids.of(rows[sure > _SURE], label[sure > _SURE], spread))
        rows, label = labelled.rows(len(spread), anchors.source)
        return anchors, known.joined(Centroids.of(rows, label.to(rows.device), spread))

    def predicted(
        self, domain: DomainName, images: Sequence[LabelledImages], loading: LoadingConfig
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features (B, D, h, w) of labelled images, and their labels (B, h, w)."""
        watch = partial(self.progress.update, f"labelled {domain}")
        for batch in sweep_labelled(images, loading, self.segmenter.mean.device, watch):
            prediction = predict(self.segmenter, batch.image, domain)
            yield prediction.features, self.segmenter.on_grid(batch.label, prediction.logits)

    def measured(
        self, items: Sequence[Item], look: Callable[[Prediction], Teaching], weight: Tensor
    ) -> Iterator[_Measured]:
        """Measure images; those that cannot be read are noted and left out."""
        frames = read_frames(
            items,
            self.domain.read_image,
            self.segmenter.config.input_width_px,
            lambda item, error: self.broken.append(str(error)),
        )
        done = 0
        for batch in batches_of_one_size(frames):
            image = torch.cat([frame.prepared for frame in batch]).to(weight.device)
            seen = look(predict(self.segmenter, image, "target"))
            means = {
                name: balanced_mean(each, seen.label, weight)
                for name, each in seen.measures.items()
            }
            wanted = [name for name in self.asked.criteria if name in MEASURES] or MEASURES
            mean = torch.stack([seen.measures[name] / means[name].mean() for name in wanted])
            classes = by_class(mean.mean(dim=0), seen.label, weight)
            for index, frame in enumerate(batch):
                yield _Measured(
                    frame.origin,
                    {name: float(each[index]) for name, each in means.items()},
                    seen.looks[index].double().cpu().numpy(),
                    classes[index].double().cpu().numpy(),
                )
            done += len(batch)
            self.progress.update("measuring", done, len(items))

    def _suggestion(
        self, found: Sequence[_Measured], chosen: Chosen, by_rank: Mapping[str, float]
    ) -> Suggestion:
        image = found[chosen.number]
        foremost = np.argsort(-image.classes)[:_NAMED_CLASSES]
        names = [self.segmenter.classes.names[index] for index in foremost if image.classes[index]]
        return Suggestion(
            key=image.item.key,
            image=str(image.item.image),
            merit=chosen.merit,
            ranks={name: float(rank) for name, rank in by_rank.items()},
            values={name: image.values[name] for name in by_rank},
            classes=names if by_rank else [],
            apart=chosen.apart,
            nearest=None if chosen.nearest is None else found[chosen.nearest].item.key,
        )


def _mean_measure(seen: Teaching, values: Mapping[str, NDArray[np.float64]]) -> Tensor:
    """Compute the mean of the chosen measures of each pixel, (B, h, w); 1 is usual."""
    typical = {name: float(np.median(each)) or 1.0 for name, each in values.items()}
    parts = [seen.measures[name] / typical[name] for name in typical]
    return torch.stack(parts).mean(dim=0) if parts else torch.zeros(seen.label.shape)
