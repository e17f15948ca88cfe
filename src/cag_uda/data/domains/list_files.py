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
from cag_uda.data.files.patterns import IMAGE_EXTENSIONS, composed, endings, outside_problem
from cag_uda.data.files.toml import text_of
from cag_uda.errors import DataError

_ABSOLUTE = re.compile(r"^(/|[A-Za-z]:[\\/])")
_COLUMNS = re.compile(r"[\s,;]+")
_QUOTED = re.compile(r"\"([^\"]*)\"")
_HEADER = re.compile(r"(image|img|label|mask|annotation|gt|seg)?s?[_-]?(file)?_?(name|path|id)?s?")


def listed_keys(keys: list[str], path: Path, where: str) -> dict[str, str | None]:
    """Read the keys of a split that a list file names, and the labels that it gives them.

    Returns:
        Key that is named → its second column, None where there is none; in the order of `keys`.

    Raises:
        DataError: beginning with `where`, if the list cannot be read, names no image, or one that
            is not there.
    """
    by_ending: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        for ending in endings(key):
            by_ending[ending].append(key)
    labels: dict[str, str | None] = {}
    problems = []
    for place, line in enumerate(_lines(path)):
        try:
            key, label = _named(line, by_ending)
        except ValueError as error:
            if place or not _is_header(line):
                problems.append(str(error))
        else:
            labels[key] = label or labels.get(key)
    if problems:
        raise DataError(
            f"{where}: {len(problems)} lines of {path} cannot be followed: {first_of(problems)}; "
            "want one image a line, as a path below the root, perhaps its label in a second column"
        )
    if not labels:
        raise DataError(
            f"{where}: the list {path} names no image; write one a line, or leave it out"
        )
    return {key: labels[key] for key in keys if key in labels}


def first_columns(path: Path) -> list[str]:
    """Read a list's first column, but for a line that names columns. Raises DataError."""
    lines = _lines(path)
    header = len(lines) > 1 and _is_header(lines[0])
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


def _named(line: str, by_ending: dict[str, list[str]]) -> tuple[str, str | None]:
    """Read the key that a line names, and its label. Raises ValueError, saying what is wrong."""
    columns = _COLUMNS.split(line)
    try:
        return _key_of(line, by_ending), None
    except ValueError:
        if len(columns) == 1:
            raise
    if re.fullmatch(r"[+-]?\d+", columns[1]):
        raise ValueError(f"{line!r} has a number in its second column: name the images alone")
    return _key_of(columns[0], by_ending), columns[1]


def _key_of(entry: str, by_ending: dict[str, list[str]]) -> str:
    """Find the key that an entry names. Raises ValueError, saying why there is not one."""
    exact = composed(entry).replace("\\", "/").removeprefix("./")
    if _ABSOLUTE.match(entry):
        for ending in endings(exact)[1:]:
            named = _with_or_without_extension(ending, by_ending)
            if len(named) == 1:
                return named[0]
        raise ValueError(f"{entry!r} is no image of the split")
    if problem := outside_problem(entry):
        raise ValueError(problem)
    named = _with_or_without_extension(exact, by_ending)
    stem = os.path.splitext(exact)[0]
    whole = [key for key in named if composed(key) in (exact, stem)]
    if len(whole or named) == 1:
        return (whole or named)[0]
    what = f"is the end of {len(named)} paths" if named else "is no image of the split"
    raise ValueError(f"{entry!r} {what}")


def _with_or_without_extension(entry: str, by_ending: dict[str, list[str]]) -> list[str]:
    stem, extension = os.path.splitext(entry)
    is_image = extension.lower() in IMAGE_EXTENSIONS
    return by_ending.get(entry, []) or (by_ending.get(stem, []) if is_image else [])


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
