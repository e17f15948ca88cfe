"""Counts of each class's pixels in every image of a split: made once, then kept in the cache.

Knows labels; not what the counts are for.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cag_uda.data.domains.domain import Domain, Item
from cag_uda.data.domains.label_reader import LabelReader
from cag_uda.data.files.ahead import ahead
from cag_uda.data.files.cache import cache_folder, keep_array, kept_array
from cag_uda.errors import DataError

Counts: TypeAlias = NDArray[np.int64]
_FORMAT = 1
_READ_AHEAD = 16


def class_pixels(
    domain: Domain,
    items: Sequence[Item],
    on_unreadable: Callable[[DataError], None],
    note: Callable[[str], None],
) -> Counts:
    """Count the pixels of each class in each label, at the labels' own sizes.

    What was counted is kept below the cache folder and taken from there, until a label or the
    domain's classes change. Where that folder cannot be written, counts are made every time.

    Args:
        domain: with a label space.
        items: of one split, each with a label.
        on_unreadable: told of a label that cannot be read; if it does not raise, that label has no
            pixel.
        note: told before all labels are read, which takes long.

    Returns:
        (images, K) int64.

    Raises:
        DataError: for a domain without a label space, or what `on_unreadable` raises.
    """
    if domain.label_space is None or domain.labels is None:
        raise DataError(f"domain {domain.name!r} has no label space to count the classes of")
    classes = domain.label_space.num_classes
    place = cache_folder() / "class-pixels" / f"{_digest(domain.labels, classes, items)}.npy"
    kept = kept_array(place)
    if kept is not None and kept.shape == (len(items), classes) and kept.dtype == np.int64:
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
        if isinstance(row, DataError):
            on_unreadable(row)
            is_whole = False
        else:
            counts[index] = row
    if is_whole:
        keep_array(place, counts, "classes are counted again every time")
    return counts


def _digest(reader: LabelReader, classes: int, items: Sequence[Item]) -> str:
    """Digest what the counts depend on: classes, codes, and which label files there are."""
    digest = sha256(f"{_FORMAT} {classes} {len(items)}".encode())
    digest.update(f"{reader.label_map.encoding} {reader.channel}".encode())
    digest.update(reader.label_map.table.tobytes())
    for item in items:
        digest.update(f"{item.label}\n".encode())
        with suppress(OSError):  # What is not there is told of when it is read.
            state = Path(item.label or "").stat()
            digest.update(f"{state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]
