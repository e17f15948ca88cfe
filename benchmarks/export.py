"""Time a network in torch and as ONNX by onnxruntime, from 8-bit pixels to train ids.

Both take the same image of memory and give the label map; they take turns in one process, with the
same number of threads. The file is made of a network with random weights, which changes no time.

    python benchmarks/export.py [--backbone resnet-50] [--size 512 1024] [--threads 1]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.label_maps import label_map
from cag_uda.models.segmenter import Segmenter
from cag_uda.prediction.export import export
from cag_uda.scenes import render
from cag_uda.training.compute import settle_arithmetic
from cag_uda.training.process import prepare_process

CLASSES = 19


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet-50")
    parser.add_argument("--decoder", default="deeplab-v3plus")
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480), metavar=("H", "W"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


def median_ms(times_s: list[float]) -> float:
    """Return the median of all times but the first, which warms up, in milliseconds."""
    return 1e3 * statistics.median(times_s[1:])


def main() -> None:
    """Print both latencies, their ratio, and how far the labels agree."""
    asked = options()
    prepare_process()
    settle_arithmetic()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    classes = Classes(
        names=tuple(f"class {number}" for number in range(CLASSES)),
        palette=tuple((number, 10 * number, 200) for number in range(CLASSES)),
    )
    config = SegmenterConfig(backbone=asked.backbone, decoder=asked.decoder)
    segmenter = Segmenter(config, classes).eval()
    image = render(0, 0, "hard", *asked.size)[0]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "network.onnx"
        export(segmenter, path)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = asked.threads
        session = onnxruntime.InferenceSession(path, settings)
    results: dict[str, np.ndarray] = {}

    def in_torch() -> None:
        results["torch"] = label_map(segmenter, image)

    def in_onnxruntime() -> None:
        results["onnxruntime"] = session.run(None, {"image": image[None]})[0][0]

    times: dict[Callable[[], None], list[float]] = {in_torch: [], in_onnxruntime: []}
    for _ in range(asked.rounds + 1):
        for work, taken in times.items():
            begun = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begun)
    torch_ms, onnx_ms = median_ms(times[in_torch]), median_ms(times[in_onnxruntime])
    equal = (results["torch"] == results["onnxruntime"]).mean()
    print(
        f"{asked.backbone} {asked.decoder}, {asked.size[0]}×{asked.size[1]}, {asked.threads} "
        f"threads: torch {torch_ms:.0f} ms   onnxruntime {onnx_ms:.0f} ms   ratio "
        f"{torch_ms / onnx_ms:.2f}   labels equal on {100 * equal:.3f} %"
    )


if __name__ == "__main__":
    main()
