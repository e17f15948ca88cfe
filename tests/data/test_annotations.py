"""The files of annotation tools: read, drawn, written, and read again."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from pycocotools import mask as coco_mask

from cag_uda.data.annotations.drawing import paint
from cag_uda.data.annotations.formats import FORMATS, FormatName
from cag_uda.data.annotations.tracing import TOLERANCE_PX, trace
from cag_uda.data.domains.domain import Domain
from cag_uda.errors import DataError
from cag_uda.types import IGNORE
from tests.support.photo_folders import write

NAMES = ("wall", "grass", "car")
SIZE = (40, 56)
WRITTEN: list[FormatName] = ["coco", "yolo", "labelme", "cvat", "label-studio"]


def value_of(name: str) -> int:
    if name.isdigit():
        return int(name) if int(name) < len(NAMES) else IGNORE
    return NAMES.index(name) if name in NAMES else IGNORE


def label(seed: int) -> np.ndarray:
    """Regions of all sizes, some without a class, some within others, down to single pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), (8, 11))
    drawn = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    drawn[rng.integers(0, SIZE[0], 9), rng.integers(0, SIZE[1], 9)] = 2
    return np.asarray(cv2.medianBlur(drawn, 3) if seed % 2 else drawn)


def round_trip(name: FormatName, ids: np.ndarray, folder: Path, tolerance_px: float) -> np.ndarray:
    form = FORMATS[name]
    assert form.write is not None
    path = folder / f"x{form.extension}"
    form.write(path, [trace(ids, NAMES, "x.png", form.convention, tolerance_px)], NAMES)
    (drawing,) = form.read(path)
    return paint(drawing, SIZE, form.convention, IGNORE, value_of)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_without_tolerance_is_read_to_the_pixel(
    name: FormatName, seed: int, tmp_path: Path
) -> None:
    ids = label(seed)
    np.testing.assert_array_equal(round_trip(name, ids, tmp_path, 0), ids)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_differs_by_the_tolerance_alone(name: FormatName, tmp_path: Path) -> None:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ids = ((np.hypot(y - 20, x - 26) < 15) + (np.hypot(y - 20, x - 26) < 7)).astype(np.uint8)
    differs = round_trip(name, ids, tmp_path, TOLERANCE_PX) != ids
    borders = cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    borders[[0, -1], :] = borders[:, [0, -1]] = True
    near = cv2.dilate(borders.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert not (differs & ~near).any()
    assert differs.mean() < 0.05


# ---- what tools hold that this package does not write -----------------------------------------


def drawn(name: FormatName, path: Path, background: int = IGNORE) -> np.ndarray:
    (drawing,) = FORMATS[name].read(path)
    return paint(drawing, SIZE, FORMATS[name].convention, background, value_of)


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco(annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a/x.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 3, "name": "car"}, {"id": 9, "name": "grass"}],
        "annotations": [{"id": i, "image_id": 7, **each} for i, each in enumerate(annotations)],
    }


def test_coco_run_lengths_packed_and_plain(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[4:9, 10:30] = 1
    packed = coco_mask.encode(mask)
    plain = [int(n) for n in np.diff([0, *np.flatnonzero(np.diff(mask.ravel("F"))) + 1, mask.size])]
    for segmentation in (
        {"size": list(SIZE), "counts": packed["counts"].decode()},
        {"size": list(SIZE), "counts": plain},
    ):
        content = coco([{"category_id": 3, "segmentation": segmentation, "area": 100}])
        found = drawn("coco", write_json(tmp_path / "c.json", content))
        np.testing.assert_array_equal(found == 2, mask.astype(bool))


@pytest.mark.parametrize(("area", "pixels"), [(9, 9), (16, 16), (25, 9), (None, 9)])
def test_areas_of_coco_tell_what_a_whole_number_is(
    area: int | None, pixels: int, tmp_path: Path
) -> None:
    """A square from 2 to 5 is of 3 × 3 pixels between edges, of 4 × 4 through their centres."""
    outline = [[2, 2, 5, 2, 5, 5, 2, 5]]
    entry = {"category_id": 3, "segmentation": outline} | ({"area": area} if area else {})
    found = drawn("coco", write_json(tmp_path / "c.json", coco([entry])))
    assert (found == 2).sum() == pixels


def test_small_areas_of_coco_stand_above_large_ones(tmp_path: Path) -> None:
    small, large = [[5, 5, 9, 5, 9, 9, 5, 9]], [[0, 0, 30, 0, 30, 30, 0, 30]]
    content = coco(
        [{"category_id": 3, "segmentation": small}, {"category_id": 9, "segmentation": large}]
    )
    found = drawn("coco", write_json(tmp_path / "c.json", content))
    assert (found == 2).sum() == 16
    assert (found == 1).sum() == 900 - 16


def test_boxes_alone_are_refused(tmp_path: Path) -> None:
    content = coco([{"category_id": 3, "segmentation": [], "bbox": [1, 2, 3, 4]}])
    with pytest.raises(DataError, match="made for detection; export polygons or masks"):
        FORMATS["coco"].read(write_json(tmp_path / "c.json", content))


def labelme(shapes: list[dict[str, Any]]) -> dict[str, Any]:
    return {"shapes": shapes, "imagePath": "x.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}


def test_the_shapes_of_labelme(tmp_path: Path) -> None:
    bitmap = np.zeros((3, 4), bool)
    bitmap[1, 1:3] = True
    packed = io.BytesIO()
    PillowImage.fromarray(bitmap).save(packed, "PNG")
    shapes = [
        {"label": "wall", "points": [[2, 3], [11, 8]], "shape_type": "rectangle"},
        {"label": "grass", "points": [[30, 20], [30, 24]], "shape_type": "circle"},
        {
            "label": "car",
            "points": [[40, 30], [43, 32]],
            "shape_type": "mask",
            "mask": base64.b64encode(packed.getvalue()).decode(),
        },
    ]
    found = drawn("labelme", write_json(tmp_path / "x.json", labelme(shapes)))
    assert np.argwhere(found == 0).tolist() == [[y, x] for y in range(3, 9) for x in range(2, 12)]
    assert np.argwhere(found == 2).tolist() == [[31, 41], [31, 42]]
    assert abs((found == 1).sum() - np.pi * 4.5**2) < 10


def test_the_shapes_of_cvat_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(
        f"""<?xml version="1.0"?><annotations><image id="0" name="x.png" width="{SIZE[1]}"
        height="{SIZE[0]}">
        <box label="car" xtl="2" ytl="3" xbr="6" ybr="5" z_order="1"/>
        <polygon label="wall" points="0.0,0.0;20.0,0.0;20.0,10.0;0.0,10.0" z_order="0"/>
        <mask label="grass" rle="2, 2, 2" left="30" top="20" width="3" height="2" z_order="0"/>
        <ellipse label="car" cx="40" cy="20" rx="5" ry="3"/>
        <points label="car" points="1,1"/></image></annotations>"""
    )
    found = drawn("cvat", path)
    assert (found[:10, :20] == 2).sum() == 8, "above the polygon"
    assert (found == 0).sum() == 200 - 8
    assert np.argwhere(found == 1).tolist() == [[20, 32], [21, 30]]
    assert abs((found[15:25, 34:46] == 2).sum() - np.pi * 15) < 6


def test_videos_of_cvat_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<annotations><track id='0'/></annotations>")
    with pytest.raises(DataError, match="CVAT for video"):
        FORMATS["cvat"].read(path)


def test_cityscapes_polygons_from_back_to_front(tmp_path: Path) -> None:
    square = [[0, 0], [9, 0], [9, 9], [0, 9]]
    content = {
        "imgHeight": SIZE[0],
        "imgWidth": SIZE[1],
        "objects": [
            {"label": "wall", "polygon": square},
            {"label": "cargroup", "polygon": [[2, 2], [4, 2], [4, 4], [2, 4]]},
            {"label": "grass", "polygon": square, "deleted": 1},
        ],
    }
    found = drawn("cityscapes-polygons", write_json(tmp_path / "x_polygons.json", content))
    assert ((found == 2).sum(), (found == 0).sum(), (found == 1).sum()) == (9, 91, 0)


def label_studio(image: str, result: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sized = [{"original_width": SIZE[1], "original_height": SIZE[0], **each} for each in result]
    return [{"data": {"image": image}, "annotations": [{"result": sized}]}]


@pytest.mark.parametrize(
    "image", ["/data/upload/3/0a1b2c3d-x.jpg", "/data/local-files/?d=photos/x.jpg", "s3://b/x.jpg"]
)
def test_images_of_label_studio_by_their_names(image: str, tmp_path: Path) -> None:
    value = {"x": 25, "y": 50, "width": 50, "height": 25, "rectanglelabels": ["car"]}
    content = label_studio(image, [{"type": "rectanglelabels", "value": value}])
    path = write_json(tmp_path / "a.json", content)
    (drawing,) = FORMATS["label-studio"].read(path)
    assert drawing.image.endswith("x.jpg")
    assert not drawing.image.endswith("0a1b2c3d-x.jpg")
    assert (drawn("label-studio", path) == 2).sum() == 28 * 10


def test_brush_strokes_of_label_studio_are_refused(tmp_path: Path) -> None:
    value = {"format": "rle", "rle": [0, 1], "brushlabels": ["car"]}
    content = label_studio("x.jpg", [{"type": "brushlabels", "value": value}])
    with pytest.raises(DataError, match="Brush labels to PNG"):
        FORMATS["label-studio"].read(write_json(tmp_path / "a.json", content))


@pytest.mark.parametrize("name", list(FORMATS))
def test_files_of_another_kind_are_refused_by_name(name: FormatName, tmp_path: Path) -> None:
    path = tmp_path / f"x{FORMATS[name].extension}"
    for content in ("", "{", '{"a": 1}', "[[1]]", "<a/>", "0 0.1 x"):
        path.write_text(content)
        if content or name != "yolo":  # An image without a thing has an empty file.
            with pytest.raises(DataError, match=path.name):
                FORMATS[name].read(path)


# ---- as labels of a domain --------------------------------------------------------------------


def domain(folder: Path, text: str, encoding: str = "labelme") -> Domain:
    for number in range(2):
        write(folder / f"data/{number}.png", np.full((*SIZE, 3), 90 * number, np.uint8))
    classes = "".join(f'[[classes]]\nname = "{name}"\n' for name in ("background", *NAMES))
    path = folder / "d.toml"
    path.write_text(
        f'name = "d"\nroot = "data"\n[labels]\nencoding = "{encoding}"\n{text}\n'
        f'[splits.train]\nimages = "*"\nlabels = "*.json"\n{classes}'
    )
    return Domain.open(path)


def square(name: str) -> dict[str, Any]:
    return {"label": name, "points": [[0, 0], [9, 9]], "shape_type": "rectangle"}


def test_shapes_become_labels_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    opened = domain(tmp_path, 'map = { truck = "car", person = "ignore" }')
    for number, name in enumerate(("truck", "person")):
        write_json(tmp_path / f"data/{number}.json", labelme([square(name)]))
    found = [opened.read_label(item) for item in opened.items("train")]
    assert [np.unique(each).tolist() for each in found] == [[0, 3], [0, IGNORE]]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.png")}
    opened.items("train")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    write_json(tmp_path / "data/0.json", labelme([square("grass"), square("grass")]))
    item = opened.items("train")[0]
    assert np.unique(opened.read_label(item)).tolist() == [0, 2], "what changed is drawn anew"


def test_names_that_nothing_covers_are_refused(tmp_path: Path) -> None:
    opened = domain(tmp_path, "")
    for number in range(2):
        write_json(tmp_path / f"data/{number}.json", labelme([square("lorry")]))
    with pytest.raises(DataError, match=r"neither mapped nor classes: lorry \(2 shapes\)"):
        opened.items("train")
    assert len(domain(tmp_path, 'other = "ignore"').items("train")) == 2


def test_images_without_shapes_of_their_own_are_missing(tmp_path: Path) -> None:
    opened = domain(tmp_path, "")
    write_json(tmp_path / "data/0.json", labelme([square("car")]))
    with pytest.raises(DataError, match=r"1 of 2 images .* have no label: 1 \(want 1.json\)"):
        opened.items("train")


def test_pixels_outside_all_shapes_want_a_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.background = 'sky': no class of d"):
        domain(tmp_path, 'background = "sky"')
    opened = domain(tmp_path, 'background = "ignore"')
    for number in range(2):
        write_json(tmp_path / f"data/{number}.json", labelme([square("car")]))
    found = opened.read_label(opened.items("train")[0])
    assert np.unique(found).tolist() == [3, IGNORE]
