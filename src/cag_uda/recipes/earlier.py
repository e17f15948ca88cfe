"""Settings of methods as earlier recipes and runs have them.

CAG had one table for the paper's form and all its variants. Now each variant is a method with a row
of its own: a table with settings of a variant under the name of another row is given the row that
it means, so that earlier recipes, runs' own recipes and the variants of an ablation go on meaning
the same.

CAG-plus had pieces that did not help and were taken out (docs/LOG.md). A recipe in which they are
off, as they were by default, goes on meaning the same.
"""

from typing import Any

_PAPER = {
    "average": "pixel",
    "only_correct": False,
    "min_pixels": 1,
    "max_count": 0,
    "distance": "pixel",
}
"""Settings of the released form where an earlier recipe leaves them out."""
_NAMES = {
    (False, False): "cag",
    (True, False): "cag-released",
    (False, True): "cag-moving",
    (True, True): "cag-released-moving",
}
"""Method by whether its settings are those of the released form, and whether its anchors are kept
over the stage."""
_PIECES = ("anchor_weight", "prior_strength")
"""Settings of CAG-plus that turned on, where above 0, a piece that was taken out."""
_OF_PIECES = {*_PIECES, "contrast", "label_anchors", "prior_momentum", "anchor_momentum"}


def as_now(table: Any) -> Any:
    """Give a method's table as it is written now; what is none of CAG or CAG-plus stays as it is.

    Raises ValueError for a piece of CAG-plus that was taken out and is on, or an unknown kind of
    `anchors` of CAG.
    """
    if not isinstance(table, dict):
        return table
    if table.get("name") in ("cag-plus", "cag-plus-source-free"):
        return _without_pieces(table)
    return _in_its_row(table) if table.get("name") in _NAMES.values() else table


def _without_pieces(table: dict[str, Any]) -> dict[str, Any]:
    """Leave the pieces out that were taken out of CAG-plus."""
    contrast = table.get("contrast")
    on = ["contrast.weight"] if isinstance(contrast, dict) and contrast.get("weight") else []
    on += [name for name in _PIECES if table.get(name)]
    if on:
        raise ValueError(
            f"{', '.join(on)}: taken out of CAG-plus, since it did not help (docs/LOG.md); "
            "leave it out, or install cag-uda 0.1"
        )
    return {name: value for name, value in table.items() if name not in _OF_PIECES}


def _in_its_row(table: dict[str, Any]) -> dict[str, Any]:
    """Give a table of CAG the row that its settings belong to."""
    settings = dict(table)
    is_moving = "moving" in settings["name"]
    if "anchors" in settings:
        anchors, momentum = settings.pop("anchors"), settings.pop("anchor_momentum", 0.99)
        if anchors not in ("refreshed", "fixed", "moving"):
            raise ValueError(f"anchors are refreshed, fixed or moving, got {anchors!r}")
        is_moving = anchors != "refreshed"
        if is_moving:
            settings["anchor_momentum"] = momentum if anchors == "moving" else 1.0
    elif not is_moving:
        settings.pop("anchor_momentum", None)
    is_released = "released" in settings["name"]
    if not is_released:
        theirs = {key: settings.pop(key) for key in _PAPER if key in settings}
        if theirs.get("max_count", 0) is None:
            theirs["max_count"] = 0
        is_released = (_PAPER | theirs) != _PAPER
        if is_released:
            settings |= {"labels": ["anchor"]} | settings | _PAPER | theirs
    settings["name"] = _NAMES[is_released, is_moving]
    return settings
