"""Settings of methods as earlier recipes and runs have them.

CAG had one table for the paper's form and the released code's. Now each is a method with a row of
its own: a table with settings of the released form under the name `cag` is given the row that it
means, so that earlier recipes, runs' own recipes and the variants of an ablation go on meaning the
same.

Both CAG and CAG-plus had pieces that did not help and were taken out (docs/LOG.md): anchors that
are kept over a stage or follow the student, and more. A recipe in which they are off, as they were
by default, goes on meaning the same.
"""

from collections.abc import Sequence
from typing import Any

_PAPER = {
    "average": "pixel",
    "only_correct": False,
    "min_pixels": 1,
    "max_count": 0,
    "distance": "pixel",
}
"""Settings of the released form where an earlier recipe leaves them out."""
_KEPT_ANCHORS = ("cag-moving", "cag-released-moving")
"""Methods that were taken out: CAG whose anchors are kept over a stage, or follow the student."""
_PIECES = ("adapted_weight", "anchor_weight", "prior_strength")
"""Settings of CAG-plus that turned on, where above 0, a piece that was taken out."""
_OF_SOURCE_FREE = (*_PIECES, "answer", "anchors")
"""The same of its source-free form: its anchors are those of a stage `anchor-classifier` before."""
_OF_PIECES = {
    "anchor_confidence", "anchor_momentum", "contrast", "label_anchors", "prior_momentum",
}  # fmt: skip


def as_now(table: Any) -> Any:
    """Give a method's table as it is written now; what is none of CAG or CAG-plus stays as it is.

    Raises ValueError for a piece that was taken out and is on.
    """
    if not isinstance(table, dict):
        return table
    name = table.get("name")
    if name == "cag-plus":
        return _without_pieces(table, _PIECES)
    if name == "cag-plus-source-free":
        return _without_pieces(table, _OF_SOURCE_FREE)
    if name in _KEPT_ANCHORS:
        raise _taken_out(str(name))
    return _in_its_row(table) if name in ("cag", "cag-released") else table


def _taken_out(what: str) -> ValueError:
    return ValueError(
        f"{what}: taken out, since it did not help (docs/LOG.md); leave it out, or install the "
        "version that the recipe was written for"
    )


def _without_pieces(table: dict[str, Any], pieces: Sequence[str]) -> dict[str, Any]:
    """Leave the pieces out that were taken out of CAG-plus."""
    contrast = table.get("contrast")
    on = ["contrast.weight"] if isinstance(contrast, dict) and contrast.get("weight") else []
    on += [name for name in pieces if table.get(name)]
    if on:
        raise _taken_out(", ".join(on))
    return {name: value for name, value in table.items() if name not in {*pieces, *_OF_PIECES}}


def _in_its_row(table: dict[str, Any]) -> dict[str, Any]:
    """Give a table of CAG the row that its settings belong to."""
    settings = dict(table)
    settings.pop("anchor_momentum", None)
    if (anchors := settings.pop("anchors", "refreshed")) != "refreshed":
        raise _taken_out(f'anchors = "{anchors}"')
    if settings["name"] == "cag":
        theirs = {key: settings.pop(key) for key in _PAPER if key in settings}
        if theirs.get("max_count", 0) is None:
            theirs["max_count"] = 0
        if (_PAPER | theirs) != _PAPER:
            settings |= {"labels": ["anchor"]} | settings | _PAPER | theirs
            settings["name"] = "cag-released"
    return settings
