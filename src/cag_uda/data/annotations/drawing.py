"""Drawing of annotations: shapes with names, one above the other, on one image.

Tools differ in what a whole number means. In COCO, CVAT and Label Studio it is an edge between
pixels, and pycocotools says which pixels an outline holds; in LabelMe, Cityscapes and YOLO (as
Ultralytics and supervision draw it) it is the centre of a pixel, and the outline itself belongs to
the shape, as Pillow draws it. Painted so, labels equal those that the tools' own converters write.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cag_uda.data.files.decoding import Bytes

Points: TypeAlias = NDArray[np.float64]
"""(N, 2) x, y."""
Convention: TypeAlias = Literal["edges", "centres"]
"""Meaning of a whole number: an edge between pixels, or the centre of one."""


@dataclass(frozen=True, eq=False)
class Shape:
    """An area with a name."""

    name: str
    outlines: tuple[Points, ...] = ()
    """Polygons in pixels, all of them part of the area; corners of an "ellipse"'s box; a "line"."""
    kind: Literal["polygon", "box", "ellipse", "line"] = "polygon"
    """A "box" is what a detector wants: the area is not all of the thing's."""
    bitmap: NDArray[np.bool_] | None = None
    """(h, w), in place of outlines."""
    left: int = 0
    """Column of the image at which the bitmap begins."""
    top: int = 0
    """Row of the image at which the bitmap begins."""
    rle: dict[str, Any] | None = None
    """COCO's run lengths of the whole image, in place of outlines."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """The shapes of one image, in the order in which they are painted."""

    image: str
    """The image as the file calls it: a name or a path, with or without extension."""
    size: tuple[int, int] | None
    """(H, W) in pixels that points are relative to; None: points are shares of the image's sides,
    from 0 to 1."""
    shapes: tuple[Shape, ...]
    convention: Convention | None = None
    """Meaning of a whole number, where the file itself tells it; None: that of the format."""


def paint(
    drawing: Drawing,
    size: tuple[int, int],
    convention: Convention,
    background: int,
    value_of: Callable[[str], int],
) -> Bytes:
    """Paint the shapes of an image: (H, W) uint8.

    Args:
        drawing: what to paint.
        size: (H, W) of the result, where the drawing does not say its own.
        convention: what a whole number is, unless the drawing says so itself.
        background: the value of pixels outside all shapes.
        value_of: the value of a shape, by its name.
    """
    height, width = drawing.size or size
    convention = drawing.convention or convention
    scale = (1.0, 1.0) if drawing.size is not None else (float(width), float(height))
    label = np.full((height, width), background, np.uint8)
    for shape in drawing.shapes:
        value = value_of(shape.name)
        if shape.bitmap is not None:
            rows, columns = shape.bitmap.shape
            bottom, right = min(height, shape.top + rows), min(width, shape.left + columns)
            first_row, first_column = max(0, -shape.top), max(0, -shape.left)
            part = shape.bitmap[first_row : bottom - shape.top, first_column : right - shape.left]
            label[shape.top + first_row : bottom, shape.left + first_column : right][part] = value
            continue
        outlines = [points * scale for points in shape.outlines]
        if drawing.size is None and convention == "centres":
            # Five digits of a share are a little beside the pixel that is meant.
            outlines = [np.rint(points) for points in outlines]
        if convention == "edges":
            label[_between_edges(shape, outlines, height, width)] = value
        else:
            label[_through_centres(shape, outlines, height, width)] = value
    return label


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """Return the corners of a rectangle as a polygon."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def area_of(points: Points) -> float:
    """Compute the area inside a polygon (the shoelace formula)."""
    x, y = points[:, 0], points[:, 1]
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def pixels_through_centres(points: Points) -> float:
    """Count the pixels of a polygon of whole numbers that are pixel centres, its outline included.

    Source: Pick's theorem, A = I + B/2 − 1, for I centres inside and B on the outline.
    """
    steps = np.abs(points - np.roll(points, 1, axis=0)).astype(np.int64)
    on_outline = int(np.gcd(steps[:, 0], steps[:, 1]).sum())
    return area_of(points) + on_outline / 2 + 1


def _between_edges(
    shape: Shape, outlines: Sequence[Points], height: int, width: int
) -> NDArray[np.bool_]:
    from pycocotools import mask as coco_mask

    if shape.rle is not None:
        rle = shape.rle
        if isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, *rle["size"])
        return np.asarray(coco_mask.decode(rle)).astype(bool)
    polygons = [points.ravel().tolist() for points in outlines if len(points) >= 3]
    if not polygons:
        return np.zeros((height, width), bool)
    merged = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return np.asarray(coco_mask.decode(merged)).astype(bool)


def _through_centres(
    shape: Shape, outlines: Sequence[Points], height: int, width: int
) -> NDArray[np.bool_]:
    """Draw as labelme's `shape_to_mask` does."""
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    for points in outlines:
        corners = [(float(x), float(y)) for x, y in points]
        if shape.kind == "ellipse":
            draw.ellipse(corners, outline=1, fill=1)
        elif shape.kind == "line":
            draw.line(corners, fill=1, width=10)
        elif len(corners) >= 3:
            draw.polygon(corners, outline=1, fill=1)
    return np.asarray(canvas).astype(bool)
