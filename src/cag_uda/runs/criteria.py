"""Label-free criteria of the networks of a run, always on the same few images.

RUN/stages/*/criteria.json holds what was found after the stage and at each of its evaluations. No
label of the target, and nothing that was found with one, ever stands in this file.
"""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.data.files.resizing import Image, resize_label
from cag_uda.data.loading.images import read_or_next
from cag_uda.errors import RunError
from cag_uda.evaluation.confusion import ConfusionMatrix
from cag_uda.evaluation.label_free import look_at, target_criteria
from cag_uda.evaluation.linear_probe import ProbedCells, probe_iou, probed_cells
from cag_uda.evaluation.scores import intersection_and_union, mean_over_classes, share
from cag_uda.models.inference import batches_of_one_kind, inference, prepare
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe, load_recipe
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.initial import has_learnt, initial_segmenter
from cag_uda.runs.pictures import evenly
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.stage import CRITERIA, CriteriaRecord, StageCriteria, read_criteria
from cag_uda.runs.scenario import Scenario, held_out
from cag_uda.runs.selection import EVIDENCE
from cag_uda.types import OF_SOURCE, CriterionName

_IMAGES = 12
"""Most images of each domain that are read: a record then takes about as long as two training
steps of 4 + 4 crops."""
_CHUNK = 4


class Criteria:
    """Measures networks of one run.

    Images are read at the first measurement and kept: source images with labels, for the anchors
    and the source's mIoU, and images alone of the target.
    """

    def __init__(self, recipe: Recipe, scenario: Scenario) -> None:
        self._recipe, self._scenario = recipe, scenario
        self._source: list[tuple[Tensor, Tensor]] = []
        """Images (B, 3, H, W) uint8, and their labels (B, H, W) uint8 train ids."""
        self._target: list[Tensor] = []
        self._probed: ProbedCells | None = None
        """Cells of the target's images, with features of the network that the run began with."""
        self.source_validation: Literal["held-out", "train"] | None = "train"

    def measure(self, segmenter: Segmenter, step: int, network: str | None) -> CriteriaRecord:
        """Compute every criterion of a network that is defined, after some steps of its stage.

        Without the source, criteria of its images are left out.

        Args:
            segmenter: the network, on whatever device; its mode is restored.
            step: number of steps.
            network: where it is kept, relative to its stage's folder; None where it is not.
        """
        begun_s = time.monotonic()
        self._read(segmenter.config.input_width_px)
        device = segmenter.mean.device
        bf16 = self._recipe.compute.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            anchors, source_miou = self._look_at_source(segmenter)
            batches = (image.to(device) for image in self._target)
            seen = look_at(segmenter, batches, anchors.distances)
        found = {**target_criteria(seen), "source-miou": source_miou}
        if (cells := self._cells(device)) is not None:
            predicted = seen.logits.argmax(dim=1)
            found["probe-iou"] = float(probe_iou(cells, predicted, segmenter.num_classes))
        left_out = frozenset() if self._source else OF_SOURCE
        criteria: dict[str, float] = {
            name: value
            for name, value in found.items()
            if math.isfinite(value) and name not in left_out
        }
        shares = _shares(seen.logits.argmax(dim=1), segmenter.num_classes)
        elapsed_s = time.monotonic() - begun_s
        return CriteriaRecord(
            step=step, network=network, elapsed_s=elapsed_s, criteria=criteria, shares=shares
        )

    def record(self, folder: Path, segmenter: Segmenter, step: int, network: str | None) -> None:
        """Measure a network and record its criteria in its stage's folder; see `measure`."""
        found = self.measure(segmenter, step, network)
        # Records of later steps, from before a run was resumed, are made again.
        kept = [record for record in self._records(folder, segmenter) if record.step < step]
        made = StageCriteria(
            source_validation=self.source_validation,
            source_shares=self._source_shares(segmenter.num_classes),
            records=[*kept, found],
        )
        write_record(folder / CRITERIA, made)

    def _source_shares(self, num_classes: int) -> list[float] | None:
        """Compute each class's share (K,) of the source's labels, or of a pack's counts."""
        if self._scenario.pack is not None:
            counts = self._scenario.pack.figures.counts.double()
            found: list[float] = (counts / counts.sum().clamp(min=1)).tolist()
            return found
        labels = [label.flatten() for _, label in self._source]
        return _shares(torch.cat(labels), num_classes) if labels else None

    def _records(self, folder: Path, segmenter: Segmenter) -> list[CriteriaRecord]:
        """Read a stage's records; where they are damaged, measure the kept networks again."""
        try:
            return read_criteria(folder)
        except RunError as error:
            logging.getLogger(__name__).warning(
                "%s; the networks that were kept are measured again", error.problems[0]
            )
        kept = [path for path in folder.glob("networks/*") if path.name.isdecimal()]
        found = []
        for path in sorted(kept, key=lambda path: int(path.name)):
            network = Segmenter.from_pretrained(path).to(segmenter.mean.device)
            found.append(self.measure(network, int(path.name), f"networks/{path.name}"))
        return found

    def _look_at_source(self, segmenter: Segmenter) -> tuple[CategoryAnchors, float]:
        """Compute anchors and mIoU of the source sample, on the feature grid."""
        classes = segmenter.num_classes
        anchors = CategoryAnchors(classes, segmenter.feature_channels).to(segmenter.mean.device)
        confusion = ConfusionMatrix(classes)
        with inference(segmenter):
            for image, label in self._source:
                prediction = segmenter(image.to(segmenter.mean.device), "source")
                truth = label.to(segmenter.mean.device).long()
                cells = segmenter.on_grid(truth, prediction.logits)
                anchors.update(prediction.features, cells)
                confusion.update(cells, prediction.logits.argmax(1))
        iou = share(*intersection_and_union(confusion.counts))
        return anchors, float(mean_over_classes(iou))

    def _cells(self, device: torch.device) -> ProbedCells | None:
        """Draw the cells that a linear probe is fitted to; None where the run began untrained."""
        if self._probed is None and has_learnt(self._recipe):
            initial = initial_segmenter(self._recipe, self._scenario).to(device)
            images = [image.to(device) for image in self._target]
            self._probed = probed_cells(initial, images)
        return self._probed

    def _read(self, width_px: int | None) -> None:
        """Read the images, once; of each of several sources equally many."""
        if self._target:
            return
        loading, scenario = self._recipe.loading, self._scenario
        chosen = evenly(len(scenario.target), _IMAGES)
        images = (prepare(read_or_next(scenario.target, i, loading), width_px) for i in chosen)
        groups = batches_of_one_kind(images, lambda image: image.shape, _CHUNK)
        self._target = [torch.cat(group) for group in groups]
        if not scenario.sources:
            self.source_validation = None
            return
        unseen = held_out(self._recipe)
        self.source_validation = "train" if unseen is None else "held-out"
        splits = scenario.sources if unseen is None else (unseen,)
        each = -(-_IMAGES // len(splits))
        pairs = (
            _labelled(*read_or_next(split, i, loading), width_px)
            for split in splits
            for i in evenly(len(split), each)
        )
        runs = batches_of_one_kind(pairs, lambda pair: pair[0].shape, _CHUNK)
        self._source = [
            (torch.cat([image for image, _ in run]), torch.cat([label for _, label in run]))
            for run in runs
        ]


def record_missing(run: Path) -> None:
    """Measure the networks of a run's finished stages that have not been, on the run's data."""
    recipe, own = load_recipe(run / "recipe.toml"), RunFolder(run)
    steps = {own.stage(index, stage.name): stage.steps for index, stage in enumerate(recipe.stages)}
    wanted = EVIDENCE if has_learnt(recipe) else EVIDENCE[:1]
    missing = [
        folder
        for folder in (own.initial, *steps)
        if (folder / "model" / "config.json").is_file() and not _is_measured(folder, wanted)
    ]
    if not missing:
        return
    criteria = Criteria(recipe, Scenario.open(recipe))
    for folder in missing:
        segmenter = Segmenter.from_pretrained(folder / "model")
        criteria.record(folder, segmenter, steps.get(folder, 0), "model")


def _is_measured(stage_folder: Path, wanted: Sequence[CriterionName]) -> bool:
    """Tell whether criteria of a stage's network are known, in a file that is sound.

    Records of earlier versions lack some of those that networks are compared by.
    """
    try:
        records = read_criteria(stage_folder)
        return any(
            record.network == "model" and record.criteria.keys() >= set(wanted)
            for record in records
        )
    except RunError:
        return False


def _shares(train_ids: Tensor, num_classes: int) -> list[float]:
    """Compute the share of each class (K,) among pixels (N,) that have one."""
    counts = torch.bincount(train_ids[train_ids < num_classes].long(), minlength=num_classes)
    found: list[float] = (counts.double() / counts.sum().clamp(min=1)).tolist()
    return found


def _labelled(image: Image, label: Image, width_px: int | None) -> tuple[Tensor, Tensor]:
    prepared = prepare(image, width_px)
    resized = resize_label(label, prepared.shape[2], prepared.shape[3])
    return prepared, torch.tensor(resized)[None]
