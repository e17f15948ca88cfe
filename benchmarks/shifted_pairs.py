"""Small pairs of domains with and without a shift of class shares, made from what there is.

Usage: python benchmarks/shifted_pairs.py FOLDER [--data-root DIR]

Writes FOLDER/PAIR/{source,target}.toml, the images and the labels of every pair of `PAIRS`, and
prints both domains' class shares. Pairs differ in two ways, apart and together:

    look     another drive or camera; or made: "dark", "fog", "inverted", "dim";
    shares   another part of the frames (upper, lower), or the half of the images that shows most of
             a class against the half that shows least of it.

Settings may be chosen on those with the role "choose" alone: their labels are source labels
(CamVid's daylight drives, rendered scenes, fluorescence). The others report. A target's images are
halved in order, which for drives is that of time: the first half is adapted to, the second scored.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from cag_uda.data.domains.domain import Domain
from cag_uda.data.files.resizing import resize_label, resize_to_width
from cag_uda.files import write_json, write_text
from cag_uda.recipes import Recipe, as_toml
from cag_uda.types import IGNORE

Image: TypeAlias = NDArray[np.uint8]
Role: TypeAlias = Literal["choose", "report"]

MOST_SOURCE, MOST_TARGET, MOST_TEST = 120, 60, 40
"""Images of a pair: sweeps and evaluation shall be short."""


class Window(NamedTuple):
    """Part of an image, in fractions of its height and width."""

    top: float = 0.0
    bottom: float = 1.0
    left: float = 0.0
    right: float = 1.0

    def of(self, image: Image) -> Image:
        """Cut (H, W, …)."""
        height, width = image.shape[:2]
        rows = slice(round(self.top * height), round(self.bottom * height))
        return image[rows, round(self.left * width) : round(self.right * width)]


WHOLE = (Window(),)
UPPER, LOWER = (Window(bottom=0.65),), (Window(top=0.35),)
HALVES = (Window(right=0.5), Window(left=0.5))
MIDDLE = (Window(left=1 / 6, right=5 / 6),)
"""Middle two thirds of the width of rendered frames, which gives them the shape of CamVid's."""


@dataclass(frozen=True)
class Side:
    """One domain of a pair."""

    splits: tuple[str, ...]
    """DOMAIN/SPLIT of built-in domains, one after the other."""
    windows: tuple[Window, ...] = WHOLE
    look: str = "plain"
    half: tuple[Literal["most", "least"], str] | None = None
    """The half of the windows that shows most, or least, of a class."""
    every: tuple[int, int] = (0, 1)
    """First and step of the images taken."""


@dataclass(frozen=True)
class Pair:
    """A source and a target."""

    role: Role
    source: Side
    target: Side
    width_px: int = 192
    crop_px: tuple[int, int] = (80, 112)


R0 = ("camvid-0006r0/train",)
E5 = ("camvid-0016e5/train", "camvid-0016e5/test")
DUSK = ("camvid-dusk/train", "camvid-dusk/test")
CELLS = ("nuclei-fluorescence/train",)
STAINED = ("nuclei-stained/train", "nuclei-stained/test")
CLEAN, HARD = ("rendered-clean/train",), ("rendered-hard/train",)
CELL_PX: dict[str, Any] = {"width_px": 160, "crop_px": (96, 96)}

PAIRS: dict[str, Pair] = {
    # No made shift: neighbours, drives, looks.
    "neighbours": Pair("choose", Side(E5, every=(0, 2)), Side(E5, every=(1, 2))),
    "drives": Pair("choose", Side(R0), Side(E5)),
    "drives-back": Pair("choose", Side(E5), Side(R0)),
    "drives-dark": Pair("choose", Side(R0), Side(E5, look="dark")),
    "back-fog": Pair("choose", Side(E5), Side(R0, look="fog")),
    "rendered": Pair("choose", Side(CLEAN), Side(HARD), crop_px=(72, 112)),
    "cells-inverted": Pair(
        "choose", Side(CELLS, every=(0, 2)), Side(CELLS, look="inverted", every=(1, 2)), **CELL_PX
    ),
    # Shifted shares.
    "upper-lower": Pair("choose", Side(R0, UPPER), Side(E5, LOWER)),
    "lower-upper-fog": Pair("choose", Side(E5, LOWER), Side(R0, UPPER, "fog")),
    "building-least": Pair(
        "choose",
        Side(R0 + E5, HALVES, half=("most", "building")),
        Side(R0 + E5, HALVES, half=("least", "building")),
        width_px=128,
        crop_px=(112, 96),
    ),
    "building-most-dark": Pair(
        "choose",
        Side(R0 + E5, HALVES, half=("least", "building")),
        Side(R0 + E5, HALVES, "dark", half=("most", "building")),
        width_px=128,
        crop_px=(112, 96),
    ),
    "rendered-lower": Pair("choose", Side(CLEAN), Side(HARD, LOWER), crop_px=(64, 128)),
    "cells-most": Pair(
        "choose",
        Side(CELLS, half=("least", "nucleus")),
        Side(CELLS, half=("most", "nucleus")),
        **CELL_PX,
    ),
    "cells-least-dim": Pair(
        "choose",
        Side(CELLS, half=("most", "nucleus")),
        Side(CELLS, look="dim", half=("least", "nucleus")),
        **CELL_PX,
    ),
    # These report.
    "dusk": Pair("report", Side(R0 + E5), Side(DUSK)),
    "dusk-lower": Pair("report", Side(R0 + E5), Side(DUSK, LOWER)),
    "rendered-camvid": Pair("report", Side(CLEAN, MIDDLE), Side(R0 + E5)),
    "stained": Pair("report", Side(CELLS), Side(STAINED), **CELL_PX),
}


def plain(image: Image, rng: np.random.Generator) -> Image:
    """Leave the image as it is."""
    return image


def dark(image: Image, rng: np.random.Generator) -> Image:
    """Late evening: less light, bluer, noise of the sensor."""
    light = (image / 255.0) ** 1.6 * np.array([0.45, 0.5, 0.62])
    return _quantised(light + rng.normal(0.0, 0.025, image.shape))


def fog(image: Image, rng: np.random.Generator) -> Image:
    """White air, the thicker the higher in the frame, where things are farther."""
    soft = cv2.GaussianBlur(image, (0, 0), 0.8) / 255.0
    air = np.linspace(0.7, 0.3, image.shape[0])[:, None, None]
    return _quantised(soft * (1 - air) + 0.82 * air)


def inverted(image: Image, rng: np.random.Generator) -> Image:
    """Dark on bright, tinted, as stains look."""
    light = 1.0 - image / 255.0
    return _quantised(light * np.array([0.9, 0.75, 0.88]) + rng.normal(0.0, 0.02, image.shape))


def dim(image: Image, rng: np.random.Generator) -> Image:
    """A weaker stain before a brighter background, out of focus."""
    soft = cv2.GaussianBlur(image, (0, 0), 1.2) / 255.0
    return _quantised(0.12 + 0.5 * soft + rng.normal(0.0, 0.02, image.shape))


def _quantised(light: Any) -> Image:
    return np.asarray(np.clip(np.rint(255 * light), 0, 255), dtype=np.uint8)


LOOKS: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    each.__name__: each for each in (plain, dark, fog, inverted, dim)
}


class Picture(NamedTuple):
    """A window of an image with its label, in the size that is written."""

    image: Image
    label: Image


def pictures(side: Side, width_px: int, data_root: Path | None) -> list[Picture]:
    """Every window of a side, in order of the images, before its half is taken."""
    found = []
    for name, _, split in (each.partition("/") for each in side.splits):
        domain = Domain.open(name, data_root)
        items = domain.items(split)
        first, step = side.every
        # Rendered scenes are many and independent: as many as are wanted will do.
        if name.startswith("rendered"):
            items = items[: MOST_SOURCE + MOST_TARGET]
        for item in items[first::step]:
            image, label = domain.read_pair(item)
            for window in side.windows:
                small = resize_to_width(window.of(image), width_px)
                found.append(Picture(small, resize_label(window.of(label), *small.shape[:2])))
    return found


def chosen(side: Side, of: list[Picture], names: tuple[str, ...]) -> list[Picture]:
    """The half of the pictures that the side asks for, in their order."""
    if side.half is None:
        return of
    which, class_name = side.half
    shares = [float((each.label == names.index(class_name)).mean()) for each in of]
    order = np.argsort(shares, kind="stable")
    kept = order[len(of) // 2 :] if which == "most" else order[: len(of) // 2]
    return [of[index] for index in sorted(kept)]


def evenly(of: list[Picture], most: int) -> list[Picture]:
    """At most so many, spread over all."""
    indices = np.linspace(0, len(of) - 1, min(most, len(of))).round().astype(int)
    return [of[index] for index in indices]


def write_domain(folder: Path, space: str, look: str, splits: dict[str, list[Picture]]) -> None:
    """Write images, labels and the domain file FOLDER.toml."""
    rng = np.random.default_rng(0)
    lines = [f"name = {as_toml(folder.parent.name + '-' + folder.name)}"]
    lines += [f"root = {as_toml(folder.name)}", f"label_space = {as_toml(space)}", ""]
    lines += ["[labels]", 'encoding = "ids"', f'map = {{ {IGNORE} = "ignore" }}']
    for split, parts in splits.items():
        for number, part in enumerate(parts):
            image = LOOKS[look](part.image, rng)
            _write(folder / split / "images" / f"{number:04}.png", image[..., ::-1])
            _write(folder / split / "labels" / f"{number:04}.png", part.label)
        lines += ["", f"[splits.{split}]", f'images = "{split}/images/*"']
        lines += [f'labels = "{split}/labels/*"']
    write_text(folder.with_suffix(".toml"), "\n".join(lines) + "\n")


def _write(path: Path, image: Image) -> None:
    encoded: Any = cv2.imencode(".png", image)[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())


def recipe_on(
    name: str, folder: Path, called: str, stages: list[dict[str, Any]], **settings: Any
) -> Recipe:
    """Write the recipe of a run on a pair: network and loader as `recipes new` has them.

    Args:
        name: of the pair.
        folder: with the pairs that `make` made.
        called: name of the recipe.
        stages: of the recipe, as TOML has them.
        settings: others of the recipe, such as its seed.
    """
    pair = PAIRS[name]
    table = {
        "name": called,
        "source": {"domain": str(folder / name / "source.toml")},
        "target": {"domain": str(folder / name / "target.toml")},
        "segmenter": {
            "backbone": "efficientnet-lite0",
            "weights": "imagenet",
            "decoder": "light",
            "output_stride": 32,
        },
        "loading": {
            "batch_size": 4,
            "width_px": pair.width_px,
            "crop_px": pair.crop_px,
            "scale": (0.8, 1.5),
            "photometric": 0.5,
        },
        "tracking": {"loggers": [], "pictures_every": None},
        "stages": stages,
    }
    return Recipe.model_validate(table | settings)


def make(name: str, folder: Path, data_root: Path | None) -> None:
    """Make a pair below FOLDER/NAME, unless it is there."""
    done = folder / name / "shares.json"
    if done.is_file():
        return
    pair = PAIRS[name]
    space = Domain.open(pair.source.splits[0].partition("/")[0], data_root).label_space
    assert space is not None, "every built-in domain of a pair has classes"
    sides = [
        chosen(side, pictures(side, pair.width_px, data_root), space.names)
        for side in (pair.source, pair.target)
    ]
    middle = len(sides[1]) // 2
    train = evenly(sides[0], MOST_SOURCE)
    adapted = evenly(sides[1][:middle], MOST_TARGET)
    test = evenly(sides[1][middle:], MOST_TEST)
    write_domain(folder / name / "source", space.name, pair.source.look, {"train": train})
    splits = {"train": adapted, "test": test}
    write_domain(folder / name / "target", space.name, pair.target.look, splits)
    shares = {
        kind: shares_of(of, space.num_classes)
        for kind, of in (("source", train), ("target", adapted), ("test", test))
    }
    write_json(done, {"classes": list(space.names), **shares})


def shares_of(of: list[Picture], num_classes: int) -> list[float]:
    """Share of each class among the labelled pixels, (K,)."""
    counts = sum(np.bincount(each.label.ravel(), minlength=256) for each in of)
    known = np.asarray(counts, dtype=np.float64)[:num_classes]
    return [float(value) for value in known / known.sum()]


def to_lines(name: str, record: dict[str, list[Any]]) -> Iterator[str]:
    """A row for each domain of a pair, as Markdown."""
    distance = np.abs(np.subtract(record["source"], record["target"])).sum() / 2
    for kind in ("source", "target"):
        told = ", ".join(
            f"{class_name} {share:.0%}"
            for class_name, share in zip(record["classes"], record[kind], strict=True)
            if share >= 0.005
        )
        yield f"| {name} | {PAIRS[name].role} | {distance:.0%} | {kind} | {told} |"


def main() -> None:
    """Make all pairs and print their class shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-root", type=Path)
    given = parser.parse_args()
    print("| pair | role | shares moved | domain | shares |\n|---|---|---:|---|---|")
    for name in PAIRS:
        make(name, given.folder, given.data_root)
        record = json.loads((given.folder / name / "shares.json").read_text())
        for line in to_lines(name, record):
            print(line, flush=True)


if __name__ == "__main__":
    main()
