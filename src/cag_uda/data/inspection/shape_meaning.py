"""Guess the classes of an annotation tool's shapes from their names."""

from dataclasses import dataclass, field

from cag_uda.data.domains.builtin import label_space_names
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.data.domains.shape_names import BACKGROUNDS
from cag_uda.data.inspection.annotation_looks import AnnotationLook
from cag_uda.data.inspection.class_names import ClassNames

_LEAST_SHARE = 0.5
_LEAST_NAMES = 3


@dataclass(frozen=True)
class ShapeMeaning:
    """Content of `label_space`, `[[classes]]` and `[labels]` of a domain file."""

    label_space: str | None = None
    """Built-in label space whose classes the names are."""
    classes: tuple[str, ...] = ()
    """Classes of the domain itself, where no built-in space is recognised."""
    background: str | None = None
    """Class of pixels outside all shapes; None: the class of that name."""
    map: dict[str, str] = field(default_factory=dict)
    """Name of a shape → class, where it cannot be the class's name."""
    other: str | None = None
    """Class of shapes with other names."""


def meaning_of_shapes(look: AnnotationLook, names: ClassNames | None) -> ShapeMeaning:
    """Guess the classes of shapes.

    Args:
        look: names of the shapes.
        names: of a file beside them, for formats that hold numbers.
    """
    if look.encoding == "yolo":
        return _of_numbers(look, names)
    for each in label_space_names():
        space = LabelSpace.load(each)
        known = [name for name in look.names if name in space.names]
        if len(known) >= max(_LEAST_NAMES, _LEAST_SHARE * space.num_classes):
            return ShapeMeaning(label_space=each, background="ignore", other="ignore")
    named = [name for name in look.names if name in BACKGROUNDS]
    classes = [name for name in look.names if name not in ("ignore", "__ignore__")]
    mapped = {name: "ignore" for name in look.names if name == "__ignore__"}
    for place, name in enumerate(classes):
        if name.isdigit() or name != name.strip() or not name:
            classes[place] = mapped[name] = f"class-{name.strip() or place}"
    if not named:
        classes.insert(0, BACKGROUNDS[0])
    return ShapeMeaning(classes=tuple(classes), map=mapped)


def _of_numbers(look: AnnotationLook, names: ClassNames | None) -> ShapeMeaning:
    """Order YOLO's classes by their numbers; the background, which has none, comes last."""
    count = 1 + max((int(name) for name in look.names), default=0)
    by_id = names.by_id if names is not None and len(names.by_id) >= count else {}
    named = [by_id.get(number, f"class-{number}") for number in range(max(count, len(by_id)))]
    mapped = {str(number): name for number, name in enumerate(named) if name == "ignore"}
    classes = [name for name in named if name != "ignore"]
    if mapped and named[-1] != "ignore":
        # After an ignored number, the numbers are no longer the places of the classes.
        mapped = {str(number): name for number, name in enumerate(named)}
    if not set(classes) & set(BACKGROUNDS):
        classes.append(BACKGROUNDS[0])
    return ShapeMeaning(classes=tuple(classes), map=mapped)
