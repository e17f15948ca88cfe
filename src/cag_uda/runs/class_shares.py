"""Class shares of a run's two domains: RUN/class_shares.json.

The source's are counted in its labels; the target's are estimated from the delivered network's
predictions on its training images. No label of the target is read.
"""

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


class ClassShareRecorder:
    """Records the class shares of a run's domains, once; every method is called by all processes.

    Args:
        recipe: of the run.
        scenario: its domains.
        processes: those that share the images; the first one writes.
        stop: checked between two images.
        progress: receives the progress.
    """

    def __init__(
        self,
        recipe: Recipe,
        scenario: Scenario,
        processes: Processes,
        stop: StopRequest,
        progress: Progress,
    ) -> None:
        self._recipe, self._scenario, self._progress = recipe, scenario, progress
        self._processes, self._stop = processes, stop

    def record(self, run: RunFolder, network: str, device: torch.device) -> None:
        """Estimate the shares by the run's delivered network, unless they are recorded already.

        Args:
            run: its folder, with the delivered network in its place.
            network: the folder that the delivered network was taken from, relative to the run's.
            device: to compute on.
        """
        if self._processes.gather(self._is_recorded(run, network))[0]:
            return
        with self._processes.agreed():
            counts = self._source_counts()
            segmenter = Segmenter.from_pretrained(run.model).to(device)
            predicted, images = self._predicted_counts(segmenter)
        source = self._source_shares(counts)
        cells, seen = self._processes.total(predicted), self._processes.total(torch.tensor(images))
        if source is None or not seen:
            return
        target = cells.double() / cells.sum()
        made = ClassShares(
            network=network,
            classes=list(segmenter.classes.names),
            source=source.tolist(),
            target=target.tolist(),
            total_variation=total_variation(source.tolist(), target.tolist()),
            target_images=int(seen),
            target_cells=int(cells.sum()),
        )
        with self._processes.agreed():
            if self._processes.is_first:
                write_record(run.path / CLASS_SHARES, made)

    def _is_recorded(self, run: RunFolder, network: str) -> bool:
        """Tell whether the first process finds the network's shares; damaged ones are made anew."""
        if not self._processes.is_first:
            return False
        try:
            found = read_class_shares(run.path)
        except RunError as error:
            self._progress.note(f"{error.problems[0]}; they are estimated again")
            return False
        return found is not None and found.network == network

    def _source_counts(self) -> Tensor:
        """Count the labelled pixels of each class in this process's images, a row a source."""
        sources, classes = self._scenario.sources, self._scenario.label_space.num_classes
        counts = torch.zeros(len(sources), classes, dtype=torch.int64)
        for row, images in zip(counts, sources, strict=True):
            for index in self._own(len(images), -(-_IMAGES // len(sources))):
                _, label = read_or_next(images, index, self._recipe.loading)
                row += torch.bincount(torch.from_numpy(label).flatten(), minlength=256)[:classes]
                self._stop.check()
        return counts

    def _source_shares(self, counts: Tensor) -> Tensor | None:
        """Compute shares (K,) from all processes' counts; None if there is no label.

        All sources weigh the same, as in training. A pack, which replaces them, holds the counts.
        """
        pack = self._scenario.pack
        rows = self._processes.total(counts) if pack is None else pack.figures.counts[None]
        rows = rows[rows.sum(dim=1) > 0].double()
        return (rows / rows.sum(dim=1, keepdim=True)).mean(dim=0) if len(rows) else None

    def _predicted_counts(self, segmenter: Segmenter) -> tuple[Tensor, int]:
        """Cells of each class (K,) in this process's images of the target, and how many images."""
        counts = torch.zeros(self._scenario.label_space.num_classes, dtype=torch.int64)
        bf16 = self._recipe.compute.precision == "bf16"
        kind = segmenter.mean.device.type
        own = self._own(len(self._scenario.target), _IMAGES)
        with inference(segmenter), torch.autocast(kind, torch.bfloat16, enabled=bf16):
            for done, index in enumerate(own):
                image = read_or_next(self._scenario.target, index, self._recipe.loading)
                pixels = on_device(prepare(image, segmenter.config.input_width_px), segmenter)
                predicted = segmenter(pixels, "target").logits.argmax(dim=1).flatten().cpu()
                counts += torch.bincount(predicted, minlength=len(counts))
                self._progress.update("class shares", done + 1, len(own))
                self._stop.check()
        return counts, len(own)

    def _own(self, count: int, most: int) -> list[int]:
        """List this process's part of at most `most` of `count` images, evenly spread."""
        return list(evenly(count, most))[self._processes.rank :: self._processes.count]
