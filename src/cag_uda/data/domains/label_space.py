"""Label spaces: the classes of a domain, their colours and their ids on a test server.

Knows names, colours and train ids; no file of a data set, no network and no metric.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, StrictInt, ValidationError, field_validator

from cag_uda.data.domains.builtin import label_space_files
from cag_uda.data.domains.schema_errors import did_you_mean, problems_of
from cag_uda.errors import DataError
from cag_uda.types import Config

MAX_CLASSES = 254
"""Labels are 8-bit: 255 is IGNORE and 254 marks, inside the reader, an id that no rule covers."""

RESERVED_NAMES = ("ignore", "keep")
"""Words of the label map that can be no class."""

Byte = Annotated[StrictInt, Field(ge=0, le=255)]
_HEX = re.compile(r"#([0-9a-fA-F]{6})")
_HexText = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


def _from_hex(value: object) -> object:
    """Write a colour of three numbers as the label map has its keys, "#rrggbb"."""
    found = _HEX.fullmatch(value) if isinstance(value, str) else None
    return tuple(bytes.fromhex(found[1])) if found else value


Color = Annotated[
    tuple[Byte, Byte, Byte],
    BeforeValidator(_from_hex, json_schema_input_type=tuple[Byte, Byte, Byte] | _HexText),
]
"""8-bit RGB, as three numbers or as "#rrggbb"."""


class LabelClass(Config):
    """One class of a label space; its place in the list is its train id."""

    name: Annotated[str, Field(min_length=1)]
    """The word that maps, tables and reports use."""
    color: Color | None = None
    """8-bit RGB, as [r, g, b] or "#rrggbb"; a class without one gets a colour of the PASCAL VOC
    colour map."""
    label_id: Byte | None = None
    """Id in the data set's own label images, which its test server wants back."""

    @field_validator("name")
    @classmethod
    def _is_a_word(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(f"{name!r} has a meaning in label maps and cannot name a class")
        if name != name.strip() or name.isdigit():
            raise ValueError(f"{name!r} cannot name a class: want a word, not a number or a blank")
        return name


class LabelSpace(Config):
    """An ordered list of classes. Train id k is the k-th class; IGNORE is no class.

    Build one with `load` (built-in name) or `from_dict`; both raise DataError for bad input.
    """

    name: Annotated[str, Field(min_length=1)]
    classes: Annotated[tuple[LabelClass, ...], Field(min_length=1, max_length=MAX_CLASSES)]

    @field_validator("classes")
    @classmethod
    def _are_distinct(cls, classes: tuple[LabelClass, ...]) -> tuple[LabelClass, ...]:
        """Refuse classes that share a name, colour or id, and ids for some classes only."""
        problems = []
        for what, values in (
            ("name", [entry.name for entry in classes]),
            ("color", [entry.color for entry in classes if entry.color is not None]),
            ("label_id", [entry.label_id for entry in classes if entry.label_id is not None]),
        ):
            twice = [value for value, count in Counter(values).items() if count > 1]
            problems += [f"{what} {value!r} is given to more than one class" for value in twice]
        if len({entry.label_id is None for entry in classes}) > 1:
            problems.append("give every class a label_id, or none")
        if problems:
            raise ValueError("; ".join(problems))
        return classes

    @classmethod
    def load(cls, name: str) -> "LabelSpace":
        """Open a built-in label space. Raises DataError, naming those there are."""
        known = label_space_files()
        if name not in known:
            raise DataError(
                f"no built-in label space {name!r}{did_you_mean(name, known)}"
                f" (there are: {', '.join(known)}); or list your own under [[classes]]"
            )
        return cls.from_dict(tomllib.loads(known[name].read_text(encoding="utf-8")))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "LabelSpace":
        """Rebuild what `to_dict` gave, for example from a model's config.

        Raises DataError, naming every field that is not as it should be.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise DataError(
                [f"label space: {problem}" for problem in problems_of(error, cls)]
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Give plain lists, strings and numbers, for JSON or TOML."""
        return self.model_dump(mode="json", exclude_none=True)

    def only(self, names: Collection[str]) -> "LabelSpace":
        """Return the label space of some of the classes, in the order of this one; itself for all.

        Raises DataError for a name that is no class of it.
        """
        if unknown := [name for name in names if name not in self.names]:
            raise DataError(
                [
                    f"label space {self.name} has no class {name!r}"
                    f"{did_you_mean(name, self.names)}; it has {', '.join(self.names)}"
                    for name in unknown
                ]
            )
        kept = tuple(entry for entry in self.classes if entry.name in names)
        if len(kept) == self.num_classes:
            return self
        return LabelSpace(name=f"{len(kept)} of {self.name}", classes=kept)

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of train ids."""
        return tuple(entry.name for entry in self.classes)

    @cached_property
    def palette(self) -> npt.NDArray[np.uint8]:
        """(K, 3) uint8 RGB, the colour of each class; read only."""
        given = {entry.color for entry in self.classes}
        free = (color for color in _voc_colors() if color not in given)
        colors = [entry.color or next(free) for entry in self.classes]
        palette = np.array(colors, dtype=np.uint8)
        palette.setflags(write=False)
        return palette

    @property
    def has_all_colors(self) -> bool:
        """True if every class was given a colour, so that colour images can be read back."""
        return all(entry.color is not None for entry in self.classes)

    @cached_property
    def label_ids(self) -> npt.NDArray[np.uint8] | None:
        """(K,) uint8, the data set's own id of each class, or None where it has none; read only."""
        ids = [entry.label_id for entry in self.classes if entry.label_id is not None]
        if not ids:
            return None
        array = np.array(ids, dtype=np.uint8)
        array.setflags(write=False)
        return array

    def colorize(self, label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Paint a label image (H, W) of uint8 train ids.

        Returns:
            (H, W, 3) uint8 RGB; black where the label is IGNORE or no class of this space.
        """
        return np.take(self._colors_of_bytes, label, axis=0)

    @cached_property
    def _colors_of_bytes(self) -> npt.NDArray[np.uint8]:
        colors = np.zeros((256, 3), dtype=np.uint8)
        colors[: self.num_classes] = self.palette
        return colors


def _voc_colors() -> Iterator[tuple[int, int, int]]:
    """List distinct colours, most unlike first, black left out.

    Source: the colour map of the PASCAL VOC development kit (VOClabelcolormap.m).
    """
    for index in range(1, 256):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        yield channels[0], channels[1], channels[2]
