"""Label-free criteria of the networks of a run, always on the same few images.

RUN/stages/*/criteria.json holds what was found after the stage and at each of its evaluations:

```json
{
  "entropy": 0.39,
  "infomax": 1.3,
  "source_validation": "held-out",
  "records": [
    {"step": 100, "network": null, "elapsed_s": 1.2, "criteria": {"entropy": 0.41, …}},
    {"step": 200, "network": "model", "elapsed_s": 0.7, "criteria": {"entropy": 0.39, …}}
  ]
}
```

At the top stands the latest record; `network` is the folder of the network relative to the stage's,
null where it was not kept; `elapsed_s` is what the measurement took. No label of the target, and
nothing that was found with one, ever stands in this file.
"""

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.data.loading.augment import Image, resize_label
from cag_uda.data.loading.images import LabelledImages, read_or_next
from cag_uda.errors import RunError
from cag_uda.evaluation.confusion import ConfusionMatrix
from cag_uda.evaluation.label_free import look_at, target_criteria
from cag_uda.evaluation.scores import intersection_and_union, mean_over_classes, share
from cag_uda.models.inference import batches_of_one_kind, inference, prepare
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe, load_recipe
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.pictures import evenly
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.stage import CRITERIA, CriteriaRecord, StageCriteria, read_criteria
from cag_uda.runs.scenario import Scenario, held_out
from cag_uda.runs.selection import DEFAULT_CRITERION
from cag_uda.types import OF_SOURCE

_IMAGES = 12
"""Most images of each domain that are read: a record then takes about as long as two training
steps of 4 + 4 crops."""
_CHUNK = 4


class _Labelled(NamedTuple):
    image: Tensor
    """(B, 3, H, W) uint8."""
    label: Tensor
    """(B, H, W) uint8 train ids."""


class Criteria:
    """Measures networks of one run.

    Images are read at the first measurement and kept: source images with labels, for the anchors
    and the source's mIoU, and images alone of the target.

    Args:
        recipe: of the run.
        scenario: its domains.
    """

    def __init__(self, recipe: Recipe, scenario: Scenario) -> None:
        self._recipe, self._scenario = recipe, scenario
        self._source: list[_Labelled] = []
        self._target: list[Tensor] = []
        self.source_validation: Literal["held-out", "train"] | None = "train"

    def measure(self, segmenter: Segmenter) -> dict[str, float]:
        """Compute every criterion of a network, by name; one that is not defined is left out.

        Without the source, criteria of its images are left out too.

        Args:
            segmenter: the network, on whatever device; its mode is restored.
        """
        return self._look(segmenter)[0]

    def _look(self, segmenter: Segmenter) -> tuple[dict[str, float], list[float]]:
        """Every criterion of a network, and the class shares of its predictions, (K,)."""
        self._read(segmenter.config.input_width_px)
        device = segmenter.mean.device
        bf16 = self._recipe.compute.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            anchors, source_miou = self._look_at_source(segmenter)
            seen = look_at(segmenter, self._target_batches(device), anchors.distances)
        found = {**target_criteria(seen), "source-miou": source_miou}
        left_out = frozenset() if self._source else OF_SOURCE
        known: dict[str, float] = {
            name: value
            for name, value in found.items()
            if math.isfinite(value) and name not in left_out
        }
        return known, _shares(seen.logits.argmax(dim=1), segmenter.num_classes)

    def record(self, folder: Path, segmenter: Segmenter, step: int, network: str | None) -> None:
        """Measure a network and record its criteria in its stage's folder.

        Args:
            folder: of the stage.
            segmenter: the network.
            step: steps of the stage that it has taken; records of as many or more are dropped.
            network: where it is kept, relative to the folder; None where it is not.
        """
        found = self._measured(segmenter, step, network)
        # Records of later steps, from before a run was resumed, are made again.
        kept = [record for record in self._records(folder, segmenter) if record.step < step]
        made = StageCriteria(
            source_validation=self.source_validation,
            source_shares=self._source_shares(segmenter.num_classes),
            records=[*kept, found],
        )
        write_record(folder / CRITERIA, made)

    def _source_shares(self, num_classes: int) -> list[float] | None:
        """Share of each class (K,) in the source's labels, by a pack's counts if there is one."""
        if self._scenario.pack is not None:
            counts = self._scenario.pack.figures.counts.double()
            found: list[float] = (counts / counts.sum().clamp(min=1)).tolist()
            return found
        labels = [pair.label.flatten() for pair in self._source]
        return _shares(torch.cat(labels), num_classes) if labels else None

    def _measured(self, segmenter: Segmenter, step: int, network: str | None) -> CriteriaRecord:
        begun_s = time.monotonic()
        criteria, shares = self._look(segmenter)
        elapsed_s = time.monotonic() - begun_s
        return CriteriaRecord(
            step=step, network=network, elapsed_s=elapsed_s, criteria=criteria, shares=shares
        )

    def _records(self, folder: Path, segmenter: Segmenter) -> list[CriteriaRecord]:
        """Read a stage's records; where they are damaged, measure the kept networks again."""
        try:
            return read_criteria(folder)
        except RunError as error:
            logging.getLogger(__name__).warning(
                "%s; the networks that were kept are measured again", error.problems[0]
            )
        kept = [path for path in folder.glob("networks/*") if path.name.isdecimal()]
        return [
            self._measured(
                Segmenter.from_pretrained(path).to(segmenter.mean.device),
                int(path.name),
                f"networks/{path.name}",
            )
            for path in sorted(kept, key=lambda path: int(path.name))
        ]

    def _look_at_source(self, segmenter: Segmenter) -> tuple[CategoryAnchors, float]:
        """Compute anchors and mIoU of the source sample, on the feature grid."""
        classes = segmenter.num_classes
        anchors = CategoryAnchors(classes, segmenter.feature_channels).to(segmenter.mean.device)
        confusion = ConfusionMatrix(classes)
        with inference(segmenter):
            for image, label in self._source_batches(segmenter.mean.device):
                prediction = segmenter(image, "source")
                cells = segmenter.on_grid(label.long(), prediction.logits)
                anchors.update(prediction.features, cells)
                confusion.update(cells, prediction.logits.argmax(1))
        iou = share(*intersection_and_union(confusion.counts))
        return anchors, float(mean_over_classes(iou))

    def _source_batches(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for image, label in self._source:
            yield image.to(device), label.to(device)

    def _target_batches(self, device: torch.device) -> Iterator[Tensor]:
        for image in self._target:
            yield image.to(device)

    def _read(self, width: int | None) -> None:
        if self._target:
            return
        loading, target = self._recipe.loading, self._scenario.target
        read = (read_or_next(target, i, loading) for i in evenly(len(target), _IMAGES))
        images = (prepare(image, width) for image in read)
        groups = batches_of_one_kind(images, lambda image: image.shape, _CHUNK)
        self._target = [torch.cat(group) for group in groups]
        if not self._scenario.sources:
            self.source_validation = None
            return
        unseen = held_out(self._recipe)
        self.source_validation = "train" if unseen is None else "held-out"
        chosen = self._of_training() if unseen is None else [_some_of(unseen, _IMAGES)]
        pairs = (read_or_next(images, i, loading) for images, indices in chosen for i in indices)
        labelled = (_labelled(image, label, width) for image, label in pairs)
        runs = batches_of_one_kind(labelled, lambda pair: pair.image.shape, _CHUNK)
        self._source = [_Labelled(*map(torch.cat, zip(*run, strict=True))) for run in runs]

    def _of_training(self) -> list[tuple[LabelledImages, list[int]]]:
        """Choose images of the training splits, equally many of each source."""
        each = -(-_IMAGES // len(self._scenario.sources))
        return [_some_of(images, each) for images in self._scenario.sources]


def record_missing(run: Path) -> None:
    """Measure the networks of a run's finished stages that have not been measured.

    Args:
        run: a run folder, whose data must be there; runs of earlier versions have no criteria.

    Raises:
        UserError: if the run, its recipe or its data cannot be read.
    """
    recipe = load_recipe(run / "recipe.toml")
    stages = [(RunFolder(run).initial, 0)] + [
        (RunFolder(run).stage(index, stage.name), stage.steps)
        for index, stage in enumerate(recipe.stages)
    ]
    missing = [
        (folder, steps)
        for folder, steps in stages
        if (folder / "model" / "config.json").is_file() and not _is_measured(folder)
    ]
    criteria = Criteria(recipe, Scenario.open(recipe)) if missing else None
    for folder, steps in missing:
        if criteria is not None:
            criteria.record(folder, Segmenter.from_pretrained(folder / "model"), steps, "model")


def _is_measured(stage_folder: Path) -> bool:
    """Tell whether the criteria of a stage's network are known, in a file that is sound.

    Records of 0.1 lack the one that networks are compared by.
    """
    try:
        records = read_criteria(stage_folder)
        return any(
            record.network == "model" and DEFAULT_CRITERION in record.criteria for record in records
        )
    except RunError:
        return False


def _shares(train_ids: Tensor, num_classes: int) -> list[float]:
    """Share of each class (K,) among pixels (N,), those without a class left out."""
    counts = torch.bincount(train_ids[train_ids < num_classes].long(), minlength=num_classes)
    found: list[float] = (counts.double() / counts.sum().clamp(min=1)).tolist()
    return found


def _some_of(images: LabelledImages, most: int) -> tuple[LabelledImages, list[int]]:
    return images, list(evenly(len(images), most))


def _labelled(image: Image, label: Image, width_px: int | None) -> _Labelled:
    prepared = prepare(image, width_px)
    resized = resize_label(label, prepared.shape[2], prepared.shape[3])
    return _Labelled(prepared, torch.from_numpy(resized)[None])
