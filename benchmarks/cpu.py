"""Throughput of a training step on a CPU, from the plainest settings to the engine's, rung by rung.

Run: python benchmarks/cpu.py [--backbone NAME] [--rounds N]

Each rung is a process of its own: malloc's thresholds cannot be taken back. The fastest of the
rounds counts; figures are multiples of the first rung's throughput. Wanted: the best one at least 3
on a machine with AMX.
"""

import argparse
import json
import subprocess
import sys
import time

import torch
from torch.nn import functional

from cag_uda.models.config import SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.runs.bench.step import numbered_classes
from cag_uda.training.compute import set_memory_format
from cag_uda.training.process import prepare_process

BATCH, CROP_PX, CLASSES = 4, (240, 320), 11
RUNGS: dict[str, tuple[bool, bool, bool]] = {
    "fp32, NCHW, default malloc": (False, False, False),
    "fp32, NCHW, raised malloc thresholds": (False, False, True),
    "fp32, channels-last, raised malloc thresholds": (False, True, True),
    "bf16, channels-last, raised malloc thresholds": (True, True, True),
}
"""Settings by name: bf16, channels-last, process prepared."""


def measure(backbone: str, rung: tuple[bool, bool, bool], steps: int = 5) -> float:
    """Time a training step with a rung's settings: the median of `steps` after one."""
    is_bf16, is_channels_last, is_prepared = rung
    if is_prepared:
        prepare_process()
    torch.manual_seed(0)
    config = SegmenterConfig(backbone=backbone, decoder="light")
    network = Segmenter(config, numbered_classes(CLASSES)).train()
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    set_memory_format(network, layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    image = torch.rand(BATCH, 3, *CROP_PX).contiguous(memory_format=layout)
    label = torch.randint(0, CLASSES, (BATCH, *CROP_PX))
    times = []
    for _ in range(steps + 1):
        begun_s = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            logits = network(image, "source").logits
        resized = functional.interpolate(logits.float(), size=CROP_PX, mode="bilinear")
        torch.autograd.backward(functional.cross_entropy(resized, label))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - begun_s)
    return sorted(times[1:])[steps // 2]


def main() -> None:
    """Time every rung in turn, or the one that is named, in this process."""
    parser = argparse.ArgumentParser(description="Throughput of a training step on a CPU.")
    parser.add_argument("--backbone", default="resnet-18")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rung", help="JSON: bf16, channels-last, process prepared; prints its s")
    given = parser.parse_args()
    if given.rung:
        print(measure(given.backbone, tuple(json.loads(given.rung))))
        return
    step_s: dict[str, list[float]] = {name: [] for name in RUNGS}
    for _ in range(given.rounds):
        for name, rung in RUNGS.items():
            options = ["--backbone", given.backbone, "--rung", json.dumps(rung)]
            command = [sys.executable, __file__, *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            step_s[name].append(float(done.stdout))
    plain_s = min(next(iter(step_s.values())))
    print(f"{given.backbone}, batch {BATCH} of {CROP_PX[0]}×{CROP_PX[1]}; multiples of the first")
    for name, times in step_s.items():
        print(f"{name:<48}{plain_s / min(times):>8.2f} ×")
    best = max(plain_s / min(times) for times in step_s.values())
    has_amx = torch.cpu._is_amx_tile_supported()
    wanted = "wanted at least 3" if has_amx else "no AMX: nothing wanted"
    print(f"best {best:.2f} × ({wanted})")


if __name__ == "__main__":
    main()
