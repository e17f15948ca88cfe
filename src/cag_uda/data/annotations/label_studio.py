"""Label Studio's JSON: one file of tasks; polygons and rectangles in per cent of the image.

Source: labelstud.io, "Label Studio JSON format", PolygonLabels. What is written are predictions,
which Label Studio shows to be corrected.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from cag_uda.data.annotations.drawing import Drawing, Shape, rectangle
from cag_uda.data.annotations.json_files import understood
from cag_uda.errors import DataError
from cag_uda.files import write_json

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""Prefix that Label Studio gives the name of an uploaded file."""


def read(path: Path) -> list[Drawing]:
    """Read the drawings of all tasks of a file. Raises DataError."""
    return understood(
        path, "JSON of Label Studio", lambda content: [_drawing(task, path) for task in content]
    )


def write(path: Path, drawings: Sequence[Drawing], names: Sequence[str]) -> None:
    """Write drawings as predictions. Raises RunError."""
    tasks = []
    for drawing in drawings:
        height, width = drawing.size or (1, 1)
        result = [
            {
                "id": f"r{number}",
                "type": "polygonlabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "points": (np.concatenate(shape.outlines) * 100 / (width, height)).tolist(),
                    "closed": True,
                    "polygonlabels": [shape.name],
                },
            }
            for number, shape in enumerate(drawing.shapes)
        ]
        prediction = {"model_version": "cag-uda", "result": result}
        tasks.append({"data": {"image": drawing.image}, "predictions": [prediction]})
    write_json(path, tasks)


def _drawing(task: Any, path: Path) -> Drawing:
    answers = task.get("annotations") or task.get("predictions") or [{"result": []}]
    results = answers[0]["result"]
    sizes = [(int(r["original_height"]), int(r["original_width"])) for r in results]
    shapes = [shape for each in results if (shape := _shape(each, path)) is not None]
    place = next(value for value in task["data"].values() if isinstance(value, str))
    return Drawing(_image_name(place), sizes[0] if sizes else None, tuple(shapes))


def _shape(result: Any, path: Path) -> Shape | None:
    value, kind = result["value"], result["type"]
    side = np.array([result["original_width"], result["original_height"]], np.float64) / 100
    if kind == "polygonlabels":
        points = np.array(value["points"], np.float64) * side
    elif kind == "rectanglelabels":
        left, top = value["x"], value["y"]
        points = rectangle(left, top, left + value["width"], top + value["height"]) * side
    elif kind == "brushlabels":
        raise DataError(
            f"{path} holds brush strokes of Label Studio, which are not read as JSON; export them "
            'as "Brush labels to PNG", or as COCO'
        )
    else:
        return None  # Choices, key points and text have no area.
    return Shape(str(value[kind][0]), (points,))


def _image_name(place: str) -> str:
    """Find the name of an image in the address that Label Studio knows it by."""
    parts = urlsplit(place)
    inside = parse_qs(parts.query).get("d", [parts.path])[0]
    path = PurePosixPath(unquote(inside))
    return str(path.with_name(_UPLOADED.sub("", path.name))).lstrip("/")
