"""Reading the JSON of annotation tools: what is not as it should be becomes one clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cag_uda.errors import DataError

T = TypeVar("T")


def understood(path: Path, what: str, make: Callable[[Any], T]) -> T:
    """Read a JSON file and make something of its content.

    Raises DataError if it cannot be read, or `make` fails; `what` names the form that was expected.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no JSON.
        raise DataError(f"{path} is damaged or no JSON: {error}") from error
    try:
        return make(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path} is no {what}: {type(error).__name__}: {error}; is `encoding` in [labels] the "
            "right one?"
        ) from error
