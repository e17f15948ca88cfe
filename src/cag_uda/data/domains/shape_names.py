"""Map from the names of an annotation tool's shapes to classes.

Rules, from the `[labels]` table of a domain file: `map` says it for names that it holds; "ignore"
and the names of classes mean themselves; YOLO's numbers that the map leaves out count the classes;
any other name is `other`, and without `other` it is an error. Pixels outside all shapes are
`background`, or the class of that name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cag_uda.data.domains.label_map import train_id_of
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.types import IGNORE

BACKGROUNDS = ("background", "_background_", "bg")
"""Names that tools and people give pixels outside all shapes."""


@dataclass(frozen=True)
class ShapeNames:
    """Train ids of the names that shapes may have."""

    values: dict[str, int]
    """Name → train id or IGNORE."""
    other: int | None
    """Train id of all other names; None: they are an error."""
    background: int
    """Train id of pixels outside all shapes."""

    def unknown(self, names: Iterable[str]) -> set[str]:
        """Return the names that no rule covers."""
        return set() if self.other is not None else set(names) - set(self.values)

    def value_of(self, name: str) -> int:
        """Return the train id of a shape, or IGNORE. The name is not `unknown`."""
        value = self.values.get(name, self.other)
        assert value is not None, "unknown names are refused before"
        return value


def build_shape_names(
    entries: Mapping[str, Any], other: Any, background: Any, space: LabelSpace
) -> tuple[ShapeNames, list[str]]:
    """Make the table of a domain's shapes.

    Returns:
        The table, and every problem of the entries; a table with problems is of no use.
    """
    problems = []
    values = {str(number): number for number in range(space.num_classes)}
    values |= {name: number for number, name in enumerate(space.names)} | {"ignore": IGNORE}
    for name, value in entries.items():
        train_id = train_id_of(value, space)
        if isinstance(train_id, str):
            problems.append(f"labels.map: {name} = {value!r}: {train_id}")
        else:
            values[name] = train_id
    rest = None if other is None else train_id_of(other, space)
    if isinstance(rest, str):
        problems.append(f"labels.other = {other!r}: {rest}")
        rest = None
    named = next((name for name in BACKGROUNDS if name in space.names), None)
    if background is None and named is None:
        problems.append(
            'labels.background: missing; say what pixels outside all shapes are: "ignore", or a '
            "class, such as one that you call background"
        )
    behind = train_id_of(background if background is not None else named or "ignore", space)
    if isinstance(behind, str):
        problems.append(f"labels.background = {background!r}: {behind}")
        behind = IGNORE
    return ShapeNames(values, rest, behind), problems
