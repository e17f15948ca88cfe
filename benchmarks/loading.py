"""Time loading against bare decoding: pictures a second and core, at two data sets' sizes.

The sizes are those of GTA5 and Cityscapes.

Run: python benchmarks/loading.py [--rounds N] [--images N] [--folder DIR]

Synthetic pictures (smooth shapes with sensor noise, which PNG compresses about as well as the real
ones: 3.5 to 4 MB a picture) and labels of 16-pixel blocks are written once. Then each round times,
one after the other so that a noisy neighbour disturbs all alike, in one process on one core:

* bare decoding: the files' bytes through the fastest decoder of each (OpenCV for pictures and ids,
  Pillow for palettes), and nothing else;
* loading: the batches that training gets, with crops, flips, labels mapped and checked, stacked;
* loading from the cache of decoded images, after a first epoch filled it.

Time is processor time of the process, so that other work on the machine counts little. A batch
has two source pictures with labels and two target pictures. The rate is pictures a second.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from cag_uda.data.domains.domain import Domain
from cag_uda.data.files.cache import VARIABLE
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.decoded import DecodedImages
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages
from cag_uda.data.loading.sampler import BatchSource
from cag_uda.types import Batch

GTA5 = (1052, 1914)
CITYSCAPES = (1024, 2048)
RECIPES = {
    "paper: 896×512 crops, scale 0.5 to 1.5 of 2200 px": LoadingConfig(
        batch_size=2, crop_px=(512, 896), scale=(0.5, 1.5), scale_width_px=2200, workers=0
    ),
    "half size: 512×256 crops of 1024 px": LoadingConfig(
        batch_size=2, crop_px=(256, 512), scale=(0.8, 1.2), width_px=1024, workers=0
    ),
}
LEAST_SHARE_OF_BARE_DECODING = 0.85
"""Wanted: loading at this share of the rate of bare decoding."""
CLASSES = 19


def picture(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A picture (H, W, 3) that PNG compresses as it does a street: smooth, with sensor noise."""
    height, width = size
    coarse = rng.integers(0, 256, (height // 32, width // 32, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = smooth + rng.normal(0, 2.5, smooth.shape)
    pixels: NDArray[np.uint8] = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return pixels


def write_domain(folder: Path, name: str, size: tuple[int, int], count: int, palette: bool) -> Path:
    """Pictures, labels and the file that describes them; returns the file."""
    rng = np.random.default_rng(len(name))
    for part in ("images", "labels"):
        (folder / name / part).mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / name / "images" / f"{index:03}.png"), picture(size, rng))
        coarse = rng.integers(0, CLASSES, (size[0] // 16 + 1, size[1] // 16 + 1)).astype(np.uint8)
        label = np.kron(coarse, np.ones((16, 16), np.uint8))[: size[0], : size[1]]
        image = Image.fromarray(label, mode="P" if palette else "L")
        if palette:
            image.putpalette(rng.integers(0, 256, 768).tolist())
        image.save(folder / name / "labels" / f"{index:03}.png")
    encoding = "palette" if palette else "ids"
    text = (
        f'name = "{name}"\nroot = "{name}"\nlabel_space = "cityscapes-19"\n'
        '[splits.train]\nimages = "images/*"\nlabels = "labels/*"\n'
        f'[labels]\nencoding = "{encoding}"\n'
    )
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def decode_bare(folder: Path, count: int) -> int:
    """Decode as many pictures and labels as `load` loads; returns the pictures."""
    for index in range(count):
        for name, part in (("gta5", "images"), ("cityscapes", "images")):
            data = (folder / name / part / f"{index:03}.png").read_bytes()
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        data = (folder / "gta5" / "labels" / f"{index:03}.png").read_bytes()
        np.asarray(Image.open(io.BytesIO(data)))
    return 2 * count


def load(folder: Path, count: int, config: LoadingConfig) -> int:
    """Load one epoch, as a loader process does; returns the pictures."""
    decoded = DecodedImages(config) if config.cache else None
    source = BatchSource(
        [LabelledImages(Domain.open(folder / "gta5.toml"), "train", None, decoded)],
        UnlabelledImages(Domain.open(folder / "cityscapes.toml"), "train", decoded),
        config,
        seed=0,
        stage=0,
    )
    for step in range(count // config.batch_size):
        if not isinstance(source[step], Batch):
            raise RuntimeError(f"step {step} cannot be loaded: {source[step]}")
    return 2 * count


def rate(work: Callable[[], int]) -> float:
    """Pictures a second of processor time."""
    begun_s = time.process_time()
    pictures = work()
    return pictures / (time.process_time() - begun_s)


def measure(folder: Path, count: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Rates of each way by recipe, one a round."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, config in RECIPES.items():
        cached = config.model_copy(update={"cache": True})
        load(folder, count, cached)
        rates: dict[str, list[float]] = {"bare": [], "loading": [], "cached": []}
        for _ in range(rounds):
            rates["bare"].append(rate(partial(decode_bare, folder, count)))
            rates["loading"].append(rate(partial(load, folder, count, config)))
            rates["cached"].append(rate(partial(load, folder, count, cached)))
        found[name] = rates
    return found


def main() -> None:
    """Write the pictures, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=8, help="of each domain; a multiple of 2")
    parser.add_argument("--folder", type=Path, default=None, help="for pictures and cache")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = Path(scratch)
        os.environ[VARIABLE] = str(folder / "cache")
        write_domain(folder, "gta5", GTA5, arguments.images, palette=True)
        write_domain(folder, "cityscapes", CITYSCAPES, arguments.images, palette=False)
        found = measure(folder, arguments.images, arguments.rounds)
    table = Table("pictures/s and core", "bare decoding", "loading", "share", "from the cache")
    for name, rates in found.items():
        bare, loading, cached = (statistics.median(rates[way]) for way in rates)
        shares = [a / b for a, b in zip(rates["loading"], rates["bare"], strict=True)]
        share = statistics.median(shares)
        verdict = "" if share >= LEAST_SHARE_OF_BARE_DECODING else " (below the aim)"
        table.add_row(
            name,
            f"{bare:.1f}",
            f"{loading:.1f}",
            f"{share:.2f}{verdict}",
            f"{cached:.0f} ({cached / bare:.0f}×)",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
