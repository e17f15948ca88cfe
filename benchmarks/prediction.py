"""Holds the throughput of `cag-uda predict` against that of the bare network.

The bare network labels the same images from memory, decoded and batched beforehand, up to train ids
in memory; `predict` reads them as JPEGs from a folder and writes PNGs of the chosen kinds. The two
take turns in one process. The bar is a ratio of 0.9. Batch-norm statistics and weights are random:
nothing here depends on them.

    python benchmarks/prediction.py [--backbone resnet-50] [--as overlay]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import torch

from cag_uda.data.files.images import read_image
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.inference import prepare
from cag_uda.models.label_maps import label_batch
from cag_uda.models.segmenter import Segmenter
from cag_uda.prediction.predict import predict_files
from cag_uda.prediction.stream import BATCH_SIZE
from cag_uda.scenes import render
from cag_uda.training.compute import settle_arithmetic
from cag_uda.training.process import prepare_process

CLASSES = 19


class Throughput(NamedTuple):
    """Result of the benchmark."""

    bare: float
    """Images a second of the network alone."""
    predict: float
    """Images a second of the command, without the time in which it loads the network."""
    load_s: float
    """Seconds of loading the network, which are subtracted from the command's."""


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet-50")
    parser.add_argument("--decoder", default="deeplab-v3plus")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480), metavar=("H", "W"))
    parser.add_argument("--as", dest="kinds", default="train-ids")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args(arguments)


def write_model(folder: Path, backbone: str, decoder: str) -> None:
    """A network of random weights."""
    classes = Classes(
        names=tuple(f"class {number}" for number in range(CLASSES)),
        palette=tuple((number, 10 * number, 200) for number in range(CLASSES)),
    )
    Segmenter(SegmenterConfig(backbone=backbone, decoder=decoder), classes).save_pretrained(folder)


def write_photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Rendered scenes as JPEGs."""
    folder.mkdir()
    for number in range(count):
        image = cv2.cvtColor(render(0, number, "hard", *size)[0], cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{number:04}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 92])


def seconds(work: Callable[[], None]) -> float:
    """Time a piece of work, in seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def measure(asked: argparse.Namespace) -> Throughput:
    """Let both label the images, turn by turn."""
    with tempfile.TemporaryDirectory() as scratch:
        names = ("model", "photos", "one", "out")
        model, photos, one, out = (Path(scratch) / name for name in names)
        write_model(model, asked.backbone, asked.decoder)
        write_photos(photos, asked.images, tuple(asked.size))
        write_photos(one, 1, (32, 32))
        segmenter = Segmenter.from_pretrained(model)
        segmenter.to("cuda" if torch.cuda.is_available() else "cpu")
        prepared = [prepare(read_image(path), None) for path in sorted(photos.iterdir())]

        def bare() -> None:
            for start in range(0, len(prepared), BATCH_SIZE):
                label_batch(segmenter, prepared[start : start + BATCH_SIZE], tuple(asked.size))

        def predict() -> None:
            kinds = asked.kinds.split(",")
            predict_files(str(model), [str(photos)], out, kinds, overwrite=True)

        def load() -> None:
            predict_files(str(model), [str(one)], out.with_name("o"), ["color"])

        timed: dict[Callable[[], None], list[float]] = {bare: [], predict: [], load: []}
        for _ in range(asked.rounds + 1):
            for work, taken in timed.items():
                taken.append(seconds(work))
        bare_s, predict_s, load_s = (statistics.median(taken[1:]) for taken in timed.values())
    return Throughput(asked.images / bare_s, asked.images / (predict_s - load_s), load_s)


def main() -> None:
    """Print both throughputs and their ratio."""
    asked = options()
    prepare_process()
    settle_arithmetic()
    theirs, ours, load_s = measure(asked)
    print(
        f"{asked.backbone} {asked.decoder}, {asked.images} images of {asked.size[0]}×"
        f"{asked.size[1]}, as {asked.kinds}, {torch.get_num_threads()} threads: bare "
        f"{theirs:.2f} images/s   predict {ours:.2f} images/s (loading the network, "
        f"{load_s:.2f} s, taken off)   ratio {ours / theirs:.3f}"
    )


if __name__ == "__main__":
    main()
