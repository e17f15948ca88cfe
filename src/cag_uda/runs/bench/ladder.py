"""Throughput of a training step on a CPU, from the plainest settings to the engine's, rung by rung.

Each rung is a process of its own: malloc's thresholds cannot be taken back.
"""

import json
import subprocess
import sys
import time

import torch
from torch.nn import functional

from cag_uda.errors import UserError
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.runs.bench.step import numbered_classes
from cag_uda.runs.bench.timing import Row
from cag_uda.training.compute import set_memory_format
from cag_uda.training.process import prepare_process

_BATCH, _CROP_PX, _CLASSES = 4, (240, 320), 11
RUNGS: dict[str, tuple[bool, bool, bool]] = {
    "fp32, NCHW, default malloc": (False, False, False),
    "fp32, NCHW, raised malloc thresholds": (False, False, True),
    "fp32, channels-last, raised malloc thresholds": (False, True, True),
    "bf16, channels-last, raised malloc thresholds": (True, True, True),
}
"""Settings by name: bf16, channels-last, process prepared."""


def ladder(backbone: str, rounds: int) -> list[Row]:
    """Measure the throughput of every rung over the first, with a backbone and the light decoder.

    The fastest of `rounds` timed runs, in turn, counts. Returns one row a rung, and the best one,
    which is held to 3 (on a machine with AMX).
    """
    step_s: dict[str, float] = {}
    for _ in range(rounds):
        for name, rung in RUNGS.items():
            taken_s = _in_process(backbone, rung)
            step_s[name] = min(taken_s, step_s.get(name, taken_s))
    plain_s = next(iter(step_s.values()))
    what = f"training throughput, {backbone}, batch {_BATCH} of {_CROP_PX[0]}×{_CROP_PX[1]}: "
    rows = [Row("cpu", what + name, plain_s / s, "× the first rung") for name, s in step_s.items()]
    best = max(row.figure for row in rows)
    has_amx = torch.cpu._is_amx_tile_supported()
    what = f"best of these ({'AMX' if has_amx else 'no AMX'})"
    bound = 3.0 if has_amx else None
    rows.append(Row("cpu", what, best, "× the first rung", at_least=bound))
    return rows


def measure(backbone: str, rung: tuple[bool, bool, bool], steps: int = 5) -> float:
    """Time a training step with a rung's settings: the median of `steps` after one."""
    is_bf16, is_channels_last, is_prepared = rung
    if is_prepared:
        prepare_process()
    torch.manual_seed(0)
    config = SegmenterConfig(backbone=backbone, decoder="light")
    network = Segmenter(config, numbered_classes(_CLASSES)).train()
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    set_memory_format(network, layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    image = torch.rand(_BATCH, 3, *_CROP_PX).contiguous(memory_format=layout)
    label = torch.randint(0, _CLASSES, (_BATCH, *_CROP_PX))
    times = []
    for _ in range(steps + 1):
        begun_s = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            logits = network(image, "source").logits
        resized = functional.interpolate(logits.float(), size=_CROP_PX, mode="bilinear")
        torch.autograd.backward(functional.cross_entropy(resized, label))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - begun_s)
    return sorted(times[1:])[steps // 2]


def _in_process(backbone: str, rung: tuple[bool, bool, bool]) -> float:
    command = [sys.executable, "-m", "cag_uda.runs.bench.ladder", json.dumps([backbone, rung])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"a rung of the bench failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout)


if __name__ == "__main__":
    given_backbone, given_rung = json.loads(sys.argv[1])
    sys.stdout.write(str(measure(given_backbone, tuple(given_rung))))
