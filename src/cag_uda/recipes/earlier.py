"""CAG's settings as earlier recipes have them: one table for the paper's form and all its variants.

Now each variant is a method with a row of its own. A table with settings of a variant under the
name of another row is given the row that it means, so that earlier recipes, runs' own recipes and
the variants of an ablation go on meaning the same.
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


def in_its_row(table: Any) -> Any:
    """Give a method's table the row that its settings belong to.

    Args:
        table: of a recipe; what is not a table of CAG is returned as it is.

    Raises:
        ValueError: for an unknown kind of `anchors`.
    """
    if not isinstance(table, dict) or table.get("name") not in _NAMES.values():
        return table
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
