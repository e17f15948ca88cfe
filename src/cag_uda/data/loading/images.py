"""The images of a split, with or without their labels, and what is done about unreadable ones."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cag_uda.data.domains.domain import Domain, Item
from cag_uda.data.files.ahead import ahead
from cag_uda.data.files.cache import cache_entry, keep_array, kept_array, warn_once
from cag_uda.data.files.decoding import IF_UNREADABLE
from cag_uda.data.files.resizing import Image, resize_image, resize_label
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.decoded import DecodedImages
from cag_uda.errors import DataError

T = TypeVar("T")
Counts: TypeAlias = NDArray[np.int64]
"""(images, K) pixels of each class in each image."""

_MOST_REPLACED = 10
"""Unreadable images in a row that others may take the place of: more are no accident."""
_READ_AHEAD = 16


class Images(ABC, Generic[T]):
    """The images of one split of a domain, which can be read by number."""

    def __init__(
        self, domain: Domain, items: Sequence[Item], decoded: DecodedImages | None
    ) -> None:
        self._domain, self._items, self._decoded = domain, tuple(items), decoded

    def __len__(self) -> int:
        return len(self._items)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self._items[index].image

    @abstractmethod
    def read(self, index: int) -> T:
        """Read one. Raises DataError."""


class LabelledImages(Images[tuple[Image, Image]]):
    """The labelled images of one split of a domain.

    Args:
        domain: which.
        split: of it.
        size_px: height and width to which images and labels are resized, whatever their aspect
            ratio; None leaves them as they are.
        decoded: where decoded images are kept; None decodes every time.

    Raises:
        DataError: if an image has no label.
    """

    def __init__(
        self,
        domain: Domain,
        split: str,
        size_px: tuple[int, int] | None = None,
        decoded: DecodedImages | None = None,
    ) -> None:
        super().__init__(domain, domain.items(split), decoded)
        self._size_px = size_px
        self._counts: Counts | None = None
        if any(item.label is None for item in self._items):
            raise DataError(
                f"split {split!r} of domain {domain.name!r} is learned from but has no labels; "
                f"give it a `labels` pattern, or name a labelled split"
            )

    def paths(self) -> list[Path]:
        """Return the paths of the images."""
        return [item.image for item in self._items]

    def apart_from(self, images: Collection[Path]) -> "LabelledImages":
        """Return the images without the given ones."""
        rest = copy(self)
        rest._items = tuple(item for item in self._items if item.image not in images)
        rest._counts = None
        return rest

    def class_pixels(
        self, config: LoadingConfig, note: Callable[[str], None] = lambda text: None
    ) -> Counts:
        """Count the pixels of each class in each label, at the labels' own sizes.

        Counts are kept in the cache until a label or the domain's classes change; if it cannot be
        written, labels are counted every time. `note` is told before all labels are read, which
        takes long. An unreadable label raises DataError or, if `config` says "skip", has no pixels.
        """
        if self._counts is None:
            self._counts = self._kept_counts(config, note)
        return self._counts

    def _kept_counts(self, config: LoadingConfig, note: Callable[[str], None]) -> Counts:
        domain, items = self._domain, self._items
        classes = domain.num_classes
        labels = [item.label for item in items if item.label is not None]
        place = cache_entry("class-pixels", ".npy", f"{classes} {self._reading}", labels)
        kept = kept_array(place)
        if kept is not None:
            return kept
        note(f"counting the classes of {len(items)} labels of {domain.name}, once: counts are kept")

        def count(item: Item) -> Counts | DataError:
            try:
                label = domain.read_label(item)
            except DataError as error:
                return error
            return np.bincount(label.ravel(), minlength=256)[:classes]

        counts, is_whole = np.zeros((len(items), classes), np.int64), True
        for index, row in enumerate(ahead(count, items, depth=_READ_AHEAD)):
            if not isinstance(row, DataError):
                counts[index] = row
                continue
            if config.on_unreadable == "stop":
                raise row
            warn_once(f"{row}; its classes are not counted")
            is_whole = False
        if is_whole:
            keep_array(place, counts, "classes are counted again every time")
        return counts

    def read(self, index: int) -> tuple[Image, Image]:
        """Read image (H, W, 3) uint8 and label (H, W) uint8 train ids. Raises DataError."""
        item = self._items[index]
        if self._decoded is None or item.label is None:
            return self._decode(item)
        paths, salt = (item.image, item.label), f"{self._reading} {self._size_px}"
        image, label = self._decoded.read(paths, salt, lambda: self._decode(item))
        return image, label

    def _decode(self, item: Item) -> tuple[Image, Image]:
        image, label = self._domain.read_pair(item)
        if self._size_px is None:
            return image, label
        return resize_image(image, *self._size_px), resize_label(label, *self._size_px)

    @cached_property
    def _reading(self) -> str:
        """All that images and labels are read by, besides their files."""
        labels = "" if self._domain.labels is None else self._domain.labels.digest()
        return f"{self._domain.images.salt} {labels}"


class UnlabelledImages(Images[Image]):
    """The images of one split of a domain; whatever labels lie beside them are forgotten here.

    The arguments are as those of `LabelledImages`.
    """

    def __init__(self, domain: Domain, split: str, decoded: DecodedImages | None = None) -> None:
        super().__init__(domain, domain.items(split, with_labels=False), decoded)
        self.reader = domain.images
        """Reads the photographs."""

    def read(self, index: int) -> Image:
        """Read an image (H, W, 3) uint8. Raises DataError."""
        item = self._items[index]
        if self._decoded is None:
            return self._domain.read_image(item)
        salt = self.reader.salt
        (image,) = self._decoded.read([item.image], salt, lambda: (self._domain.read_image(item),))
        return image


def read_or_next(images: Images[T], index: int, config: LoadingConfig) -> T:
    """Read an image, or the next readable one in its place where the configuration says so.

    Raises DataError for an unreadable image, or for many of them in a row.
    """
    problems: list[str] = []
    for offset in range(min(len(images), _MOST_REPLACED)):
        try:
            return images.read((index + offset) % len(images))
        except DataError as error:
            _skip(error, config, "the image after it takes its place")
            problems += error.problems
    raise DataError(problems)


def read_or_none(images: Images[T], index: int, config: LoadingConfig) -> T | None:
    """Read an image, or give None where it is unreadable and the configuration says so.

    Raises DataError for an unreadable image.
    """
    try:
        return images.read(index)
    except DataError as error:
        _skip(error, config, "it is left out")
        return None


def _skip(error: DataError, config: LoadingConfig, what_happens: str) -> None:
    """Warn of an unreadable image that is passed over; stop at it where that is configured."""
    if config.on_unreadable == "stop":
        *others, last = error.problems
        raise DataError([*others, f"{last}; {IF_UNREADABLE}"]) from error
    warn_once(f"{error}; {what_happens}")
