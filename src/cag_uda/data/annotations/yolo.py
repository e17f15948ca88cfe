"""YOLO's segmentation labels: one text file an image, a class number and a polygon a line.

Points are shares of the image's sides. Small areas stand above large ones, as Ultralytics' own
semantic training has it (docs.ultralytics.com, "Semantic segmentation datasets"). Tools write boxes
for shapes that are too small for a polygon.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cag_uda.data.annotations.drawing import Drawing, Shape, area_of, rectangle
from cag_uda.errors import DataError
from cag_uda.files import write_text

_LEAST_NUMBERS = 7
_OF_A_BOX = 5


def read(path: Path) -> list[Drawing]:
    """Read the drawing of the image that a file is named like (numbers). Raises DataError."""
    shapes = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        for line in filter(str.strip, lines):
            number, *numbers = line.split()
            if len(numbers) + 1 == _OF_A_BOX:
                x, y, width, height = np.array(numbers, np.float64)
                right, bottom = x + width / 2, y + height / 2
                corners = rectangle(x - width / 2, y - height / 2, right, bottom)
                shapes.append(Shape(str(int(number)), (corners,), "box"))
                continue
            if len(numbers) + 1 < _LEAST_NUMBERS or len(numbers) % 2:
                raise ValueError(f"{len(numbers)} numbers make no polygon")
            points = np.array(numbers, np.float64).reshape(-1, 2)
            shapes.append(Shape(str(int(number)), (points,)))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no YOLO segmentation label: {error}") from error
    shapes.sort(key=lambda shape: -area_of(shape.outlines[0]))
    return [Drawing(path.stem, None, tuple(shapes))]


def write(path: Path, drawings: Sequence[Drawing], names: Sequence[str]) -> None:
    """Write the one drawing of an image. Raises RunError."""
    (drawing,) = drawings
    height, width = drawing.size or (1, 1)
    numbers = {name: place for place, name in enumerate(names)}
    lines = []
    for shape in drawing.shapes:
        points = (np.concatenate(shape.outlines) / (width, height)).ravel()
        number = numbers.get(shape.name, len(names))
        lines.append(" ".join([str(number), *(f"{value:.6f}" for value in points)]) + "\n")
    write_text(path, "".join(lines))
