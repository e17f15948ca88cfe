"""Validation errors of pydantic as lines that a user can act on.

Knows pydantic models in general, and no particular one.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Make one line for each thing wrong: where it stands, what was got, what was wanted.

    The model is the one that was validated: its field names are suggested for misspelt keys.
    """
    details = error.errors()
    unknown = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
    return [
        _problem(detail, model)
        for detail in details
        if not (detail["type"] == "missing" and _is_misspelt(detail["loc"], unknown))
        and not (detail["type"] == "too_short" and _has_wrong_items(detail["loc"], details))
    ]


def _has_wrong_items(items: tuple[str | int, ...], details: Sequence[Any]) -> bool:
    """Tell whether a list counts as too short since some of its items are wrong."""
    return any(
        len(each["loc"]) > len(items) and each["loc"][: len(items)] == items for each in details
    )


def _is_misspelt(missing: tuple[str | int, ...], unknown: Sequence[tuple[str | int, ...]]) -> bool:
    """Tell whether a missing key stands in the file under a name that is nearly right."""
    *table, name = missing
    beside = [str(each[-1]) for each in unknown if list(each[:-1]) == table]
    return bool(get_close_matches(str(name), beside, n=1, cutoff=0.6))


def is_only_unknown_keys(error: ValidationError) -> bool:
    """Tell whether everything known was right, so that the known part can be looked at further."""
    return all(detail["type"] == "extra_forbidden" for detail in error.errors())


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Suggest the nearest of the known words, as `; did you mean 'x'?`, or nothing."""
    close = get_close_matches(word, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


def _problem(detail: Any, model: type[BaseModel]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    parts, fields = _walk(model, tuple(detail["loc"]))
    if kind.startswith("union_tag"):
        parts.append(context["discriminator"].strip("'"))
    where = f"{'.'.join(parts)}: " if parts else ""
    if kind == "extra_forbidden":
        known = tuple(field.alias or name for name, field in fields.items())
        hint = did_you_mean(parts[-1], known) or f"; known keys: {', '.join(known)}"
        return f"{where}unknown key{hint}"
    if kind in ("missing", "union_tag_not_found"):
        return f"{where}missing"
    if kind == "union_tag_invalid":
        known = _quoted(context["expected_tags"])
        hint = did_you_mean(context["tag"], known)
        return f"{where}no {context['tag']!r}{hint}; there are {', '.join(known)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = message.replace("String should", "should").replace("tuple", "list")
    if kind == "value_error":
        return f"{where}{message}"
    got = f"; got {detail['input']!r}"
    if kind == "literal_error" and isinstance(detail["input"], str):
        got += did_you_mean(detail["input"], _quoted(context["expected"]))
    return f"{where}{message}{got}"


def _quoted(text: str) -> tuple[str, ...]:
    """Find the words in quotation marks of a message of pydantic."""
    return tuple(re.findall(r"'([^']*)'", text))


def _walk(
    model: type[BaseModel], location: tuple[str | int, ...]
) -> tuple[list[str], dict[str, Any]]:
    """Give a location as the file has it, and the fields of the model with its last part.

    Pydantic's names for the parts of a union are no part of the file.
    """
    parts: list[str] = []
    union: list[type[BaseModel]] = []
    fields = dict(model.model_fields)
    for part in location:
        chosen = next((each for each in union if _is_called(each, part)), None)
        union = []
        if chosen is not None:
            fields = dict(chosen.model_fields)
            continue
        parts.append(str(part))
        for name, field in fields.items():
            if part in (name, field.alias):
                union = list(_models_in(field.annotation))
                fields = dict(union[0].model_fields) if union else fields
                break
    return parts, fields


def _is_called(model: type[BaseModel], tag: str | int) -> bool:
    """Tell whether a model is the part of a union that a tag names."""
    fields = model.model_fields.values()
    return any(get_origin(each.annotation) is Literal and each.default == tag for each in fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
