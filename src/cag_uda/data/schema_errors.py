"""What pydantic found wrong with a table, as lines that a user can act on.

Knows pydantic models in general, and no particular one.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each thing wrong: where it stands, what was got, what was wanted.

    Args:
        error: what `model.model_validate` raised.
        model: the model that was validated; its field names are suggested for misspelt keys.
    """
    return [_problem(detail, model) for detail in error.errors()]


def is_only_unknown_keys(error: ValidationError) -> bool:
    """Whether everything known was right, so that the known part can be looked at further."""
    return all(detail["type"] == "extra_forbidden" for detail in error.errors())


def did_you_mean(word: str, known: tuple[str, ...]) -> str:
    """`; did you mean 'x'?` for the nearest of the known words, or nothing."""
    close = get_close_matches(word, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


def _problem(detail: Any, model: type[BaseModel]) -> str:
    location = tuple(detail["loc"])
    where = ".".join(str(part) for part in location) or "the file"
    if detail["type"] == "extra_forbidden":
        known = tuple(
            field.alias or name for name, field in _model_at(model, location[:-1]).items()
        )
        key = str(location[-1])
        hint = did_you_mean(key, known) or f"; known keys: {', '.join(known)}"
        return f"{where}: unknown key{hint}"
    if detail["type"] == "missing":
        return f"{where}: missing"
    message = detail["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "should be").replace("tuple", "list")
    got = "" if detail["type"] == "value_error" else f"; got {detail['input']!r}"
    return f"{where}: {message}{got}"


def _model_at(model: type[BaseModel], location: tuple[str | int, ...]) -> dict[str, Any]:
    """Fields of the model that holds `location`; list indices and dict keys are stepped over."""
    for part in location:
        for name, field in model.model_fields.items():
            if part in (name, field.alias):
                model = next(_models_in(field.annotation), model)
    return dict(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
