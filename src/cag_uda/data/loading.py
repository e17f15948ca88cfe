"""Step-addressed loading: every sample is a function of (seed, stage, step, slot).

Neither the number of processes nor the number of loader workers changes which images a step sees or
how they are augmented, so a resumed run is the run. Knows files and crops, not networks.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cag_uda.data.ahead import ahead
from cag_uda.data.augment import Image, choose_crop, photometric, resize_label, resize_to_width
from cag_uda.data.config import LoadingConfig
from cag_uda.data.domain import Domain, Item
from cag_uda.errors import DataError
from cag_uda.types import Batch, Labelled, Unlabelled

T = TypeVar("T")


class LabelledImages:
    """The labelled images of one split of a domain."""

    def __init__(self, domain: Domain, split: str) -> None:
        self._domain, self._items = domain, tuple(domain.items(split))
        unlabelled = [item.key for item in self._items if item.label is None]
        if unlabelled:
            raise DataError(
                f"split {split!r} of domain {domain.name!r} is a source but has no labels; "
                f"give it a `labels` pattern, or name a labelled split"
            )

    def __len__(self) -> int:
        return len(self._items)

    def read(self, index: int) -> tuple[Image, Image]:
        """Image (H, W, 3) uint8 and label (H, W) uint8 train ids. Raises DataError."""
        return self._domain.read_pair(self._items[index])


class UnlabelledImages:
    """The images of one split of a domain; whatever labels lie beside them are forgotten here."""

    def __init__(self, domain: Domain, split: str) -> None:
        self._domain = domain
        self._items: tuple[Item, ...] = tuple(domain.items(split, with_labels=False))

    def __len__(self) -> int:
        return len(self._items)

    def read(self, index: int) -> Image:
        """Image (H, W, 3) uint8. Raises DataError."""
        return self._domain.read_image(self._items[index])


@dataclass(frozen=True)
class Shard:
    """Which part of the work is this process's."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class BatchSource(Dataset["Batch | DataError"]):
    """The batches of one stage, addressed by step.

    Slot s of the global batch takes its source image from domain s modulo the number of source
    domains, so that several sources have equal shares; each domain is gone through in a new random
    order every epoch. Tensors come as uint8; `on_device` makes them what `Batch` documents.

    Args:
        sources: the labelled domains, at least one.
        target: the unlabelled one.
        config: sizes and augmentation.
        seed: of the run.
        stage: number of the stage.
        shard: which slots of the global batch are this process's.
    """

    sources: Sequence[LabelledImages]
    target: UnlabelledImages
    config: LoadingConfig
    seed: int
    stage: int
    shard: Shard = Shard()

    def __getitem__(self, step: int) -> Batch | DataError:
        """The part of step `step`'s batch that is this process's, or the error that prevents it."""
        share = self.config.batch_size // self.shard.world_size
        slots = range(self.shard.rank * share, (self.shard.rank + 1) * share)
        try:
            labelled = [self._labelled(step, slot) for slot in slots]
            unlabelled = [self._unlabelled(step, slot) for slot in slots]
        except DataError as error:
            # Returned, not raised: a loader process would wrap it into a traceback.
            return error
        return Batch(
            Labelled(_images([x for x, _ in labelled]), _labels([y for _, y in labelled])),
            Unlabelled(_images([x for x, _ in unlabelled]), _images([x for _, x in unlabelled])),
        )

    def _labelled(self, step: int, slot: int) -> tuple[Image, Image]:
        count = len(self.sources)
        domain, place = slot % count, slot // count
        share = len(range(domain, self.config.batch_size, count))
        images = self.sources[domain]
        index = _shuffled_index(
            len(images), step * share + place, (self.seed, self.stage, 0, domain)
        )
        rng = np.random.default_rng((self.seed, self.stage, 0, step, slot))
        image, label = images.read(index)
        crop = choose_crop((label.shape[0], label.shape[1]), self.config, rng)
        return photometric(crop.of_image(image), self.config.photometric, rng), crop.of_label(label)

    def _unlabelled(self, step: int, slot: int) -> tuple[Image, Image]:
        number = step * self.config.batch_size + slot
        index = _shuffled_index(len(self.target), number, (self.seed, self.stage, 1))
        rng = np.random.default_rng((self.seed, self.stage, 1, step, slot))
        image = self.target.read(index)
        plain = choose_crop((image.shape[0], image.shape[1]), self.config, rng).of_image(image)
        return photometric(plain, self.config.photometric, rng), plain


def load_batches(source: BatchSource, steps: range, device: torch.device) -> Iterator[Batch]:
    """Load the batches of some steps, ahead of their use, in worker processes.

    Args:
        source: the batches by step.
        steps: which, in order.
        device: where the batches shall be.

    Yields:
        Batches as their type documents, on the device.

    Raises:
        DataError: when the step with an unreadable image is reached.
    """
    workers = source.config.workers
    loader: DataLoader[Batch | DataError] = DataLoader(
        source,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=3 if workers else None,
        worker_init_fn=_begin_worker,
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield on_device(batch, device)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch of 8-bit tensors and give it the types that `Batch` documents."""
    return Batch(_labelled_on(batch.source, device), _unlabelled_on(batch.target, device))


def sweep_source(
    images: LabelledImages, width_px: int | None, chunk: int, shard: Shard, device: torch.device
) -> Iterator[Labelled]:
    """Go through this process's share of a labelled split once, without augmentation.

    Args:
        images: the split.
        width_px: width to which images are resized, aspect ratio kept; labels follow.
        chunk: images at a time; consecutive ones of one size share a batch.
        shard: every `world_size`-th chunk is this process's.
        device: where the batches shall be.

    Raises:
        DataError: for an unreadable image or label.
    """

    def read(index: int) -> tuple[Image, Image]:
        image, label = images.read(index)
        image = resize_to_width(image, width_px)
        return image, resize_label(label, *image.shape[:2])

    for pairs in _chunks(read, len(images), chunk, shard):
        for group in _by_size(pairs, lambda pair: pair[0].shape):
            batch = Labelled(_images([x for x, _ in group]), _labels([y for _, y in group]))
            yield _labelled_on(batch, device)


def sweep_target(
    images: UnlabelledImages, width_px: int | None, chunk: int, shard: Shard, device: torch.device
) -> Iterator[Unlabelled]:
    """Go through this process's share of an unlabelled split; arguments as `sweep_source`."""

    def read(index: int) -> Image:
        return resize_to_width(images.read(index), width_px)

    for plain in _chunks(read, len(images), chunk, shard):
        for group in _by_size(plain, lambda image: image.shape):
            stack = _images(group)
            yield _unlabelled_on(Unlabelled(stack, stack), device)


def _chunks(read: Callable[[int], T], count: int, chunk: int, shard: Shard) -> Iterator[list[T]]:
    """This process's chunks of `read(0), read(1), …`, read ahead of their use."""
    starts = range(shard.rank * chunk, count, shard.world_size * chunk)
    wanted = [index for start in starts for index in range(start, min(start + chunk, count))]
    with closing(ahead(read, wanted, depth=2 * chunk)) as items:
        while items_of_chunk := list(islice(items, chunk)):
            yield items_of_chunk


def _by_size(items: list[T], size: Callable[[T], tuple[int, ...]]) -> list[list[T]]:
    """Runs of consecutive items of one size, which can share a batch."""
    return [list(run) for _, run in groupby(items, key=size)]


def _shuffled_index(count: int, number: int, key: tuple[int, ...]) -> int:
    """Index of sample `number` when `count` images are gone through in a new order every epoch."""
    epoch, place = divmod(number, count)
    return int(_permutation(count, (*key, epoch))[place])


@lru_cache(maxsize=16)
def _permutation(count: int, key: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.default_rng(key).permutation(count)


def _images(images: Sequence[Image]) -> Tensor:
    """Stack (H, W, 3) images to (B, 3, H, W) uint8, channels last in memory: no copy."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _labels(labels: Sequence[Image]) -> Tensor:
    return torch.from_numpy(np.stack(labels))


def _labelled_on(batch: Labelled, device: torch.device) -> Labelled:
    label = batch.label.to(device, non_blocking=True).long()
    return Labelled(_floats_on(batch.image, device), label)


def _unlabelled_on(batch: Unlabelled, device: torch.device) -> Unlabelled:
    image = _floats_on(batch.image, device)
    if batch.plain is batch.image:
        return Unlabelled(image, image)
    return Unlabelled(image, _floats_on(batch.plain, device))


def _floats_on(image: Tensor, device: torch.device) -> Tensor:
    return image.to(device, non_blocking=True).float().div_(255)


def _begin_worker(_: int) -> None:
    """A loader process uses one core, and leaves signals to the process that it serves.

    Ctrl-C and a scheduler's SIGTERM reach the whole process group; were the loaders to die of them,
    the run could not finish its step and save.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
