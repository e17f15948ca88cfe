"""Compare prediction by windows with whole images: CPU time, memory and labels that differ.

Run as `python benchmarks/large_images.py`; each image is looked at whole, and with a budget that
forces windows. Labels are compared, not scored: by a network of random weights, or by --model.
"""

import argparse
import time
from unittest.mock import patch

import numpy as np
import torch

from cag_uda.models import label_maps, load
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.inference import Image, LabelMap
from cag_uda.models.segmenter import Segmenter
from cag_uda.scenes import render
from cag_uda.training.memory import PeakMemory
from cag_uda.training.process import prepare_process

_CLASSES = 19
_ROOMY = 1 << 50


def network(backbone: str, decoder: str) -> Segmenter:
    """Build a network of random weights whose classes all occur."""
    torch.manual_seed(0)
    names = tuple(f"class {number}" for number in range(_CLASSES))
    palette = tuple((number, number, number) for number in range(_CLASSES))
    config = SegmenterConfig(backbone=backbone, decoder=decoder)
    segmenter = Segmenter(config, Classes(names=names, palette=palette)).eval()
    torch.nn.init.normal_(segmenter.get_parameter("classifier.weight"))
    return segmenter


def label(segmenter: Segmenter, image: Image, budget_bytes: int) -> tuple[LabelMap, float, float]:
    """Label an image as if so much memory were free; CPU seconds and MiB of peak memory too."""
    memory = PeakMemory(torch.device("cpu"))
    before_mib = memory.mib()
    begun_s = time.process_time()
    with (
        patch.object(label_maps, "free_bytes", lambda device: budget_bytes),
        patch.object(label_maps, "_WINDOW_BYTES", budget_bytes),
    ):
        found = label_maps.label_map(segmenter, image)
    return found, time.process_time() - begun_s, memory.mib() - before_mib


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet-18")
    parser.add_argument("--decoder", default="segformer")
    parser.add_argument("--model", help="a run or a model folder, in place of random weights")
    parser.add_argument("--budget-mib", type=int, default=512)
    parser.add_argument("--sizes", nargs="+", default=["1125x1500", "2250x3000"])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    prepare_process()
    segmenter = load(asked.model) if asked.model else network(asked.backbone, asked.decoder)
    # At the images' own size, as after training on images of it.
    segmenter.config = segmenter.config.model_copy(update={"input_width_px": None})
    print(f"{'size':>12} {'whole s':>8} {'windows s':>10} {'ratio':>6} {'MiB':>12} {'equal':>8}")
    for height, width in [map(int, size.split("x")) for size in asked.sizes]:
        image = np.asarray(render(0, 0, "hard", height, width)[0])
        label(segmenter, image[:256, :256].copy(), asked.budget_mib << 20)
        whole, windows = [], []
        for _ in range(asked.rounds):
            whole.append(label(segmenter, image, _ROOMY))
            windows.append(label(segmenter, image, asked.budget_mib << 20))
        whole_s, windows_s = (min(each[1] for each in runs) for runs in (whole, windows))
        memory = f"{whole[0][2]:.0f}/{windows[0][2]:.0f}"
        equal = np.mean(whole[0][0] == windows[0][0])
        print(
            f"{width:>7}×{height} {whole_s:8.2f} {windows_s:10.2f} {windows_s / whole_s:6.2f} "
            f"{memory:>12} {100 * equal:7.2f} %"
        )


if __name__ == "__main__":
    main()
