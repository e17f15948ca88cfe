"""Fills the page templates beside this file."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from cag_uda.report import words
from cag_uda.report.charts import bar_scale
from cag_uda.report.labelling import kind_name
from cag_uda.report.palette import safe_palette
from cag_uda.report.pictures import Colours

_STYLES = ("page.css", "figures.css", "viewer.css")
_SCRIPTS = ("page.js", "charts.js", "viewer.js", "maps.js")


def render_page(
    template: str, classes: Sequence[str], palette: Sequence[tuple[int, int, int]], **values: Any
) -> str:
    """Render a whole page, with style and script inside.

    Its content security policy forbids every request and every script but the one that it holds.
    With an empty palette (K, 3), the colour-blind-safe colours serve alone.
    """
    safe = safe_palette(len(classes))
    script = "\n".join(map(_packaged, _SCRIPTS))
    return (
        _environment()
        .get_template(template)
        .render(
            classes={
                "names": list(classes),
                "standard": [list(colour) for colour in palette or safe],
                "safe": [list(colour) for colour in safe],
                "none": list(Colours(palette).no_class),
            },
            style="\n".join(map(_packaged, _STYLES)),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            **values,
        )
    )


@cache
def _environment() -> Environment:
    """Make the engine that compiles each template once in a process."""
    environment = Environment(
        loader=FunctionLoader(_packaged),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for word in (words.percent, words.number, words.signed, words.duration, words.counted):
        environment.filters[word.__name__] = word
    environment.filters["kind_name"] = kind_name
    environment.globals["bar_scale"] = bar_scale
    return environment


def _packaged(name: str) -> str:
    return resources.files("cag_uda.report").joinpath(name).read_text(encoding="utf-8")
