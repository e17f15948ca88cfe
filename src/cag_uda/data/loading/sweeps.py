"""Going through a whole split once, without augmentation: for anchors, margins and statistics."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import groupby, islice
from typing import TypeVar

import numpy as np
import torch

from cag_uda.data.files.ahead import ahead
from cag_uda.data.files.resizing import Image, resize_label, resize_to_width
from cag_uda.data.loading.batches import labelled_on, stack_images, stack_labels, unlabelled_on
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages, read_or_none
from cag_uda.data.loading.sampler import Shard
from cag_uda.types import Labelled, Unlabelled

T = TypeVar("T")


def sweep_source(
    images: LabelledImages, config: LoadingConfig, chunk: int, shard: Shard, device: torch.device
) -> Iterator[Labelled]:
    """Go through this process's share of a labelled split once, without augmentation.

    Args:
        images: the split.
        config: its `width_px` is the width to which images are resized, aspect ratio kept; labels
            follow. Its `sweep_images` says how many are visited, its `on_unreadable` whether
            unreadable images are left out.
        chunk: images at a time; consecutive ones of one size share a batch.
        shard: every `world_size`-th chunk is this process's.
        device: where the batches shall be.

    Raises:
        DataError: for an unreadable image or label.
    """

    def read(index: int) -> tuple[Image, Image] | None:
        pair = read_or_none(images, index, config)
        if pair is None:
            return None
        image = resize_to_width(pair[0], config.width_px)
        return image, resize_label(pair[1], *image.shape[:2])

    visited: Sequence[int] = range(len(images))
    if config.sweep_images is not None:  # Always the same ones.
        visited = np.random.default_rng(0).permutation(len(images))[: config.sweep_images].tolist()
    for pairs in _chunks(read, visited, chunk, shard):
        for _, group in groupby(pairs, key=lambda pair: pair[0].shape):
            image, label = zip(*group, strict=True)
            yield labelled_on(Labelled(stack_images(image), stack_labels(label)), device)


def sweep_target(
    images: UnlabelledImages, config: LoadingConfig, chunk: int, shard: Shard, device: torch.device
) -> Iterator[Unlabelled]:
    """Go through this process's share of an unlabelled split; arguments as `sweep_source`.

    All images are visited, in order.
    """

    def read(index: int) -> Image | None:
        image = read_or_none(images, index, config)
        return None if image is None else resize_to_width(image, config.width_px)

    for plain in _chunks(read, range(len(images)), chunk, shard):
        for _, group in groupby(plain, key=lambda image: image.shape):
            stack = stack_images(list(group))
            yield unlabelled_on(Unlabelled(stack, stack), device)


def _chunks(
    read: Callable[[int], T | None], visited: Sequence[int], chunk: int, shard: Shard
) -> Iterator[list[T]]:
    """Read ahead, chunk by chunk, what this process is to visit; `read` gives None for a gap.

    Which images share a chunk depends on neither the number of processes nor unreadable images.
    """
    starts = range(shard.rank * chunk, len(visited), shard.world_size * chunk)
    wanted = [index for start in starts for index in visited[start : start + chunk]]
    with closing(ahead(read, wanted, depth=2 * chunk)) as items:
        while items_of_chunk := list(islice(items, chunk)):
            yield [item for item in items_of_chunk if item is not None]
