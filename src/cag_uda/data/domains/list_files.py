"""Text files that list the images of a split, as data sets and tools write them.

One image a line, as a path or the end of one, with or without extension; perhaps its label in a
second column. Tables in CSV are such lists: names may be quoted, and columns may have names.
Absolute paths are of the machine that wrote the list: their ends count.
"""

import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

from cag_uda.data.domains.placement import first_of
from cag_uda.data.files.patterns import IMAGE_EXTENSIONS, composed, outside_problem
from cag_uda.data.files.toml import text_of
from cag_uda.errors import DataError

_ABSOLUTE = re.compile(r"^(/|[A-Za-z]:[\\/])")
_COLUMNS = re.compile(r"[\s,;]+")
_QUOTED = re.compile(r"\"([^\"]*)\"")
_HEADER = re.compile(r"(image|img|label|mask|annotation|gt|seg)?s?[_-]?(file)?_?(name|path|id)?s?")


def listed_keys(
    keys: list[str], root: Path, path: Path, where: str
) -> tuple[list[str], dict[str, str]]:
    """The keys that a list file names, and the labels that it gives to them.

    Args:
        keys: of all images of the split.
        root: of the domain.
        path: of the list.
        where: domain and split, for messages.

    Returns:
        The keys that are named, in the order of `keys`; key → second column, where there is one.

    Raises:
        DataError: if the list cannot be read, names no image, or one that is not there.
    """
    by_ending: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        parts = composed(key).split("/")
        for start in range(len(parts)):
            by_ending["/".join(parts[start:])].append(key)
    kept: set[str] = set()
    labels: dict[str, str] = {}
    problems = []
    for place, line in enumerate(_lines(path)):
        named, label = _named(line, by_ending)
        if isinstance(named, str):
            if place == 0 and _is_header(line):
                continue
            problems.append(named)
            continue
        kept.add(named[0])
        if label is not None:
            labels[named[0]] = label
    if problems:
        raise DataError(
            f"{where}: {len(problems)} lines of {path} cannot be followed: {first_of(problems)}; "
            "want one image a line, as a path below the root, perhaps its label in a second column"
        )
    if not kept:
        raise DataError(
            f"{where}: the list {path} names no image; write one a line, or leave it out"
        )
    return [key for key in keys if key in kept], labels


def first_columns(path: Path) -> list[str]:
    """Read what a list names in its first column, but for a line that names columns.

    Raises:
        DataError: if it cannot be read.
    """
    lines = _lines(path)
    header = bool(lines) and len(lines) > 1 and _is_header(lines[0])
    return [_COLUMNS.split(line)[0].replace("\\", "/") for line in lines[header:]]


def is_named(path: Path | None, written: str) -> bool:
    """Tell whether a path ends as a list writes it, with or without extension."""
    if path is None:
        return False
    parts, wanted = (
        PurePosixPath(composed(str(each)).replace("\\", "/")).with_suffix("").parts
        for each in (path, written)
    )
    count = 1 if _ABSOLUTE.match(written) else len(wanted)
    return parts[-count:] == wanted[-count:]


def _named(line: str, by_ending: dict[str, list[str]]) -> tuple[list[str] | str, str | None]:
    """The one key that a line names and its label, or what is wrong with the line."""
    whole = _keys_of(line, by_ending)
    if isinstance(whole, list):
        return whole, None
    columns = _COLUMNS.split(line)
    if len(columns) == 1:
        return whole, None
    if re.fullmatch(r"[+-]?\d+", columns[1]):
        return f"{line!r} has a number in its second column: name the images alone", None
    first = _keys_of(columns[0], by_ending)
    return first, columns[1]


def _keys_of(entry: str, by_ending: dict[str, list[str]]) -> list[str] | str:
    exact = composed(entry).replace("\\", "/").removeprefix("./")
    if _ABSOLUTE.match(entry):
        parts = [part for part in exact.split("/") if part]
        endings = ["/".join(parts[start:]) for start in range(1, len(parts))] + [parts[-1]]
        for ending in endings:
            named = _with_or_without_extension(ending, by_ending)
            if len(named) == 1:
                return named
        return f"{entry!r} is no image of the split"
    if problem := outside_problem(entry):
        return problem
    named = _with_or_without_extension(exact, by_ending)
    stem = os.path.splitext(exact)[0]
    whole = [key for key in named if composed(key) in (exact, stem)]
    if len(whole or named) == 1:
        return whole or named
    what = f"is the end of {len(named)} paths" if named else "is no image of the split"
    return f"{entry!r} {what}"


def _with_or_without_extension(entry: str, by_ending: dict[str, list[str]]) -> list[str]:
    named = by_ending.get(entry, [])
    stem, extension = os.path.splitext(entry)
    if not named and extension.lower() in IMAGE_EXTENSIONS:
        named = by_ending.get(stem, [])
    return named


def _lines(path: Path) -> list[str]:
    try:
        text = text_of(path, "list")
    except DataError as error:
        raise DataError(f"{error}; give a text file below the root") from error
    lines = [_QUOTED.sub(r"\1", line).strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _is_header(line: str) -> bool:
    """Tell whether a line names the columns of a table, as CSV files do."""
    return all(_HEADER.fullmatch(column) for column in _COLUMNS.split(line.lower()))
