"""CVAT for images 1.1: one XML for many images, shapes by their `z_order`.

Source: docs.cvat.ai, "CVAT for image"; masks are run lengths, row by row, inside their box. Drawn
as datumaro and CVAT's own "Segmentation mask" export draw them: by pycocotools, boxes too.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cag_uda.data.annotations.drawing import Drawing, Points, Shape, rectangle
from cag_uda.errors import DataError
from cag_uda.files import write_with

_CORNERS_OF_ELLIPSE = 72


def read(path: Path) -> list[Drawing]:
    """Read the drawings of all images of a file. Raises DataError."""
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag == "annotations" and root.find("track") is not None:
            raise DataError(f'{path} is "CVAT for video"; export "CVAT for images", or masks')
        images = root.findall("image")
        if not images:
            raise ValueError("no <image> in it")
        return [_drawing(image) for image in images]
    except (OSError, ElementTree.ParseError, KeyError, ValueError) as error:
        raise DataError(f'{path} is no XML of "CVAT for images": {error}') from error


def class_names(path: Path) -> list[str]:
    """Read the names of the labels that the file declares, or else uses. Raises DataError."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f'{path} is no XML of "CVAT for images": {error}') from error
    declared = [name.text or "" for name in root.iterfind("meta//labels/label/name")]
    used = [shape.get("label", "") for image in root.iterfind("image") for shape in image]
    return list(dict.fromkeys(declared or used))


def write(path: Path, drawings: Sequence[Drawing], names: Sequence[str]) -> None:
    """Write drawings as polygons. Raises RunError."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    meta = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    labels = ElementTree.SubElement(meta, "labels")
    for name in names:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for number, drawing in enumerate(drawings):
        height, width = drawing.size or (0, 0)
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=drawing.image, width=str(width), height=str(height)
        )
        for order, shape in enumerate(drawing.shapes):
            for outline in shape.outlines:
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline)
                how = {"label": shape.name, "source": "auto", "occluded": "0", "points": points}
                ElementTree.SubElement(image, "polygon", {**how, "z_order": str(order)})
    tree = ElementTree.ElementTree(root)
    ElementTree.indent(tree)
    write_with(path, lambda place: tree.write(place, encoding="utf-8", xml_declaration=True))


def _drawing(image: "ElementTree.Element[str]") -> Drawing:
    found = [(int(each.get("z_order", "0")), _shape(each)) for each in image]
    shapes = [(order, shape) for order, shape in found if shape is not None]
    ordered = tuple(shape for _, shape in sorted(shapes, key=lambda each: each[0]))
    return Drawing(image.attrib["name"], (_whole(image, "height"), _whole(image, "width")), ordered)


def _shape(element: "ElementTree.Element[str]") -> Shape | None:
    name = element.get("label", "")
    if element.tag == "polygon":
        pairs = [pair.split(",") for pair in element.attrib["points"].split(";")]
        return Shape(name, (np.array(pairs, np.float64),))
    if element.tag == "box":
        corners = (float(element.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        return Shape(name, (rectangle(*corners),))
    if element.tag == "ellipse":
        sizes = (float(element.attrib[key]) for key in ("cx", "cy", "rx", "ry"))
        return Shape(name, (_ellipse(*sizes),))
    if element.tag == "mask":
        runs = [int(each) for each in element.attrib["rle"].split(",")]
        values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        bitmap = values.reshape(_whole(element, "height"), _whole(element, "width"))
        left, top = _whole(element, "left"), _whole(element, "top")
        return Shape(name, bitmap=bitmap, left=left, top=top)
    return None  # Tags, points and polylines have no area.


def _whole(element: "ElementTree.Element[str]", key: str) -> int:
    return round(float(element.attrib[key]))


def _ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, _CORNERS_OF_ELLIPSE, endpoint=False)
    return np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], axis=1)
