"""Step-addressed loading: every sample is a function of (seed, stage, step, slot).

Neither the number of processes nor the number of loader workers changes which images a step sees or
how they are augmented, so a resumed run is the run. Knows files and crops, not networks.
"""

import atexit
import ctypes
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from cag_uda.data.files.resizing import Image
from cag_uda.data.loading.augment import Crop, choose_crop, photometric
from cag_uda.data.loading.batches import on_device, stack_images, stack_labels
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages, read_or_next
from cag_uda.data.loading.rare_classes import RareClasses, crop_showing, crop_with_labels
from cag_uda.errors import RunError, UserError
from cag_uda.types import Batch, Labelled, Unlabelled

_PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl that sets the signal which a process gets when its parent dies."""


@dataclass(frozen=True)
class Shard:
    """This process's part of the work."""

    rank: int = 0
    world_size: int = 1


def _any_crop(label: Image, draw: Callable[[], Crop]) -> Crop:
    return draw()


class _Chosen(NamedTuple):
    """The labelled image of a slot of the batch."""

    images: LabelledImages
    place: int
    crop: Callable[[Image, Callable[[], Crop]], Crop] = _any_crop
    """Draws a crop of the image, given its label."""

    @property
    def file(self) -> str:
        """Path of the image."""
        return str(self.images.path(self.place))


@dataclass(frozen=True)
class BatchSource(Dataset["Batch | UserError"]):
    """The batches of one stage, addressed by step.

    Slot s of the global batch takes its source image from domain s modulo the number of source
    domains, so that several sources have equal shares; each domain is gone through in a new random
    order every epoch, unless rare classes are to be shown more often: then a slot draws a class,
    and an image of the source domain that has it. Tensors come as uint8; `on_device` makes them
    what `Batch` documents.

    Args:
        sources: the labelled domains; where there is none, batches hold no source image.
        target: the unlabelled one.
        config: sizes and augmentation.
        seed: of the run.
        stage: number of the stage.
        shard: which slots of the global batch are this process's.
        labelled: images of the target whose labels may be trained on, if any; a step has
            `config.labelled_images` of them, gone through as a source's.
    """

    sources: Sequence[LabelledImages]
    target: UnlabelledImages
    config: LoadingConfig
    seed: int
    stage: int
    shard: Shard = Shard()
    labelled: LabelledImages | None = None

    def __getitem__(self, step: int) -> Batch | UserError:
        """Load this process's part of step `step`'s batch, or return the error that prevents it."""
        slots = self._own(range(self.config.batch_size))
        few = self._own(self._labelled_slots)
        try:
            source = self._crops(self._source_of, 0, step, slots) if self.sources else None
            unlabelled = [self._of_target(step, slot) for slot in slots]
            labelled = self._crops(self._labelled_of, 3, step, few) if few else None
        except UserError as error:
            # Returned, not raised: a loader process would wrap it into a traceback.
            return error
        plain = stack_images([x for _, x in unlabelled])
        image = plain if self.config.photometric == 0 else stack_images([x for x, _ in unlabelled])
        none = Labelled(plain[:0], plain[:0, 0])
        return Batch(none if source is None else source, Unlabelled(image, plain), labelled)

    def files(self, step: int) -> list[str]:
        """Return the images that step `step`'s whole batch is made of, those of all processes."""
        slots = range(self.config.batch_size)
        return [
            *(self._source_of(step, slot).file for slot in (slots if self.sources else ())),
            *(str(self.target.path(self._target_of(step, slot))) for slot in slots),
            *(self._labelled_of(step, slot).file for slot in self._labelled_slots),
        ]

    def _own(self, slots: range) -> range:
        """List this process's slots of the global batch."""
        share = len(slots) // self.shard.world_size
        return slots[self.shard.rank * share : (self.shard.rank + 1) * share]

    @property
    def _labelled_slots(self) -> range:
        """Slots of the labelled target images in the global batch."""
        return range(0 if self.labelled is None else self.config.labelled_images)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.stage, *key))

    def _in_turn(self, count: int, number: int, *stream: int) -> int:
        """Find sample `number` of `count` images, shown in a new random order every epoch."""
        epoch, place = divmod(number, count)
        return int(_permutation(count, (self.seed, self.stage, *stream, epoch))[place])

    def _source_of(self, step: int, slot: int) -> _Chosen:
        count = len(self.sources)
        domain, place = slot % count, slot // count
        images = self.sources[domain]
        if self.config.rare_class_temperature:
            train_id, index = self._rare_classes[domain].draw(self._rng(2, step, slot))
            return _Chosen(images, index, partial(crop_showing, train_id))
        share = len(range(domain, self.config.batch_size, count))
        return _Chosen(images, self._in_turn(len(images), step * share + place, 0, domain))

    @cached_property
    def _rare_classes(self) -> list[RareClasses]:
        """Give what each source is drawn by where rare classes are shown more often."""
        counts = (images.class_pixels(self.config) for images in self.sources)
        return [RareClasses.of(each, self.config.rare_class_temperature) for each in counts]

    def _target_of(self, step: int, slot: int) -> int:
        return self._in_turn(len(self.target), step * self.config.batch_size + slot, 1)

    def _labelled_of(self, step: int, slot: int) -> _Chosen:
        assert self.labelled is not None, "there are no slots for such images otherwise"
        number = step * self.config.labelled_images + slot
        return _Chosen(
            self.labelled, self._in_turn(len(self.labelled), number, 3), crop_with_labels
        )

    def _crops(
        self, choose: Callable[[int, int], _Chosen], stream: int, step: int, slots: range
    ) -> Labelled:
        """Load crops of labelled images and their labels, as 8-bit tensors."""
        images, labels = [], []
        for slot in slots:
            chosen, rng = choose(step, slot), self._rng(stream, step, slot)
            image, label = read_or_next(chosen.images, chosen.place, self.config)
            crop = chosen.crop(label, partial(choose_crop, label.shape, self.config, rng))
            images.append(photometric(crop.of_image(image), self.config.photometric, rng))
            labels.append(crop.of_label(label))
        return Labelled(stack_images(images), stack_labels(labels))

    def _of_target(self, step: int, slot: int) -> tuple[Image, Image]:
        """Crop a target image, with photometric augmentation and without."""
        rng = self._rng(1, step, slot)
        image = read_or_next(self.target, self._target_of(step, slot), self.config)
        plain = choose_crop(image.shape[:2], self.config, rng).of_image(image)
        return photometric(plain, self.config.photometric, rng), plain


def load_batches(
    source: BatchSource, steps: range, device: torch.device
) -> Generator[Batch, None, None]:
    """Load the batches of some steps, in order and ahead of their use, in worker processes.

    Yields:
        Batches as their type documents, on the device.

    Raises:
        DataError: when the step with an unreadable image is reached.
    """
    workers = source.config.workers
    others = set(multiprocessing.active_children())
    loader: DataLoader[Batch | UserError] = DataLoader(
        source,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=3 if workers else None,
        worker_init_fn=_begin_worker,
    )
    batches = iter(loader)
    end = partial(_end_loaders, set(multiprocessing.active_children()) - others)
    atexit.register(end)
    try:
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield on_device(batch, device)
    except GeneratorExit:
        # Closed before its end: what is being loaded is not waited for.
        end()
        raise
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(
            "a loader process died, probably for want of memory; set loading.workers lower, or "
            "loading.batch_size, and go on with --resume"
        ) from error


def _end_loaders(loaders: Iterable[BaseProcess]) -> None:
    """End loader processes at once: they ignore the signal by which Python would."""
    is_main = threading.current_thread() is threading.main_thread()
    # torch's own would raise an error for each of them.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if is_main else None
    for loader in loaders:
        loader.kill()
        loader.join()
    if is_main:
        signal.signal(signal.SIGCHLD, handler)


@lru_cache(maxsize=16)
def _permutation(count: int, key: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.default_rng(key).permutation(count)


def _begin_worker(_: int) -> None:
    """Let a loader process use one core, and live as long as the process that it serves.

    Ctrl-C and a scheduler's SIGTERM reach the whole process group; were the loaders to die of them,
    the run could not finish its step and save. Were they to outlive it, its connections to other
    processes would stay open, and these would wait.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
