"""Class shares of two domains: RUN/class_shares.json, and before a run.

The source's are counted in its labels; the target's are estimated from a network's predictions on
its training images, at the end of a run the delivered network's. No label of the target is read.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cag_uda.data.loading.images import read_or_next
from cag_uda.errors import RunError
from cag_uda.evaluation.scores import total_variation
from cag_uda.models.inference import inference, on_device, prepare
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.pictures import evenly
from cag_uda.runs.progress import Progress
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.run import CLASS_SHARES, ClassShares, read_class_shares
from cag_uda.runs.scenario import Scenario
from cag_uda.training.interrupt import StopRequest
from cag_uda.training.processes import Processes

_IMAGES = 64
"""Most images of each domain that are read."""
_FEW = 24
"""Most images of the target that are predicted before a run: seconds on a CPU, mostly."""

Watch = Callable[[int, int], None]
"""Receives the numbers of images looked at and to be looked at."""


class Counts(NamedTuple):
    """Counts of one process, in its part of the images."""

    source: Tensor
    """(S, K) int64 labelled pixels of each class, a row a source; S = 0 without one."""
    target: Tensor
    """(K,) int64 cells of the feature grid that are predicted as each class."""
    images: Tensor
    """() int64, images of the target."""


def estimate_class_shares(
    recipe: Recipe,
    scenario: Scenario,
    segmenter: Segmenter,
    watch: Watch = lambda done, total: None,
) -> ClassShares | None:
    """Estimate the class shares of a recipe's domains by a network, before any run.

    Fewer images of the target are read than at the end of a run. The network is of the same
    classes, on whatever device. Returns None if there is no label or no image; raises DataError if
    an image cannot be read.
    """
    counts = _count(recipe, scenario, segmenter, (0, 1), _FEW, watch)
    return _shares_of(counts, scenario, segmenter, "model")


def settings_for_equal_shares(recipe: Recipe) -> list[str]:
    """List the settings of a recipe that assume equal class shares, as its file has them.

    They are statistics of the target alone, and labels bounded by the source's shares.
    """
    per_domain = recipe.segmenter.norm == "per-domain"
    found = []
    if per_domain and recipe.segmenter.target_share == 1:
        found.append("segmenter.target_share = 1")
    for stage in recipe.stages:
        method, place = stage.method.model_dump(), f"stages.{stage.name}.method"
        if per_domain and method.get("target_share") == 1:
            found.append(f"{place}.target_share = 1")
        if portion := (method.get("margin") or {}).get("prior_portion"):
            found.append(f"{place}.margin.prior_portion = {portion:g}")
    return found


def record_class_shares(
    recipe: Recipe,
    scenario: Scenario,
    run: RunFolder,
    network: str,
    device: torch.device,
    processes: Processes,
    stop: StopRequest,
    progress: Progress,
) -> None:
    """Record the class shares by a run's delivered network, unless they are recorded already.

    Every process calls it and looks at its part of the images; the first one writes. `network` is
    the folder that the delivered network was taken from, relative to the run's.
    """
    is_recorded = processes.is_first and _is_recorded(run, network, progress)
    if processes.gather(is_recorded)[0]:
        return

    def watch(done: int, total: int) -> None:
        progress.update("class shares", done, total)
        stop.check()

    with processes.agreed():
        segmenter = Segmenter.from_pretrained(run.model).to(device)
        part = (processes.rank, processes.count)
        source, *others = _count(recipe, scenario, segmenter, part, _IMAGES, watch)
    # A pack's counts are known to all.
    source = processes.total(source) if len(source) else source
    counts = Counts(source, *map(processes.total, others))
    made = _shares_of(counts, scenario, segmenter, network)
    with processes.agreed():
        if processes.is_first and made is not None:
            write_record(run.path / CLASS_SHARES, made)


def _is_recorded(run: RunFolder, network: str, progress: Progress) -> bool:
    """Tell whether the network's shares are recorded; damaged ones are made anew."""
    try:
        found = read_class_shares(run.path)
    except RunError as error:
        progress.note(f"{error.problems[0]}; they are estimated again")
        return False
    return found is not None and found.network == network


def _count(
    recipe: Recipe,
    scenario: Scenario,
    segmenter: Segmenter,
    part: tuple[int, int],
    most: int,
    watch: Watch,
) -> Counts:
    """Count classes in the source's labels, and in predictions of at most `most` target images.

    `part` is the rank and number of the processes that share the images.
    """
    each = -(-_IMAGES // max(1, len(scenario.sources)))
    rank, processes = part
    labelled = [[*evenly(len(images), each)][rank::processes] for images in scenario.sources]
    predicted = [*evenly(len(scenario.target), most)][rank::processes]
    classes, done = scenario.label_space.num_classes, 0
    total = sum(map(len, labelled)) + len(predicted)
    source = torch.zeros(len(labelled), classes, dtype=torch.int64)
    for row, images, own in zip(source, scenario.sources, labelled, strict=True):
        for index in own:
            _, label = read_or_next(images, index, recipe.loading)
            row += torch.bincount(torch.tensor(label).flatten(), minlength=256)[:classes]
            watch(done := done + 1, total)
    target = torch.zeros(classes, dtype=torch.int64)
    bf16, kind = recipe.compute.precision == "bf16", segmenter.mean.device.type
    with inference(segmenter), torch.autocast(kind, torch.bfloat16, enabled=bf16):
        for index in predicted:
            image = read_or_next(scenario.target, index, recipe.loading)
            pixels = on_device(prepare(image, segmenter.config.input_width_px), segmenter)
            found = segmenter(pixels, "target").logits.argmax(dim=1).flatten().cpu()
            target += torch.bincount(found, minlength=classes)
            watch(done := done + 1, total)
    return Counts(source, target, torch.tensor(len(predicted)))


def _shares_of(
    counts: Counts, scenario: Scenario, segmenter: Segmenter, network: str
) -> ClassShares | None:
    """Compute shares from the counts of all processes; None without any label or image.

    All sources weigh the same, as in training. A pack, which replaces them, holds the counts.
    """
    pack = scenario.pack
    rows = counts.source if pack is None else pack.figures.counts[None]
    rows = rows[rows.sum(dim=1) > 0].double()
    if not len(rows) or not counts.images:
        return None
    source = (rows / rows.sum(dim=1, keepdim=True)).mean(dim=0)
    target = counts.target.double() / counts.target.sum()
    return ClassShares(
        network=network,
        classes=list(segmenter.classes.names),
        source=source.tolist(),
        target=target.tolist(),
        total_variation=total_variation(source.tolist(), target.tolist()),
        target_images=int(counts.images),
        target_cells=int(counts.target.sum()),
    )
