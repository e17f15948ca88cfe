"""Write both kinds of pseudo-label of a split as PNGs, with their coverage and precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cag_uda.data.domains.domain import Domain, Item
from cag_uda.data.domains.label_reader import match_sizes
from cag_uda.data.files.resizing import resize_label
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages
from cag_uda.errors import UserError
from cag_uda.evaluation.pseudo_label_scores import PseudoLabelTally
from cag_uda.evaluation.scores import or_none, or_nones, share
from cag_uda.files import write_json
from cag_uda.methods.cag_settings import CAGSettings
from cag_uda.models.segmentation import write_picture
from cag_uda.models.segmenter import Segmenter
from cag_uda.prediction.jobs import Job, refuse_existing, refuse_overwriting
from cag_uda.prediction.labeller import (
    Given,
    Labeller,
    Source,
    anchors_of,
    keep_anchors,
    labelling_config,
    make_labeller,
    read_recipe_of,
    source_of,
)
from cag_uda.prediction.opening import as_learned, computing_in, open_model
from cag_uda.prediction.shapes import WRITABLE, LabelFile, write_shapes
from cag_uda.prediction.stream import BATCH_SIZE, Behind, Frame, batches_of_one_size, read_frames
from cag_uda.recipes import Recipe
from cag_uda.runs.progress import Progress, Silent
from cag_uda.runs.records.prediction import COVERAGE, Coverage, CoverageByClass, KindCoverage

KINDS = ("anchor", "confidence")


@dataclass(frozen=True)
class Asked:
    """Settings of pseudo-labelling."""

    source: str | None = None
    """Labelled domain to make anchors of; None: those beside the weights, or else anchors made of
    the run's own source; that too where the margin is fitted to the source."""
    source_split: str = "train"
    margin: str | None = None
    """Margin as KIND:VALUE; None: see `labelling_config`."""
    confidence: float | None = None
    """Least probability of a label by confidence; None: see `labelling_config`."""
    score: bool = False
    """Read the split's labels, for precision."""
    forms: tuple[str, ...] = ()
    """Forms of annotation tools, of `shapes.WRITABLE`, to write beside the PNGs."""
    overwrite: bool = False
    """Replace files of an earlier command."""
    data_root: Path | None = None
    """Folder below which built-in domains lie."""
    accelerator: str = "auto"
    precision: str = "32"


class LabelledSplit(NamedTuple):
    """Result of labelling a split."""

    coverage: Coverage
    """Content of OUT/coverage.json."""
    broken: list[str]
    """Messages of images that could not be read; these have no label, all others have."""


def pseudo_label_split(
    model: str,
    out: Path,
    domain: str,
    split: str = "train",
    asked: Asked | None = None,
    progress: Progress | None = None,
) -> LabelledSplit:
    """Write OUT/anchor/KEY.png and OUT/confidence/KEY.png of every image, and OUT/coverage.json.

    The PNGs hold train ids at the size of the image, 255 where nothing is assigned; labels are
    those of the feature grid, as training sees them, each enlarged to the pixels of its cell.

    Args:
        model: a model folder, a run, or a hub id.
        out: a new or empty folder, unless files may be replaced.
        domain: whose images are labelled.
        split: of it.
        asked: settings; None: as in the model's run.
        progress: told how far the work is.

    Raises:
        UserError: for a model, domain, split or folder that cannot be used.
    """
    asked, progress = asked or Asked(), progress or Silent()
    if unknown := [name for name in asked.forms if name not in WRITABLE]:
        raise UserError(f"--as is of {', '.join(WRITABLE)}, got {', '.join(unknown)}")
    recipe = read_recipe_of(model)
    config = labelling_config(recipe, asked.margin, asked.confidence)
    segmenter = open_model(model, asked.accelerator)
    target = as_learned(Domain.open(domain, asked.data_root), segmenter, model)
    if asked.score and not target.is_labelled(split):
        raise UserError(f"--score wants labels, and split {split!r} of {target.name!r} has none")
    items = target.items(split, with_labels=asked.score)
    _refuse(items, out, asked.overwrite)
    with computing_in(asked.precision, segmenter):
        source = _source(asked, recipe, config, segmenter, model)
        images = UnlabelledImages(target, split)
        labeller = make_labeller(segmenter, model, config, images, source, progress.update)
        if source is not None and asked.source is None:
            progress.note(f"anchors kept in {keep_anchors(labeller, model)}")
        counts, broken = _label(labeller, target, items, out, asked.score, progress)
    for form in asked.forms:
        for kind in KINDS:
            labels = [
                LabelFile(path, item.key, item.key + item.image.suffix)
                for item in items
                if (path := out / kind / f"{item.key}.png").is_file()
            ]
            write_shapes(form, out / kind, labels, segmenter.classes.names)
    written = Coverage(
        model=model,
        domain=target.name,
        split=split,
        images=len(items) - len(broken),
        anchors=labeller.anchors_from,
        margin=config.margin.model_dump(),
        confidence=config.confidence,
        classes=list(segmenter.classes.names),
        kinds={kind: each.scores() for kind, each in counts.items()},
    )
    write_json(out / COVERAGE, written.plain())
    return LabelledSplit(written, broken)


def _source(
    asked: Asked, recipe: Recipe | None, config: CAGSettings, segmenter: Segmenter, model: str
) -> Source | None:
    """Open the source that is named, or that of the model's run; None if its own anchors do."""
    if asked.source is not None:
        opened = as_learned(Domain.open(asked.source, asked.data_root), segmenter, model)
        return Source([LabelledImages(opened, asked.source_split)])
    if recipe is not None and (anchors_of(model) is None or config.margin.is_of_source):
        return source_of(recipe, config, segmenter, model, asked.data_root)
    return None


class _Counts:
    """Coverage and precision of one kind of pseudo-label, class by class."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._trusted = np.zeros(256, np.int64)
        self._all = np.zeros(256, np.int64)
        self._segmenter, self._num_classes = segmenter, segmenter.num_classes
        self._tally: PseudoLabelTally | None = None

    def add(self, given: Given, truth: NDArray[np.uint8] | None, index: int) -> NDArray[np.uint8]:
        """Count image `index` of a batch in; returns its labels (h, w) uint8."""
        trusted, everything = (
            each.label[index].to(torch.uint8).cpu().numpy() for each in (given.trusted, given.all)
        )
        self._trusted += np.bincount(trusted.ravel(), minlength=256)
        self._all += np.bincount(everything.ravel(), minlength=256)
        if truth is not None:
            self._tally = self._tally or PseudoLabelTally(self._num_classes)
            one = type(given.trusted)(*(each[index : index + 1].cpu() for each in given.trusted))
            whole = torch.from_numpy(truth).long()[None]
            self._tally.update(one, self._segmenter.on_grid(whole, one.label))
        return trusted

    def scores(self) -> KindCoverage:
        """Compute coverage and precision, over all classes and by class."""
        trusted, would = self._trusted[: self._num_classes], self._all[: self._num_classes]
        scored = None if self._tally is None else self._tally.scores()
        return KindCoverage(
            coverage=or_none(share(trusted.sum(), self._all.sum())),
            precision=scored.precision if scored else None,
            per_class=CoverageByClass(
                pixels=or_nones(trusted / max(1, self._all.sum())),
                coverage=or_nones(share(trusted, would)),
                precision=scored.per_class.precision if scored else None,
            ),
        )


def _label(
    labeller: Labeller,
    domain: Domain,
    items: Sequence[Item],
    out: Path,
    score: bool,
    progress: Progress,
) -> tuple[dict[str, _Counts], list[str]]:
    """Label every image and write both kinds; returns counts, and messages of broken images."""
    counts = {kind: _Counts(labeller.network) for kind in KINDS}
    broken: list[str] = []
    frames = read_frames(
        items,
        domain.read_image,
        labeller.network.config.input_width_px,
        lambda item, error: broken.append(str(error)),
    )
    done = 0
    with Behind(2, 4 * BATCH_SIZE) as writing:
        for batch in batches_of_one_size(frames):
            given = labeller.label(torch.cat([frame.prepared for frame in batch]))
            for index, frame in enumerate(batch):
                truth = _truth(domain, frame) if score else None
                for kind, each in given.items():
                    small = counts[kind].add(each, truth, index)
                    label = resize_label(small, *frame.image.shape[:2])
                    place = out / kind / f"{frame.origin.key}.png"
                    writing.call(partial(write_picture, place, label))
            done += len(batch)
            progress.update("labelling", done, len(items) - len(broken))
    return counts, broken


def _truth(domain: Domain, frame: Frame[Item]) -> NDArray[np.uint8]:
    label = domain.read_label(frame.origin)
    return match_sizes(frame.image, label, frame.origin.label or frame.origin.image)


def _refuse(items: Sequence[Item], out: Path, overwrite: bool) -> None:
    """Raise UserError if the folder holds something, or a label would replace what is read."""
    refuse_existing(out, overwrite)
    jobs = [Job(str(item.image.absolute()), item.key) for item in items]
    inputs = jobs + [Job(str(item.label.absolute()), item.key) for item in items if item.label]
    outputs = {job: [str(out / kind / f"{job.place}.png") for kind in KINDS] for job in jobs}
    refuse_overwriting(inputs, outputs, out)
