"""LabelMe: one JSON an image, shapes in the order in which they are painted.

Source: labelme's `utils.shape_to_mask` and `shapes_to_label`, which labelme2voc uses.
"""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cag_uda.data.annotations.drawing import Drawing, Shape, rectangle
from cag_uda.data.annotations.json_files import understood
from cag_uda.files import write_json

_POINT_PX = 5


def read(path: Path) -> list[Drawing]:
    """Read the drawing of the image that a file is of. Raises DataError."""
    return understood(path, "LabelMe file", lambda content: [_drawing(content)])


def write(path: Path, drawings: Sequence[Drawing], names: Sequence[str]) -> None:
    """Write the one drawing of an image. Raises RunError."""
    (drawing,) = drawings
    height, width = drawing.size or (0, 0)
    shapes = [
        {
            "label": shape.name,
            "points": outline.tolist(),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for shape in drawing.shapes
        for outline in shape.outlines
    ]
    content: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": drawing.image,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    write_json(path, content)


def _drawing(content: Any) -> Drawing:
    size = (int(content["imageHeight"]), int(content["imageWidth"]))
    image = str(content["imagePath"]).replace("\\", "/")
    return Drawing(image, size, tuple(_shape(entry) for entry in content["shapes"]))


def _shape(entry: Any) -> Shape:
    name, points = str(entry["label"]), np.array(entry["points"], np.float64).reshape(-1, 2)
    match entry.get("shape_type") or "polygon":
        case "polygon" | "oriented_rectangle":
            return Shape(name, (points,))
        case "rectangle":
            (left, top), (right, bottom) = points.min(0), points.max(0)
            return Shape(name, (rectangle(left, top, right, bottom),))
        case "circle":
            radius = math.dist(points[0], points[1])
            return Shape(name, (np.stack([points[0] - radius, points[0] + radius]),), "ellipse")
        case "point" | "points":
            corners_of = [np.stack([each - _POINT_PX, each + _POINT_PX]) for each in points]
            return Shape(name, tuple(corners_of), "ellipse")
        case "line" | "linestrip":
            return Shape(name, (points,), "line")
        case "mask":
            with Image.open(io.BytesIO(base64.b64decode(entry["mask"]))) as image:
                bitmap = np.asarray(image).astype(bool)
            left, top = np.rint(points[0]).astype(int).tolist()
            return Shape(name, bitmap=bitmap, left=left, top=top)
        case other:
            raise ValueError(f"shape_type {other!r} is not known")
