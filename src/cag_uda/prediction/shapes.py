"""Write label maps as files of annotation tools, in which people can correct them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cag_uda.data.annotations.formats import FORMATS, AnnotationFormat
from cag_uda.data.annotations.tracing import IGNORED, TOLERANCE_PX, trace
from cag_uda.data.files.decoding import Bytes
from cag_uda.files import write_text

WRITABLE: dict[str, AnnotationFormat] = {
    name: each for name, each in FORMATS.items() if each.write is not None
}
"""Formats that predictions can be written in, by the name that `--as` takes."""
ANNOTATIONS = "annotations"
"""Name of the one file of a format for many images, without its extension."""


@dataclass(frozen=True)
class LabelFile:
    """A label map on disk, and the image that it is of."""

    path: Path
    """A PNG of train ids."""
    place: str
    """Path of the image's file below the output folder, without extension."""
    image: str
    """Name of the image in the tool: its path with extension."""


def write_shapes(
    name: str,
    folder: Path,
    labels: Sequence[LabelFile],
    class_names: Sequence[str],
    tolerance_px: float = TOLERANCE_PX,
) -> None:
    """Write label maps in the format of an annotation tool; `name` is its row in `WRITABLE`.

    Some formats want one file for all images, others one for each image, at its place. Outlines run
    at most `tolerance_px` from their region's border. Raises RunError if the disk is full or the
    folder cannot be written.
    """
    form = WRITABLE[name]
    assert form.write is not None, "formats without a writer are not listed"
    drawings = [
        trace(_train_ids(each.path), class_names, each.image, form.convention, tolerance_px)
        for each in labels
    ]
    if form.is_of_split:
        form.write(folder / f"{ANNOTATIONS}{form.extension}", drawings, class_names)
        return
    for each, drawing in zip(labels, drawings, strict=True):
        form.write(folder / f"{each.place}{form.extension}", [drawing], class_names)
    if name == "yolo":
        # The files hold numbers alone; Ultralytics and others look for the names here.
        is_partial = any(shape.name == IGNORED for drawn in drawings for shape in drawn.shapes)
        names = [*class_names, IGNORED] if is_partial else class_names
        lines = [f"  {number}: {word}\n" for number, word in enumerate(names)]
        write_text(folder / "data.yaml", f"names:\n{''.join(lines)}")


def _train_ids(path: Path) -> Bytes:
    with Image.open(path) as image:
        return np.asarray(image)
