"""Read the files in which tools list the names and colours of classes.

labelmap.txt (CVAT, Pascal VOC), class_names.txt (labelme), classes.txt and codes.txt, label_colors
(CamVid), _classes.csv (Roboflow), class_dict.csv, data.yaml and *.names (YOLO).
"""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cag_uda.data.domains.label_map import packed
from cag_uda.data.files.toml import text_of
from cag_uda.errors import DataError

_LARGEST_BYTES = 1 << 20
_COLOUR_FIRST = re.compile(r"^(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})\s+(\S.*)$")


@dataclass(frozen=True)
class ClassNames:
    """Names and colours of classes, as a file gives them."""

    file: str
    """Its path below the root."""
    by_id: dict[int, str]
    """Name of each id, by id."""
    colours: dict[int, str]
    """Name by colour, R·65536 + G·256 + B; empty where the file tells none."""


def find_class_names(root: Path) -> ClassNames | None:
    """Read the file of class names that is nearest to the root; None if there is none."""
    found = [
        (len(path.relative_to(root).parts), place, path)
        for place, pattern in enumerate(_READERS)
        for path in sorted(root.rglob(pattern))
        if path.is_file() and path.stat().st_size <= _LARGEST_BYTES
    ]
    readers = list(_READERS.values())
    for _, place, path in sorted(found):
        try:
            by_id, colours = readers[place](text_of(path, "list of classes"))
        except (DataError, ValueError, LookupError, TypeError, AttributeError):
            continue  # It is a file of another kind.
        are_distinct = len(set(by_id.values())) == len(by_id)
        if by_id and are_distinct and all(map(_is_name, by_id.values())):
            return ClassNames(path.relative_to(root).as_posix(), by_id, colours)
    return None


_Found = tuple[dict[int, str], dict[int, str]]


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 80 and not name.isdigit() and "/" not in name


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]


def _labelmap(text: str) -> _Found:
    """Read `name:r,g,b:parts:actions`, one a line."""
    rows = [line.split(":") for line in _lines(text)]
    colours = {packed(*map(int, row[1].split(","))): row[0] for row in rows if row[1]}
    return dict(enumerate(row[0] for row in rows)), colours


def _plain(text: str) -> _Found:
    """Read one name a line, in the order of ids; labelme's `__ignore__` is -1."""
    return dict(enumerate(line for line in _lines(text) if line != "__ignore__")), {}


def _coloured(text: str) -> _Found:
    """Read `r g b name`, one a line, as CamVid has it."""
    colours = {}
    for line in _lines(text):
        match = _COLOUR_FIRST.match(line)
        if match is None:
            raise ValueError(line)
        colours[packed(int(match[1]), int(match[2]), int(match[3]))] = match[4].strip()
    return dict(enumerate(colours.values())), colours


def _table(text: str) -> _Found:
    """Read columns with a heading: name, r, g, b; or Roboflow's pixel value and class."""
    rows = list(csv.DictReader(_lines(text), skipinitialspace=True))
    keys = {key.strip().lower(): key for key in rows[0]}
    name_key = next(keys[key] for key in ("name", "class", "class name") if key in keys)
    colour_keys = [keys[key] for key in ("r", "g", "b") if key in keys]
    id_key = keys.get("pixel value") or keys.get("id")
    names, colours = {}, {}
    for number, row in enumerate(rows):
        name = row[name_key].strip()
        names[int(row[id_key]) if id_key else number] = name
        if len(colour_keys) == 3:
            colours[packed(*(int(row[key]) for key in colour_keys))] = name
    return names, colours


def _yaml(text: str) -> _Found:
    """Read `names` of a YOLO data set, a list or ids with names."""
    import yaml

    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError("no YAML") from error
    names = content["names"] if isinstance(content, dict) else {}
    pairs = enumerate(names) if isinstance(names, list) else names.items()
    return {int(number): str(name) for number, name in pairs}, {}


_READERS: dict[str, Callable[[str], _Found]] = {
    "labelmap.txt": _labelmap,
    "label_colors.txt": _coloured,
    **dict.fromkeys(("class_names.txt", "classes.txt", "codes.txt"), _plain),
    **dict.fromkeys(("label_names.txt", "labels.txt"), _plain),
    **dict.fromkeys(("_classes.csv", "class_dict.csv", "classes.csv"), _table),
    **dict.fromkeys(("*.yaml", "*.yml"), _yaml),
    "*.names": _plain,
}
"""Reader of each pattern of file names, the likeliest first."""
