"""Reading the JSON of annotation tools: what is not as it should be becomes one clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cag_uda.errors import DataError

T = TypeVar("T")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged or no JSON: {error}") from error


def understood(path: Path, what: str, make: Callable[[Any], T]) -> T:
    """Read a JSON file and make something of it.

    Args:
        path: of the file.
        what: it should be, for messages.
        make: is given the content.

    Raises:
        DataError: if the content is not of that form.
    """
    content = read_json(path)
    try:
        return make(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path} is no {what}: {type(error).__name__}: {error}; is `encoding` in [labels] the "
            "right one?"
        ) from error
