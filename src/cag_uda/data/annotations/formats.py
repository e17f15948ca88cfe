"""The table of annotation formats: how each is read, written and found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from cag_uda.data.annotations import cityscapes_polygons, coco, cvat, label_studio, labelme, yolo
from cag_uda.data.annotations.drawing import Convention, Drawing

FormatName: TypeAlias = Literal[
    "coco", "yolo", "labelme", "cvat", "label-studio", "cityscapes-polygons"
]


@dataclass(frozen=True)
class AnnotationFormat:
    """One row of the table."""

    extension: str
    """File extension of the format, with the dot."""
    is_of_split: bool
    """True if one file describes many images; otherwise each image has its own."""
    convention: Convention
    """Meaning of a whole number."""
    read: Callable[[Path], list[Drawing]]
    """Gives the drawings of a file, one for each image. Raises DataError."""
    write: Callable[[Path, Sequence[Drawing], Sequence[str]], None] | None = None
    """Writes drawings, given the names of the classes; None for formats without a tool."""


FORMATS: dict[FormatName, AnnotationFormat] = {
    "coco": AnnotationFormat(".json", True, "edges", coco.read, coco.write),
    "yolo": AnnotationFormat(".txt", False, "centres", yolo.read, yolo.write),
    "labelme": AnnotationFormat(".json", False, "centres", labelme.read, labelme.write),
    "cvat": AnnotationFormat(".xml", True, "edges", cvat.read, cvat.write),
    "label-studio": AnnotationFormat(".json", True, "edges", label_studio.read, label_studio.write),
    "cityscapes-polygons": AnnotationFormat(".json", False, "centres", cityscapes_polygons.read),
}
"""Every format by the name that `encoding` takes."""
