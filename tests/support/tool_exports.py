"""Small labelled folders as annotation tools and their libraries export them: rectangles.

The forms are those that datumaro 1.13 (for CVAT), supervision 0.31 and labelme 7.9 write.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.support.photo_folders import write
from tests.support.trees import COLOURS

HEIGHT, WIDTH = 48, 64
NAMES = ("car", "tree", "sky")
"""What is drawn; everything else is the background."""


class Rectangle(NamedTuple):
    name: str
    left: int
    top: int
    right: int
    """Last column, which belongs to it."""
    bottom: int
    """Last row, which belongs to it."""

    def corners(self, beyond: int) -> list[list[int]]:
        """x, y of its corners: of pixel centres, or with `beyond` 1 of the edges between pixels."""
        right, bottom = self.right + beyond, self.bottom + beyond
        return [[self.left, self.top], [right, self.top], [right, bottom], [self.left, bottom]]


def drawings(count: int = 4) -> list[list[Rectangle]]:
    """The shapes of some images, one in each quarter."""
    rng = np.random.default_rng(1)
    return [
        [
            Rectangle(
                NAMES[rng.integers(3)],
                left + int(rng.integers(1, 6)),
                top + int(rng.integers(1, 6)),
                left + int(rng.integers(14, 30)),
                top + int(rng.integers(12, 22)),
            )
            for left in (0, WIDTH // 2)
            for top in (0, HEIGHT // 2)
        ]
        for _ in range(count)
    ]


def ids_of(shapes: list[Rectangle], classes: tuple[str, ...]) -> np.ndarray:
    """The label (H, W) uint8 of an image, by the place of a name among the classes."""
    ids = np.full((HEIGHT, WIDTH), classes.index("background"), np.uint8)
    for each in shapes:
        rows, columns = slice(each.top, each.bottom + 1), slice(each.left, each.right + 1)
        ids[rows, columns] = classes.index(each.name)
    return ids


def write_photographs(folder: Path, drawn: list[list[Rectangle]], light: float = 1.0) -> None:
    rng = np.random.default_rng(2)
    for number, shapes in enumerate(drawn):
        ids = ids_of(shapes, ("background", *NAMES))
        pixels = COLOURS[ids] * light + rng.normal(0, 6, (HEIGHT, WIDTH, 3))
        write(folder / f"{number:03}.png", np.clip(pixels, 0, 255).astype(np.uint8))


def write_pngs(folder: Path, drawn: list[list[Rectangle]], classes: tuple[str, ...]) -> None:
    """Write photographs and labels of ids, and the names of the classes in their order."""
    write_photographs(folder / "images", drawn)
    for number, shapes in enumerate(drawn):
        write(folder / "labels" / f"{number:03}.png", ids_of(shapes, classes))
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")


def write_labelme(folder: Path, drawn: list[list[Rectangle]]) -> None:
    write_photographs(folder, drawn)
    for number, shapes in enumerate(drawn):
        content: dict[str, Any] = {
            "version": "7.9.1",
            "flags": {},
            "shapes": [
                {
                    "label": each.name,
                    "points": each.corners(0),
                    "group_id": None,
                    "description": "",
                    "shape_type": "polygon",
                    "flags": {},
                    "mask": None,
                }
                for each in shapes
            ],
            "imagePath": f"{number:03}.png",
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        (folder / f"{number:03}.json").write_text(json.dumps(content))


def write_cvat(folder: Path, drawn: list[list[Rectangle]]) -> None:
    write_photographs(folder / "images", drawn)
    labels = "".join(f"<label><name>{name}</name></label>" for name in NAMES)
    images = ""
    for number, shapes in enumerate(drawn):
        images += (
            f'<image id="{number}" name="{number:03}.png" width="{WIDTH}" height="{HEIGHT}">\n'
        )
        for order, each in enumerate(shapes):
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in each.corners(1))
            images += (
                f'<polygon label="{each.name}" occluded="0" outside="0" keyframe="0" '
                f'points="{points}" z_order="{order}"></polygon>\n'
            )
        images += "</image>\n"
    (folder / "train.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f"<meta><task><labels>{labels}</labels></task></meta>\n{images}</annotations>\n"
    )


def write_supervision_coco(folder: Path, drawn: list[list[Rectangle]]) -> None:
    """As `DetectionDataset.as_coco`: outlines by OpenCV, areas of the masks."""
    write_photographs(folder / "images", drawn)
    annotations: list[dict[str, Any]] = []
    for number, shapes in enumerate(drawn, 1):
        for each in shapes:
            width, height = each.right - each.left + 1, each.bottom - each.top + 1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": NAMES.index(each.name) + 1,
                    "bbox": [float(each.left), float(each.top), width - 1.0, height - 1.0],
                    "area": float(width * height),
                    "segmentation": [[v for corner in each.corners(0) for v in corner]],
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {},
        "licenses": [],
        "categories": [
            {"id": place, "name": name, "supercategory": "common-objects"}
            for place, name in enumerate(NAMES, 1)
        ],
        "images": [
            {"id": number, "file_name": f"{number - 1:03}.png", "height": HEIGHT, "width": WIDTH}
            for number in range(1, len(drawn) + 1)
        ],
        "annotations": annotations,
    }
    (folder / "annotations.json").write_text(json.dumps(content))


def write_supervision_yolo(folder: Path, drawn: list[list[Rectangle]]) -> None:
    """As `DetectionDataset.as_yolo`: shares of the sides, five digits."""
    write_photographs(folder / "images", drawn)
    (folder / "labels").mkdir()
    for number, shapes in enumerate(drawn):
        lines = [
            f"{NAMES.index(each.name)} "
            + " ".join(f"{x / WIDTH:.5f} {y / HEIGHT:.5f}" for x, y in each.corners(0))
            for each in shapes
        ]
        (folder / "labels" / f"{number:03}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(f"nc: {len(NAMES)}\nnames: [{', '.join(NAMES)}]\n")


EXPORTS: dict[str, Callable[[Path, list[list[Rectangle]]], None]] = {
    "labelme": write_labelme,
    "cvat": write_cvat,
    "supervision-coco": write_supervision_coco,
    "supervision-yolo": write_supervision_yolo,
}
