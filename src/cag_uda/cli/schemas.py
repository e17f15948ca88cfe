"""JSON schemas of domain files and recipes, by which editors complete and check them.

An editor with TOML support (taplo, Even Better TOML) follows the `#:schema` line of a file.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel

from cag_uda.data.domains.domain_file import DomainFile
from cag_uda.files import write_text
from cag_uda.models.backbones import BACKBONES
from cag_uda.models.decoders import DECODERS
from cag_uda.recipes.schema import Recipe

Kind: TypeAlias = Literal["domain", "recipe"]

_MODELS: dict[Kind, type[BaseModel]] = {"domain": DomainFile, "recipe": Recipe}
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


@cache
def json_schema(kind: Kind) -> str:
    """The schema of a kind of file, as JSON."""
    model = _MODELS[kind]
    schema = model.model_json_schema(by_alias=True)
    tables = {model.__name__: schema, **schema.get("$defs", {})}
    for each in _models_in(model, set()):
        properties = tables[each.__name__].get("properties", {})
        for name, text in _explanations(each).items():
            field = each.model_fields.get(name)
            key = name if field is None or field.alias is None else field.alias
            if key in properties:
                properties[key].setdefault("description", text)
    if "SegmenterConfig" in tables:
        network = tables["SegmenterConfig"]["properties"]
        network["backbone"]["enum"] = list(BACKBONES)
        network["decoder"]["enum"] = list(DECODERS)
    return json.dumps({"$schema": _DRAFT, **schema}, indent=2, ensure_ascii=False) + "\n"


def schema_line(kind: Kind, folder: Path) -> str:
    """Put the schema into a folder; the line by which a TOML file beside it names it."""
    name = f"cag-uda-{kind}.schema.json"
    write_text(folder / name, json_schema(kind))
    return f"#:schema ./{name}"


def _models_in(annotation: Any, seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """A model and all models that its fields hold, each once."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation not in seen:
            seen.add(annotation)
            yield annotation
            for field in annotation.model_fields.values():
                yield from _models_in(field.annotation, seen)
        return
    for part in get_args(annotation):
        yield from _models_in(part, seen)


def _explanations(model: type[BaseModel]) -> dict[str, str]:
    """The text below each field in the source, of base classes too."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for declared, following in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(declared, ast.AnnAssign)
                and isinstance(declared.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                found[declared.target.id] = " ".join(str(following.value.value).split())
    return found
