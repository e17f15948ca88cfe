"""The images of a split, with or without their labels, and what is done about unreadable ones."""

import logging
from collections.abc import Callable, Collection
from copy import copy
from functools import cache, cached_property
from pathlib import Path
from typing import Protocol, TypeVar

from cag_uda.data.domains.domain import Domain, Item
from cag_uda.data.files.decoding import IF_UNREADABLE
from cag_uda.data.loading.augment import Image, resize_image, resize_label
from cag_uda.data.loading.class_pixels import Counts, class_pixels
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.decoded import DecodedImages
from cag_uda.errors import DataError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_MOST_REPLACED = 10
"""Unreadable images in a row that others may take the place of: more are no accident."""


class Images(Protocol[T_co]):
    """Images that can be read by number."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> T_co:
        """Read one. Raises DataError."""


class LabelledImages:
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
        self._domain, self._items, self._size_px = domain, tuple(domain.items(split)), size_px
        self._decoded = decoded
        self._counts: Counts | None = None
        unlabelled = [item.key for item in self._items if item.label is None]
        if unlabelled:
            raise DataError(
                f"split {split!r} of domain {domain.name!r} is learned from but has no labels; "
                f"give it a `labels` pattern, or name a labelled split"
            )

    def __len__(self) -> int:
        return len(self._items)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self._items[index].image

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
        """Pixels of each class in each label, (images, K), read once and kept in the cache.

        Args:
            config: whose `on_unreadable` is obeyed.
            note: told where it takes long.

        Raises:
            DataError: for an unreadable label.
        """
        if self._counts is None:

            def told(error: DataError) -> None:
                if config.on_unreadable == "stop":
                    raise error
                _warn_once(f"{error}; its classes are not counted")

            self._counts = class_pixels(self._domain, self._items, told, note)
        return self._counts

    def read(self, index: int) -> tuple[Image, Image]:
        """Image (H, W, 3) uint8 and label (H, W) uint8 train ids. Raises DataError."""
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


class UnlabelledImages:
    """The images of one split of a domain; whatever labels lie beside them are forgotten here.

    Args:
        domain: which.
        split: of it.
        decoded: where decoded images are kept; None decodes every time.
    """

    def __init__(self, domain: Domain, split: str, decoded: DecodedImages | None = None) -> None:
        self._domain, self._decoded = domain, decoded
        self._items: tuple[Item, ...] = tuple(domain.items(split, with_labels=False))
        self.reader = domain.images
        """Reads the photographs."""

    def __len__(self) -> int:
        return len(self._items)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self._items[index].image

    def read(self, index: int) -> Image:
        """Image (H, W, 3) uint8. Raises DataError."""
        item = self._items[index]
        if self._decoded is None:
            return self._domain.read_image(item)
        salt = self._domain.images.salt
        (image,) = self._decoded.read([item.image], salt, lambda: (self._domain.read_image(item),))
        return image


def read_or_next(images: Images[T], index: int, config: LoadingConfig) -> T:
    """Read an image, or the next readable one in its place where the configuration says so.

    Args:
        images: of one split.
        index: which.
        config: whose `on_unreadable` is obeyed.

    Raises:
        DataError: for an unreadable image, or for many of them in a row.
    """
    if config.on_unreadable == "stop":
        return _read_or_advise(images, index)
    problems: list[str] = []
    for offset in range(min(len(images), _MOST_REPLACED)):
        try:
            return images.read((index + offset) % len(images))
        except DataError as error:
            _warn_once(f"{error}; the image after it takes its place")
            problems += error.problems
    raise DataError(problems)


def read_or_none(images: Images[T], index: int, config: LoadingConfig) -> T | None:
    """Read an image, or give None where it is unreadable and the configuration says so.

    Raises:
        DataError: for an unreadable image.
    """
    if config.on_unreadable == "stop":
        return _read_or_advise(images, index)
    try:
        return images.read(index)
    except DataError as error:
        _warn_once(f"{error}; it is left out")
        return None


def _read_or_advise(images: Images[T], index: int) -> T:
    try:
        return images.read(index)
    except DataError as error:
        *others, last = error.problems
        raise DataError([*others, f"{last}; {IF_UNREADABLE}"]) from error


@cache
def _warn_once(text: str) -> None:
    logging.getLogger(__name__).warning(text)
