"""Draft the tables of a domain file for the files of an annotation tool."""

from collections.abc import Iterator

import tomli_w

from cag_uda.data.inspection.annotation_looks import AnnotationLook
from cag_uda.data.inspection.class_names import ClassNames
from cag_uda.data.inspection.shape_meaning import meaning_of_shapes


def annotation_lines(look: AnnotationLook, names: ClassNames | None) -> Iterator[str]:
    """Yield the lines of `label_space` or `[[classes]]`, and of `[labels]`."""
    meaning = meaning_of_shapes(look, names)
    if meaning.label_space is not None:
        yield f"label_space = {quoted(meaning.label_space)}  # the shapes have its names"
    else:
        yield ""
        yield "# As shapes are called, and what lies outside all of them. Their order is that of"
        yield "# train ids; the domains of a recipe need the same classes."
        for name in meaning.classes:
            count = look.names.get(name)
            yield "[[classes]]"
            yield f"name = {quoted(name)}" + (f"  # {count} shapes" if count else "")
    yield ""
    yield "[labels]"
    yield f"encoding = {quoted(look.encoding)}"
    if meaning.background is not None:
        yield f"background = {quoted(meaning.background)}  # pixels outside all shapes"
    if meaning.other is not None:
        yield f"other = {quoted(meaning.other)}  # shapes with other names"
    if meaning.map:
        yield ""
        yield "[labels.map]"
        for name, value in meaning.map.items():
            yield f"{quoted(name)} = {quoted(value)}"


def quoted(text: str) -> str:
    """A TOML string."""
    return tomli_w.dumps({"x": text}).removeprefix("x = ").strip()
