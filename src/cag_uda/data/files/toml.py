"""Text and TOML as editors on any system save them, with messages that show the mend."""

import re
import tomllib
from pathlib import Path
from typing import Any

from cag_uda.errors import DataError

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LINE = re.compile(r"at line (\d+)")


def text_of(path: Path, what: str) -> str:
    """Read a text in UTF-8, with or without byte order mark, or in UTF-16 with one.

    Raises DataError if it cannot be read or has another encoding; `what` names the kind of file.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path.
        why = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the {what} {path}: {why}") from error
    encoding = "utf-16" if data.startswith(_UTF16_MARKS) else "utf-8-sig"
    try:
        return data.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text; save the {what} as UTF-8") from error


def parse_toml(text: str, shown_as: str) -> dict[str, Any]:
    """Read TOML. Raises DataError, with what to write where a Windows path is the cause."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{shown_as} is no TOML: {error}{_advice(text, str(error))}") from error
    except RecursionError as error:
        raise DataError(f"{shown_as} is no TOML to read: it is nested too deep") from error
    except ValueError as error:  # Of a number of thousands of digits.
        raise DataError(f"{shown_as} holds a number that is too long: {error}") from error


def _advice(text: str, problem: str) -> str:
    found, lines = _LINE.search(problem), text.splitlines()
    if found is None or int(found[1]) > len(lines):
        return ""
    line = lines[int(found[1]) - 1]
    quoted = re.search(r'"([^"]*\\[^"]*)"', line)
    if quoted is None:
        return ""
    return (
        f"; write paths with / or in single quotes: {line[: quoted.start()].strip()} '{quoted[1]}'"
    )
