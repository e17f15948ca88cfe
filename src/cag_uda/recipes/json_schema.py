"""JSON schemas of domain files and recipes, by which editors complete and check them.

An editor with TOML support (taplo, Even Better TOML) follows the `#:schema` line of a file.
"""

import json
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from cag_uda.data.domains.domain_file import DomainFile
from cag_uda.files import write_text

Kind: TypeAlias = Literal["domain", "recipe"]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


@cache
def json_schema(kind: Kind) -> str:
    """Write the schema of a kind of file as JSON."""
    if kind == "domain":
        schema = DomainFile.model_json_schema()
    else:
        # They import torch, which no domain needs.
        from cag_uda.models.backbones import BACKBONES
        from cag_uda.models.decoders import DECODERS
        from cag_uda.recipes.schema import Recipe

        schema = Recipe.model_json_schema()
        network = schema["$defs"]["SegmenterConfig"]["properties"]
        network["backbone"]["enum"] = list(BACKBONES)
        network["decoder"]["enum"] = list(DECODERS)
    return json.dumps({"$schema": _DRAFT, **schema}, indent=2, ensure_ascii=False) + "\n"


def schema_line(kind: Kind, folder: Path) -> str:
    """Put the schema into a folder; the line by which a TOML file beside it names it."""
    name = f"cag-uda-{kind}.schema.json"
    write_text(folder / name, json_schema(kind))
    return f"#:schema ./{name}"
