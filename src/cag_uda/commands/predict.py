"""`cag-uda predict`: label maps of images and folders of images."""

import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from cag_uda.commands.models import computing_in, open_model
from cag_uda.data.ahead import ahead
from cag_uda.errors import UserError
from cag_uda.files import write_with
from cag_uda.models.config import Classes
from cag_uda.models.inference import as_rgb, label_maps
from cag_uda.progress import OnConsole
from cag_uda.types import IGNORE

Picture: TypeAlias = NDArray[np.uint8]
Painter: TypeAlias = Callable[[Picture, Picture, Classes], Picture]
"""Makes the picture to write from the image (H, W, 3), the train ids (H, W) and the classes."""

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
_AHEAD = 4


def predict_files(
    console: Console,
    model: str,
    inputs: list[str],
    out: Path,
    kind: str,
    accelerator: str,
    precision: str,
) -> None:
    """Segment files, folders and globs; outputs mirror the paths of their inputs.

    Raises:
        UserError: for inputs or a model that cannot be used; what is written before stays.
    """
    if kind not in PAINTERS:
        raise UserError(f"--as is one of {', '.join(PAINTERS)}, got {kind!r}")
    jobs = _jobs(inputs, out)
    segmenter = open_model(model, accelerator)
    if kind == "label-ids" and segmenter.classes.label_ids is None:
        raise UserError(f"the classes of {model} have no label ids; use --as train-ids")
    bars = OnConsole(console)
    images: list[Picture] = []

    def read() -> Iterator[Picture]:
        for image in ahead(as_rgb, [source for source, _ in jobs], depth=_AHEAD):
            images.append(image)
            yield image

    with computing_in(precision, segmenter):
        for done, ((_, place), label) in enumerate(
            zip(jobs, label_maps(segmenter, read()), strict=True), start=1
        ):
            _write(place, PAINTERS[kind](images.pop(0), label, segmenter.classes))
            bars.update("predicting", done, len(jobs))
    console.print(f"{len(jobs)} predictions in {out}", highlight=False)


def _jobs(inputs: list[str], out: Path) -> list[tuple[Path, Path]]:
    """Every image and where its prediction goes: the input's path below its folder, as PNG."""
    jobs: dict[Path, Path] = {}
    for each in inputs:
        path = Path(each)
        found: list[Path]
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in _IMAGES)
            places = [p.relative_to(path) for p in found]
        else:
            found = [path] if path.is_file() else sorted(map(Path, glob.glob(each, recursive=True)))
            found = [p for p in found if p.is_file()]
            places = [Path(p.name) for p in found]
        if not found:
            raise UserError(
                f"no image at {each}; give image files ({', '.join(_IMAGES)}), folders or globs"
            )
        for source, place in zip(found, places, strict=True):
            jobs[source] = (out / place).with_suffix(".png")
    _refuse_collisions(jobs)
    return list(jobs.items())


def _refuse_collisions(jobs: dict[Path, Path]) -> None:
    inputs = {source.resolve() for source in jobs}
    taken: dict[Path, Path] = {}
    for source, place in jobs.items():
        if place.resolve() in inputs:
            raise UserError(f"{place} is an input and would be overwritten; choose another --out")
        if place in taken:
            raise UserError(
                f"{source} and {taken[place]} would both be written to {place}; "
                "give their folder instead, so that paths are kept"
            )
        taken[place] = source


def _write(path: Path, picture: Picture) -> None:
    stored = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".png", stored)[1].tobytes()
    write_with(path, lambda temporary: temporary.write_bytes(encoded))


def _train_ids(image: Picture, label: Picture, classes: Classes) -> Picture:
    return label


def _label_ids(image: Picture, label: Picture, classes: Classes) -> Picture:
    table = np.zeros(IGNORE + 1, np.uint8)
    table[: len(classes.names)] = classes.label_ids or ()
    return table[label]


def _colours(image: Picture, label: Picture, classes: Classes) -> Picture:
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[: len(classes.palette)] = classes.palette
    return table[label]


def _overlay(image: Picture, label: Picture, classes: Classes) -> Picture:
    colours = _colours(image, label, classes)
    return np.asarray(cv2.addWeighted(image, 0.5, colours, 0.5, 0), dtype=np.uint8)


PAINTERS: dict[str, Painter] = {
    "overlay": _overlay,
    "color": _colours,
    "train-ids": _train_ids,
    "label-ids": _label_ids,
}
"""What can be written, by the name that `--as` takes."""
