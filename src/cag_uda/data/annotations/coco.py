"""COCO's instances: one JSON for many images, polygons or run lengths.

Source: cocodataset.org, "Data format"; drawn by pycocotools.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cag_uda.data.annotations.drawing import (
    Convention,
    Drawing,
    Shape,
    area_of,
    pixels_through_centres,
)
from cag_uda.data.annotations.json_files import understood
from cag_uda.errors import DataError
from cag_uda.files import write_json

_AREAS_MAY_DIFFER = 0.02
"""Share of all areas by which those that a file states may differ from those of its outlines."""


def read(path: Path) -> list[Drawing]:
    """Read the drawings of all images of a file. Raises DataError."""
    return understood(path, "COCO file of instances", lambda content: _drawings(content, path))


def class_names(path: Path) -> list[str]:
    """Read the names of the categories, by id. Raises DataError."""

    def names(content: Any) -> list[str]:
        ordered = sorted(content["categories"], key=lambda each: each["id"])
        return [str(each["name"]) for each in ordered]

    return understood(path, "COCO file of instances", names)


def write(path: Path, drawings: Sequence[Drawing], names: Sequence[str]) -> None:
    """Write drawings as COCO instances with polygons. Raises RunError."""
    ids = {name: place for place, name in enumerate(names, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, drawing in enumerate(drawings, 1):
        height, width = drawing.size or (0, 0)
        images.append({"id": number, "file_name": drawing.image, "height": height, "width": width})
        for shape in drawing.shapes:
            points = np.concatenate(shape.outlines)
            low, high = points.min(0), points.max(0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": ids.setdefault(shape.name, len(ids) + 1),
                    "segmentation": [outline.ravel().tolist() for outline in shape.outlines],
                    "area": sum(map(area_of, shape.outlines)),
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})


def _drawings(content: Any, path: Path) -> list[Drawing]:
    if any("segments_info" in entry for entry in content["annotations"][:1]):
        raise DataError(f"{path} is COCO's panoptic form; give the instances, or the semantic PNGs")
    names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
    shapes: dict[Any, list[tuple[float, Shape]]] = defaultdict(list)
    boxes_only = 0
    for entry in content["annotations"]:
        outline = entry.get("segmentation")
        name = names[entry["category_id"]]
        if isinstance(outline, dict):
            shape = Shape(name, rle=outline)
        elif outline:
            parts = [np.array(part, np.float64).reshape(-1, 2) for part in outline]
            shape = Shape(name, tuple(parts))
        else:
            boxes_only += 1
            continue
        own_area = sum(map(area_of, shape.outlines))
        shapes[entry["image_id"]].append((float(entry.get("area") or own_area), shape))
    if boxes_only and not shapes:
        raise DataError(
            f"{path} has boxes but no outlines: it is made for detection; export polygons or masks"
        )
    convention = _convention([each for found in shapes.values() for each in found])
    return [
        Drawing(
            str(image["file_name"]),
            (int(image["height"]), int(image["width"])),
            # The format has no order; large areas stand behind small ones.
            tuple(shape for _, shape in sorted(shapes[image["id"]], key=lambda each: -each[0])),
            convention,
        )
        for image in content["images"]
    ]


def _convention(found: Sequence[tuple[float, Shape]]) -> Convention:
    """Tell by the areas that a file states whether its whole numbers are centres of pixels.

    They are edges in COCO. Tools that trace masks by OpenCV (supervision, for one) write centres,
    and as the area the pixels of the mask.
    """
    told = [(area, shape.outlines[0]) for area, shape in found if len(shape.outlines) == 1]
    if not told or any((points % 1).any() for _, points in told):
        return "edges"
    stated = np.array([area for area, _ in told])
    centres = np.abs(stated - [pixels_through_centres(points) for _, points in told]).sum()
    edges = np.abs(stated - [area_of(points) for _, points in told]).sum()
    is_near = centres <= _AREAS_MAY_DIFFER * stated.sum()
    return "centres" if is_near and centres < edges else "edges"
