"""Shapes of a label map, for tools in which people correct what a network proposes."""

from collections.abc import Sequence

import cv2
import numpy as np

from cag_uda.data.annotations.drawing import Convention, Drawing, Points, Shape, area_of
from cag_uda.data.files.decoding import Bytes

TOLERANCE_PX = 1.0
"""Most pixels between an outline and the border of its region: it has few points to move."""
IGNORED = "ignore"
"""The name of areas without a class; as a name of a shape it is read as such, too."""


def trace(
    label: Bytes,
    names: Sequence[str],
    image: str,
    convention: Convention,
    tolerance_px: float = TOLERANCE_PX,
) -> Drawing:
    """Outline each connected region of each class, larger ones below smaller ones.

    Every pixel lies in a region, that of its class or of `IGNORED`; so regions need no holes: what
    lies in one is painted above it. Painted, the drawing differs from the label by at most the
    tolerance.

    Args:
        label: (H, W) uint8 train ids with IGNORE.
        names: of the classes.
        image: what the drawing calls its image.
        convention: what a whole number is in the format that it is for.
        tolerance_px: see `TOLERANCE_PX`; 0 keeps every pixel where it is.
    """
    shapes: list[tuple[float, Shape]] = []
    for value in np.unique(label).tolist():
        name = names[value] if value < len(names) else IGNORED
        for outline in _outlines((label == value).astype(np.uint8), convention):
            simple = outline
            if tolerance_px:
                near = cv2.approxPolyDP(outline.astype(np.float32)[:, None], tolerance_px, True)
                simple = near[:, 0].astype(np.float64) if len(near) >= 3 else outline
            shapes.append((area_of(outline), Shape(name, (simple,))))
    ordered = sorted(shapes, key=lambda each: -each[0])
    height, width = label.shape
    return Drawing(image, (height, width), tuple(shape for _, shape in ordered))


def _outlines(region: Bytes, convention: Convention) -> list[Points]:
    """Trace the outer borders of the connected parts of a mask, each at least a triangle."""
    if convention == "edges":
        # In an image of twice the size, pixel n is 2n and 2n + 1, between the edges n and n + 1.
        region = region.repeat(2, axis=0).repeat(2, axis=1)
    found, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours = [contour[:, 0].astype(np.float64) for contour in found]
    if convention == "edges":
        return [(points + 1) // 2 for points in contours]
    # A point or a line is drawn too, if it is given the corners of a polygon.
    return [points if len(points) >= 3 else np.resize(points, (3, 2)) for points in contours]
