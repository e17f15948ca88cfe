"""Cityscapes' polygons: one JSON an image, objects from the back to the front.

Source: cityscapesScripts, `preparation/json2labelImg.py`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from cag_uda.data.annotations.drawing import Drawing, Shape
from cag_uda.data.annotations.json_files import understood

_GROUP = "group"


def read(path: Path) -> list[Drawing]:
    """Read the drawing of the image that a file is named like. Raises DataError."""
    return understood(path, "file of Cityscapes' polygons", lambda content: [_of(content, path)])


def _of(content: Any, path: Path) -> Drawing:
    shapes = [
        Shape(
            # A crowd of cars is called "cargroup".
            str(entry["label"]).removesuffix(_GROUP),
            (np.array(entry["polygon"], np.float64).reshape(-1, 2),),
        )
        for entry in content["objects"]
        if not entry.get("deleted")
    ]
    return Drawing(path.stem, (int(content["imgHeight"]), int(content["imgWidth"])), tuple(shapes))
