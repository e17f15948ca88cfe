"""Map from the codes of a label image to classes.

A code is what a label image holds at a pixel: an id, or a colour packed as R·65536 + G·256 + B. One
table, indexed by the code, gives the train id. Knows codes and label spaces, opens no file.

Rules, from the `[labels]` table of a domain file:
    * `map` says which codes are which class, or "ignore".
    * Where `map` names no class (it is absent, or only says what to ignore), codes that it leaves
      out are what they are: ids are train ids and 255 is ignored; colours are those of the label
      space and black is ignored. So what `LabelSpace.colorize` painted is read back.
    * A `map` that names a class is complete: an id such as 0 must not become train id 0 because
      somebody forgot it. `other = "keep"` takes the codes that it leaves out as above.
    * With a `tolerance`, a code that is left is taken for the nearest that is not, if no channel
      differs by more: soft edges, traces of JPEG.
    * Any code that is left is `other` ("ignore" or a class), and without `other` it is an error.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.data.domains.schema_errors import did_you_mean
from cag_uda.data.files.decoding import Bytes, Codes
from cag_uda.types import IGNORE

ImageEncoding: TypeAlias = Literal["ids", "palette", "rgb", "channel", "npy"]
"""Encoding of an image's classes in a label file of its own."""

UNMAPPED = 254
"""Entry of the table for a code that no rule covers; label spaces have at most 254 classes."""

# A table of all colours is 16 MiB and is built in 4 ms; looking up 2 million pixels in it takes
# 3 ms, a binary search among 20 colours 45 ms.
_NUM_IDS = 1 << 16
_LARGEST_TOLERANCE = 64
_NUM_COLORS = 1 << 24


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Train id of every code of one encoding."""

    encoding: ImageEncoding
    table: Bytes
    """(number of codes,) uint8 train ids, IGNORE, or UNMAPPED."""
    tolerance: int = 0
    """Most that a channel of a code may differ from those of the nearest code that is covered."""
    other: int = UNMAPPED
    """Entry for codes that are not near enough; without a tolerance the table has it."""

    def apply(self, codes: Codes) -> Bytes:
        """Look up the codes (H, W) of every pixel, each below the length of the table.

        Returns:
            (H, W) uint8 train ids with IGNORE, and UNMAPPED where no rule covers the code.
        """
        if codes.dtype == np.uint8:
            label = np.asarray(cv2.LUT(codes, self.table[:256]), dtype=np.uint8)
        else:
            label = np.take(self.table, codes)
        return label if self.tolerance == 0 else self._with_nearest(codes, label)

    def approximated(self, codes: Codes) -> int:
        """Count the pixels that have a class only because of the tolerance."""
        if self.tolerance == 0:
            return 0
        before = np.take(self.table, codes) == UNMAPPED
        values, counts = np.unique(codes[before], return_counts=True)
        return int(counts[self._nearest(values)[1] <= self.tolerance].sum())

    def nearest_distance(self, unmapped: Collection[str]) -> int | None:
        """Find the tolerance that would cover codes as a domain file has them; None for none."""
        if not self._known.size or self.encoding not in ("ids", "rgb") or self.tolerance:
            return None
        codes = [_code(each, self.encoding) for each in unmapped]
        whole = np.array([code for code in codes if isinstance(code, int)], np.int64)
        largest = int(self._nearest(whole)[1].max()) if whole.size else _LARGEST_TOLERANCE + 1
        return largest if largest <= _LARGEST_TOLERANCE else None

    def covers_swapped(self, unmapped: Collection[str]) -> bool:
        """Tell whether colours, as domain files write them, are known with red and blue swapped."""
        if self.encoding != "rgb" or not unmapped:
            return False
        turned = [int(f"{each[5:7]}{each[3:5]}{each[1:3]}", 16) for each in unmapped]
        return all(self.table[code] not in (UNMAPPED, IGNORE) for code in turned)

    def _with_nearest(self, codes: Codes, label: Bytes) -> Bytes:
        is_open = label == UNMAPPED
        if not is_open.any():
            return label
        values, places = np.unique(codes[is_open], return_inverse=True)
        nearest, distance = self._nearest(values)
        found = np.where(distance <= self.tolerance, self.table[nearest], self.other)
        label[is_open] = found.astype(np.uint8)[places]
        return label

    @cached_property
    def _known(self) -> npt.NDArray[np.int64]:
        """Codes that the table covers."""
        return np.flatnonzero(self.table != UNMAPPED)

    def _nearest(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        return nearest_codes(values, self._known.tolist(), self.encoding)

    def unmapped(self, codes: Codes, label: Bytes) -> dict[str, int]:
        """List codes that no rule covers, as a domain file has them, and their pixels.

        Both are (H, W): the codes, and the label that `apply` gave for them.
        """
        outside = label == UNMAPPED
        if not outside.any():
            return {}
        values, counts = np.unique(codes[outside], return_counts=True)
        return {
            written_code(value, self.encoding): count
            for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        }


def nearest_codes(
    values: npt.NDArray[Any], known: Iterable[int], encoding: ImageEncoding
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find for each code the nearest of those known, and the largest difference of a channel."""
    asked = values.astype(np.int64)
    nearest, least = np.zeros(len(asked), np.int64), np.full(len(asked), 1 << 16)
    for code in known:
        difference = np.abs(asked - code)
        if encoding == "rgb":
            channels = [(asked >> s & 255) - (code >> s & 255) for s in (16, 8, 0)]
            difference = np.abs(np.stack(channels)).max(axis=0)
        is_nearer = difference < least
        nearest[is_nearer] = code
        least[is_nearer] = difference[is_nearer]
    return nearest, least


def build_label_map(
    encoding: ImageEncoding,
    entries: Mapping[str, Any],
    other: Any,
    space: LabelSpace,
    tolerance: int = 0,
) -> tuple[LabelMap, list[str]]:
    """Make the table of a domain's labels, by the rules of this module.

    Entries are those of `map`: code, as written, → train id, class name or "ignore".

    Returns:
        The map, and every problem of the entries; a map with problems is of no use.
    """
    problems: list[str] = []
    given: dict[int, int] = {}
    for written, value in entries.items():
        code = _code(written, encoding)
        train_id = train_id_of(value, space)
        if isinstance(code, str):
            problems.append(f"labels.map: {code}")
        if isinstance(train_id, str):
            problems.append(f"labels.map: {written} = {value!r}: {train_id}")
        if isinstance(code, int) and isinstance(train_id, int):
            if given.get(code, train_id) != train_id:
                problems.append(f"labels.map: {written!r} is mapped twice, to different classes")
            given[code] = train_id
    rest = UNMAPPED if other is None or other == "keep" else train_id_of(other, space)
    if isinstance(rest, str):
        problems.append(f"labels.other = {other!r}: {rest}, or 'keep'")
        rest = UNMAPPED
    names_a_class = any(train_id != IGNORE for train_id in given.values())
    size = _NUM_COLORS if encoding == "rgb" else _NUM_IDS
    table = np.full(size, UNMAPPED if tolerance else rest, dtype=np.uint8)
    if other == "keep" or not names_a_class:
        if encoding == "rgb" and not space.has_all_colors:
            problems.append(
                "labels.encoding = 'rgb' needs a color for every class of the label space, or a "
                "map from colours to classes"
            )
        table[0 if encoding == "rgb" else 255] = IGNORE
        for train_id, color in enumerate(space.palette.tolist()):
            table[packed(*color) if encoding == "rgb" else train_id] = train_id
    for code, train_id in given.items():
        table[code] = train_id
    return LabelMap(encoding, table, tolerance, rest), problems


def _code(written: str, encoding: ImageEncoding) -> int | str:
    """Return the code that a key of the map means, or what is wrong with it."""
    text = written.strip()
    if encoding == "rgb":
        if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
            return int(text[1:], 16)
        channels = re.fullmatch(r"(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})", text)
        if channels and max(values := [int(value) for value in channels.groups()]) <= 255:
            return packed(*values)
        return f"{written!r} is no colour; want 'R,G,B' of 0 to 255, or '#rrggbb'"
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) < _NUM_IDS:
        return int(text)
    return f"{written!r} is no id; want a whole number from 0 to {_NUM_IDS - 1}"


def packed(red: int, green: int, blue: int) -> int:
    """Turn a colour into a code."""
    return red << 16 | green << 8 | blue


def written_code(code: int, encoding: ImageEncoding) -> str:
    """Write a code as a domain file does."""
    return f"#{code:06x}" if encoding == "rgb" else str(code)


def train_id_of(value: Any, space: LabelSpace) -> int | str:
    """Return the train id that a value of the map means, or what is wrong with it."""
    if value == "ignore":
        return IGNORE
    if isinstance(value, str):
        if value in space.names:
            return space.names.index(value)
        hint = did_you_mean(value, (*space.names, "ignore"))
        return f"no class of {space.name}{hint or '; want a class name, a train id or ignore'}"
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < space.num_classes or value == IGNORE:
            return value
        return f"no train id of {space.name}; want 0 to {space.num_classes - 1}, or 'ignore'"
    return "want a class name, a train id or 'ignore'"
