"""The paper's research questions, measured on single networks of an ablation.

RQ1, whether the classes lie further apart and the domains nearer: `STAGE/separation.json`.
RQ2, how precise both kinds of pseudo-label are at every coverage: `STAGE/label_curves.json`.
RQ3, what each stage's labels get wrong and its network scores: both are in the run already.

All of it reads labels of the target's test split, after training, for the report alone.
"""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.adaptation.margins import relative_gap, two_nearest
from cag_uda.data.files.resizing import Image
from cag_uda.evaluation.class_separation import ClassScatter, centroid_shift, separation
from cag_uda.evaluation.precision_curves import PrecisionCurves, precision_at
from cag_uda.evaluation.scores import or_nones
from cag_uda.models.inference import inference, prepare
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe, load_recipe
from cag_uda.runs.anchor_files import ANCHORS, load_anchors
from cag_uda.runs.pictures import evenly
from cag_uda.runs.progress import Progress
from cag_uda.runs.records.base import plain, write_record
from cag_uda.runs.records.comparison import LabelError, SeparationAnswer, StageAnswers
from cag_uda.runs.records.run import read_scores
from cag_uda.runs.records.stage import (
    LABEL_CURVES,
    SEPARATION,
    Separation,
    StageCurves,
    read_curves,
    read_pseudo_labels,
    read_separation,
)
from cag_uda.runs.scenario import Scenario
from cag_uda.types import DomainName

COVERAGES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Shares of the target's pixels at which the kinds of pseudo-label are compared."""
_IMAGES = 100
"""Most images of each domain that are read."""
_GAPS = torch.linspace(0, 1, 129)[:-1] ** 2
_PROBABILITIES = torch.linspace(-4, 16, 81).sigmoid()
"""Thresholds of the curves: gaps are told apart from 6e-5 on, probabilities up to 1 − 1e-7."""


class Questions:
    """Measures networks of runs on the domains of a recipe, any run's."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self._recipe, self._progress = recipe, progress
        self._scenario = Scenario.open(recipe, progress.note)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def measure(self, run: Path) -> None:
        """Measure every finished stage of a run that has not been measured yet."""
        folders = {path.name.partition("-")[2]: path for path in (run / "stages").iterdir()}
        recipe = load_recipe(run / "recipe.toml")
        for index, stage in enumerate(recipe.stages):
            folder = folders.get(stage.name)
            if folder is None or not (folder / "model" / "config.json").is_file():
                continue
            label = f"measuring {run.name}, {stage.name}"
            if not (folder / SEPARATION).exists():
                segmenter = self._load(folder)
                write_record(folder / SEPARATION, self._separation(segmenter, label))
            start = folders.get(recipe.start_of(index))
            if (folder / ANCHORS).exists() and start and not (folder / LABEL_CURVES).exists():
                anchors = load_anchors(folder / ANCHORS).to(self._device)
                write_record(folder / LABEL_CURVES, self._curves(self._load(start), anchors, label))

    def _load(self, stage_folder: Path) -> Segmenter:
        return Segmenter.from_pretrained(stage_folder / "model").to(self._device)

    def _separation(self, segmenter: Segmenter, label: str) -> Separation:
        """Measure RQ1 of one network."""
        width_px = segmenter.config.input_width_px

        def scatter_of(domain: DomainName, pairs: Iterator[tuple[Tensor, Tensor]]) -> ClassScatter:
            scatter = ClassScatter(segmenter.num_classes, segmenter.feature_channels)
            with inference(segmenter):
                for image, truth in pairs:
                    features = segmenter(image, domain).features
                    scatter.update(features, segmenter.on_grid(truth.long(), features))
            return scatter

        source = scatter_of("source", self._of_source(width_px))
        target = scatter_of("target", self._of_target(label, width_px))
        shift = or_nones(centroid_shift(source, target))
        defined = [value for value in shift if value is not None]
        return Separation(
            source=separation(source),
            target=separation(target),
            centroid_shift=statistics.mean(defined) if defined else None,
            centroid_shift_per_class=shift,
        )

    def _curves(self, labeller: Segmenter, anchors: CategoryAnchors, label: str) -> StageCurves:
        """Measure RQ2 of a labeller and its anchors, over all of the target's test split."""
        classes = labeller.num_classes
        kinds = {
            "anchor": PrecisionCurves(classes, _GAPS),
            "confidence": PrecisionCurves(classes, _PROBABILITIES),
        }
        with inference(labeller):
            for image, truth in self._of_target(label, labeller.config.input_width_px, most=None):
                prediction = labeller(image, "target")
                features, logits = prediction.features, prediction.logits
                cells = labeller.on_grid(truth.long(), features)
                nearest, second, assigned = two_nearest(anchors.distances(features))
                kinds["anchor"].update(relative_gap(nearest, second), assigned, cells)
                confidence, likeliest = logits.softmax(dim=1).max(dim=1)
                kinds["confidence"].update(confidence, likeliest, cells)
        return StageCurves({kind: curves.curves() for kind, curves in kinds.items()})

    def _of_source(self, width_px: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        for images in self._scenario.sources:
            for index in evenly(len(images), _IMAGES // len(self._scenario.sources)):
                image, label = images.read(index)
                yield self._on_device(image, label, width_px)

    def _of_target(
        self, label: str, width_px: int | None, most: int | None = _IMAGES
    ) -> Iterator[tuple[Tensor, Tensor]]:
        domain = self._scenario.test
        items = domain.items(str(self._scenario.test_split))
        chosen = list(evenly(len(items), most or len(items)))
        for done, index in enumerate(chosen, start=1):
            image, truth = domain.read_pair(items[index])
            yield self._on_device(image, truth, width_px)
            self._progress.update(label, done, len(chosen))

    def _on_device(self, image: Image, label: Image, width_px: int | None) -> tuple[Tensor, Tensor]:
        prepared = prepare(image, width_px).to(self._device)
        return prepared, torch.from_numpy(label)[None].to(self._device)


def answers(runs: Sequence[tuple[str, Path]]) -> dict[str, dict[str, StageAnswers]]:
    """Average over seeds what was measured; a run has a name and, for every seed, a folder.

    By run and stage, these are the separation (RQ1), precision at `COVERAGES` of both kinds of
    label (RQ2), and the error of each kind beside the mIoU (RQ3). Raises RunError if a file is
    damaged.
    """
    gathered: dict[str, dict[str, list[StageAnswers]]] = {}
    for name, run in runs:
        scores = read_scores(run)
        if scores is None:
            continue
        for stage in scores.stages:
            folder = run / "stages" / stage.folder
            found = StageAnswers(
                miou=stage.miou,
                separation=_separation_of(folder),
                precision_at=_precisions_of(folder, len(scores.classes)),
                label_error=_errors_of(folder),
            )
            gathered.setdefault(name, {}).setdefault(stage.name, []).append(found)
    return {
        name: {
            stage: StageAnswers.model_validate(_mean_of([plain(record) for record in records]))
            for stage, records in stages.items()
        }
        for name, stages in gathered.items()
    }


def _separation_of(folder: Path) -> SeparationAnswer | None:
    held = read_separation(folder)
    if held is None:
        return None
    return SeparationAnswer(
        source=held.source.balanced,
        target=held.target.balanced,
        source_by_pixels=held.source.by_pixels,
        target_by_pixels=held.target.by_pixels,
        centroid_shift=held.centroid_shift,
    )


def _precisions_of(folder: Path, num_classes: int) -> dict[str, dict[float, float | None]] | None:
    held = read_curves(folder, num_classes)
    return {
        kind: {coverage: precision_at(curve, coverage) for coverage in COVERAGES}
        for kind, curve in held.items()
    } or None


def _errors_of(folder: Path) -> dict[str, LabelError] | None:
    held = read_pseudo_labels(folder)
    return {
        kind: LabelError(
            error=None if scores.precision is None else 1 - scores.precision,
            coverage=scores.coverage,
        )
        for kind, scores in held.items()
    } or None


def _mean_of(records: Sequence[Any]) -> Any:
    """Average the numbers of equally nested records; None where no record has one."""
    present = [record for record in records if record is not None]
    if not present:
        return None
    if isinstance(present[0], dict):
        names = dict.fromkeys(name for record in present for name in record)
        return {name: _mean_of([record.get(name) for record in present]) for name in names}
    return statistics.mean(present)
