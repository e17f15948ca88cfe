"""Small trees in the layouts that data sets are published in, irregularities included.

Each label is drawn as train ids and then written as the data set's own codes by the tables below,
which are typed from the publications and know nothing of the domain files.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.support.domain_trees import GREY_AND_ALPHA, RGB, write_image, write_label, write_raw_png

TrainIds = npt.NDArray[np.uint8]
IGNORE = 255

# cityscapesscripts, helpers/labels.py; 34 is no label there and occurs in files of GTA5.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
# The data set's README; order of train ids as in ADVENT, dataset/synthia.py.
SYNTHIA_IDS = (3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11)
SYNTHIA_VOID = (0, 13, 14, 22)
# config_v1.2.json of Mapillary Vistas: one of the ids of each class.
MAPILLARY_IDS = (13, 15, 17, 6, 3, 45, 48, 50, 30, 29, 27, 19, 20, 55, 61, 54, 58, 57, 52)
MAPILLARY_VOID = (0, 14, 31, 49, 64, 65)

HEIGHT_PX, WIDTH_PX = 104, 208
PALETTE = np.random.default_rng(0).integers(0, 256, 768).tolist()


@dataclass(frozen=True)
class Drawn:
    """One image of a tree."""

    key: str
    train_ids: TrainIds
    """(H, W) as it should be read, at the size of the label file."""


@dataclass(frozen=True)
class Layout:
    """How one data set is published."""

    folder: str
    """Its folder below the data root."""
    label_folder: str
    """Folder of the labels below it."""
    image_folder: str
    """Folder of the images below it."""
    write: Callable[[Path, int], dict[str, list[Drawn]]]
    """Writes so many images a split below the data set's folder; gives the labelled ones."""
    unlabelled: tuple[str, ...] = ()


def draw(seed: int, height: int = HEIGHT_PX, width: int = WIDTH_PX) -> TrainIds:
    """A label map of all 19 classes and unlabelled pixels in blocks."""
    rng = np.random.default_rng(seed)
    blocks = rng.permutation(np.resize([*range(19), IGNORE], 8 * 10)).reshape(8, 10)
    rows, columns = (-(-side // count) for side, count in ((height, 8), (width, 10)))
    return blocks.repeat(rows, 0).repeat(columns, 1)[:height, :width].astype(np.uint8)


def encode(train_ids: TrainIds, ids: tuple[int, ...], void: tuple[int, ...]) -> npt.NDArray[Any]:
    """The data set's codes; unlabelled pixels get each of the void codes in turn."""
    codes = np.array([*ids, *[0] * (256 - len(ids))])[train_ids]
    unlabelled = train_ids == IGNORE
    codes[unlabelled] = np.resize(void, unlabelled.sum())
    return codes


def photo(path: Path, train_ids: TrainIds, height: int, width: int) -> None:
    """A picture in which each class has a colour of its own, and one pixel the file."""
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)[train_ids]
    rows = np.arange(height).clip(max=len(train_ids) - 1)
    pixels = colours[rows][:, :width]
    pixels[-1, -1] = np.frombuffer(zlib.crc32(str(path).encode()).to_bytes(4, "big")[1:], np.uint8)
    write_image(path, pixels)


def palette_png(path: Path, ids: npt.NDArray[Any]) -> None:
    """An indexed PNG, as `Image.putpalette` makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(PALETTE)
    image.save(path)


def write_gta5(root: Path, count: int) -> dict[str, list[Drawn]]:
    """Sizes vary, the second label is a row taller than its image, and 34 is among the void ids."""
    drawn = []
    for number in range(1, count + 1):
        height, width = HEIGHT_PX + 2 * (number % 3), WIDTH_PX - number % 2
        label_height = height + (number == 2)
        train_ids = draw(number, label_height, width)
        photo(root / f"images/{number:05}.png", train_ids, height, width)
        palette_png(
            root / f"labels/{number:05}.png",
            encode(train_ids, CITYSCAPES_IDS, (*CITYSCAPES_VOID, 34)),
        )
        drawn.append(Drawn(f"images/{number:05}", train_ids))
    for blank in (15188, 17705):
        write_image(root / f"images/{blank}.png", np.zeros((8, 9, 3), np.uint8))
        palette_png(root / f"labels/{blank}.png", np.full((HEIGHT_PX, WIDTH_PX), 7))
    return {"train": drawn}


def write_synthia(root: Path, count: int) -> dict[str, list[Drawn]]:
    """16-bit PNGs, by turns of two channels and of three; the second holds the instance."""
    drawn = []
    for number in range(count):
        train_ids = draw(number)
        photo(root / f"RGB/{number:07}.png", train_ids, HEIGHT_PX, WIDTH_PX)
        ids = encode(train_ids, SYNTHIA_IDS, SYNTHIA_VOID)
        channels = [ids, np.arange(ids.size).reshape(ids.shape) % 60_000, np.full(ids.shape, 5)]
        kind, used = ((GREY_AND_ALPHA, 2), (RGB, 3))[number % 2]
        pixels = np.stack(channels[:used], axis=-1).astype(">u2")
        path = root / f"GT/LABELS/{number:07}.png"
        write_raw_png(path, kind, 16, WIDTH_PX, [row.tobytes() for row in pixels])
        write_image(root / f"GT/COLOR/{number:07}.png", np.zeros((2, 2, 3), np.uint8))
        drawn.append(Drawn(f"RGB/{number:07}", train_ids))
    return {"train": drawn}


def write_cityscapes(root: Path, count: int) -> dict[str, list[Drawn]]:
    """Labels of every kind beside each other; those of the test images are blank."""
    drawn: dict[str, list[Drawn]] = {"train": [], "val": []}
    for split, city in (("train", "aachen"), ("val", "lindau"), ("test", "berlin")):
        for number in range(count):
            stem = f"{split}/{city}/{city}_{number:06}_000019"
            train_ids = draw(number)
            key = f"leftImg8bit/{stem}_leftImg8bit"
            photo(root / f"{key}.png", train_ids, HEIGHT_PX, WIDTH_PX)
            codes = encode(train_ids, CITYSCAPES_IDS, CITYSCAPES_VOID)
            ids = np.zeros_like(codes) if split == "test" else codes
            write_label(root / f"gtFine/{stem}_gtFine_labelIds.png", ids)
            write_label(root / f"gtFine/{stem}_gtFine_instanceIds.png", ids * 1000, np.uint16)
            write_image(root / f"gtFine/{stem}_gtFine_color.png", np.zeros((2, 2, 3), np.uint8))
            (root / f"gtFine/{stem}_gtFine_polygons.json").write_text("{}")
            if split in drawn:
                drawn[split].append(Drawn(key, train_ids))
    return drawn


def write_acdc(root: Path, count: int) -> dict[str, list[Drawn]]:
    """Two conditions, and the images of the same places in good weather."""
    drawn: dict[str, list[Drawn]] = {"train": [], "val": []}
    for condition in ("fog", "night"):
        for split in ("train", "val", "test"):
            for number in range(count):
                frame = f"GOPR0475/GOPR0475_frame_{number:06}"
                key = f"rgb_anon/{condition}/{split}/{frame}_rgb_anon"
                train_ids = draw(number)
                photo(root / f"{key}.png", train_ids, HEIGHT_PX, WIDTH_PX)
                reference = f"rgb_anon/{condition}/{split}_ref/{frame}_rgb_ref_anon.png"
                photo(root / reference, train_ids, HEIGHT_PX, WIDTH_PX)
                if split in drawn:
                    write_train_ids(root / f"gt/{condition}/{split}/{frame}", train_ids)
                    drawn[split].append(Drawn(key, train_ids))
    return drawn


def write_dark_zurich(root: Path, count: int) -> dict[str, list[Drawn]]:
    """Night, twilight and day to train on; labels of the val images alone."""
    drawn = []
    for part in ("train/night", "train/twilight", "train/day", "val/night", "test/night"):
        for number in range(count):
            frame = f"{part}/GOPR0356/GOPR0356_frame_{number:06}"
            train_ids = draw(number)
            photo(root / f"rgb_anon/{frame}_rgb_anon.png", train_ids, HEIGHT_PX, WIDTH_PX)
            if part == "val/night":
                write_train_ids(root / f"gt/{frame}", train_ids)
                drawn.append(Drawn(f"rgb_anon/{frame}_rgb_anon", train_ids))
    return {"val": drawn}


def write_train_ids(place: Path, train_ids: TrainIds) -> None:
    """The label files of ACDC and Dark Zurich."""
    write_label(place.with_name(f"{place.name}_gt_labelTrainIds.png"), train_ids)
    codes = encode(train_ids, CITYSCAPES_IDS, CITYSCAPES_VOID)
    write_label(place.with_name(f"{place.name}_gt_labelIds.png"), codes)
    write_label(place.with_name(f"{place.name}_gt_invIds.png"), train_ids)


def write_bdd100k(root: Path, count: int) -> dict[str, list[Drawn]]:
    """JPEG images; colours beside the train ids."""
    return _bdd100k(root, count, "images/10k", "labels/sem_seg/masks", "")


def write_bdd100k_seg(root: Path, count: int) -> dict[str, list[Drawn]]:
    """The older release of the same images."""
    return _bdd100k(root, count, "seg/images", "seg/labels", "_train_id")


def _bdd100k(
    root: Path, count: int, images: str, labels: str, ending: str
) -> dict[str, list[Drawn]]:
    drawn: dict[str, list[Drawn]] = {"train": [], "val": []}
    for split in ("train", "val", "test"):
        for number in range(count):
            stem, train_ids = f"{split}/0a0a0b1a-7c39d84{number}", draw(number)
            photo(root / images / f"{stem}.jpg", train_ids, HEIGHT_PX, WIDTH_PX)
            if split in drawn:
                write_label(root / labels / f"{stem}{ending}.png", train_ids)
                drawn[split].append(Drawn(f"{images}/{stem}", train_ids))
    return drawn


def write_mapillary(root: Path, count: int) -> dict[str, list[Drawn]]:
    """JPEG images of several sizes, as the zip of v1.2 has them."""
    return _mapillary(root, count, "labels")


def write_mapillary_v2(root: Path, count: int) -> dict[str, list[Drawn]]:
    """The zip of v2.0, with labels of both versions."""
    for folder in ("training", "validation"):
        palette_png(root / folder / "v2.0/labels/m_0.png", np.full((HEIGHT_PX, WIDTH_PX), 123))
    return _mapillary(root, count, "v1.2/labels")


def _mapillary(root: Path, count: int, labels: str) -> dict[str, list[Drawn]]:
    drawn: dict[str, list[Drawn]] = {"train": [], "val": []}
    for split, folder in (("train", "training"), ("val", "validation"), ("test", "testing")):
        for number in range(count):
            height, width = HEIGHT_PX + 30 * number, WIDTH_PX - 20 * number
            train_ids = draw(number, height, width)
            photo(root / f"{folder}/images/m_{number}.jpg", train_ids, height, width)
            if split in drawn:
                codes = encode(train_ids, MAPILLARY_IDS, MAPILLARY_VOID)
                palette_png(root / folder / labels / f"m_{number}.png", codes)
                drawn[split].append(Drawn(f"{folder}/images/m_{number}", train_ids))
    return drawn


LAYOUTS = {
    "gta5": Layout("gta5", "labels", "images", write_gta5),
    "synthia": Layout("synthia", "GT/LABELS", "RGB", write_synthia),
    "cityscapes": Layout("cityscapes", "gtFine", "leftImg8bit", write_cityscapes, ("test",)),
    "acdc": Layout("ACDC", "gt", "rgb_anon", write_acdc, ("test",)),
    "dark-zurich": Layout("dark_zurich", "gt", "rgb_anon", write_dark_zurich, ("train", "test")),
    "bdd100k": Layout("bdd100k", "labels", "images", write_bdd100k, ("test",)),
    "mapillary": Layout("mapillary", "training/labels", "training", write_mapillary, ("test",)),
}
"""Data sets by the name of their domain."""
