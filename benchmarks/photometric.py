"""Photometric augmentation: composed 8-bit look-up tables by image, or kornia on the batch.

Prints the time of one crop of each, in one run, and their ratio. Both change gamma, exposure,
contrast and colour gains, and now and then grey, blur and noise.

Usage: python benchmarks/photometric.py
"""

import time
from collections.abc import Callable

import cv2
import kornia.augmentation as kornia
import numpy as np
import torch

from cag_uda.data.loading.augment import photometric

_BATCH = 8
_SIZE = (144, 192)


def milliseconds(work: Callable[[], object], repeats: int = 20) -> float:
    """Median time of a call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def main() -> None:
    """Measure both on one core each, and kornia on all."""
    cv2.setNumThreads(1)
    images = np.random.default_rng(0).integers(0, 256, (_BATCH, *_SIZE, 3)).astype(np.uint8)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    augment = kornia.AugmentationSequential(
        kornia.RandomGamma((0.5, 2.0), p=1.0),
        kornia.ColorJiggle(0.4, 0.4, 0.2, 0.05, p=1.0),
        kornia.RandomGrayscale(p=0.2),
        kornia.RandomGaussianBlur((5, 5), (0.3, 1.2), p=0.3),
        kornia.RandomGaussianNoise(std=0.03, p=0.3),
    )

    def tables() -> None:
        rng = np.random.default_rng(0)
        for image in images:
            photometric(image, 1.0, rng)

    threads = torch.get_num_threads()
    table_ms = milliseconds(tables) / _BATCH
    torch.set_num_threads(1)
    one_ms = milliseconds(lambda: augment(batch)) / _BATCH
    torch.set_num_threads(threads)
    all_ms = milliseconds(lambda: augment(batch)) / _BATCH
    print(f"a crop of {_SIZE[0]}×{_SIZE[1]}: look-up tables {table_ms:.2f} ms on one core")
    for name, value in (("one core", one_ms), (f"{threads} threads", all_ms)):
        print(f"kornia {value:.2f} ms on {name}: {value / table_ms:.1f} × the tables")


if __name__ == "__main__":
    main()
