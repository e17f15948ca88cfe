"""Measure one GPU in at most eight minutes: the rows that docs/RESULTS.md leaves open.

Run as `python benchmarks/gpu.py` where torch sees a GPU. It needs the checkout and the package's
dependencies alone: weights and pixels are random. Measured are the step of CAG over the bare one
and of CAG-plus over DACS, images a second and peak memory of training with and without activation
checkpointing, whether a step waits for the host, and what deterministic kernels give and cost.
Parts for which time or memory do not suffice are named in the table. With `--smoke` small networks
go the same way on a CPU, in seconds; such figures say nothing.
"""

import argparse
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from cag_uda.methods.base import Method
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_plus import CAGPlus
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.methods.dacs import DACS, DACSConfig
from cag_uda.methods.margin_fitting import MarginConfig
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.runs.bench.step import SIZES, Made, Size, StepBench, overhead, plus_over_dacs
from cag_uda.runs.bench.timing import Row, interleaved_s, median_ratio, wait_for
from cag_uda.training.settings import ComputeConfig

_LIMIT_S = 450.0
"""Eight minutes, less what starting and the last part may take."""
_STEPS = 5
"""Steps that two runs with deterministic kernels take before their weights are compared."""


def _crops(backbone: str, decoder: str, batch: int = 4) -> Size:
    """Make a network at the crops of the paper's scenarios, 896×512."""
    return Size(
        backbone, SegmenterConfig(backbone=backbone, decoder=decoder), batch, (512, 896), 19
    )


_PAPER = _crops("resnet-101", "deeplab-v3plus")
_THROUGHPUT = (_PAPER, _crops("efficientnet-lite0", "light"), _crops("mit-b5", "daformer"))
_TINY = Size("tiny", SegmenterConfig(backbone="resnet-tiny", decoder="light"), 2, (32, 32), 3)

_MADE: dict[str, Made] = {
    "CAG": lambda segmenter: CAG(
        segmenter, CAGConfig(margin=MarginConfig(kind="relative", value=0.1))
    ),
    "CAG-plus": lambda segmenter: CAGPlus(segmenter, CAGPlusConfig()),
    "DACS": lambda segmenter: DACS(segmenter, DACSConfig()),
}


@dataclass(frozen=True)
class Line:
    """One row of the table in docs/RESULTS.md."""

    what: str
    figure: str
    wanted: str = ""


@dataclass(frozen=True)
class Asked:
    """Settings of the measurement."""

    compute: ComputeConfig
    steps: tuple[Size, ...]
    """Sizes at which steps of methods are compared."""
    throughput: tuple[Size, ...]
    """Sizes at which images a second are counted."""
    paper: Size
    """Size at which memory, waiting for the host and determinism are measured."""
    most_rounds: int
    """Most rounds of each comparison; fewer are run where time is short."""
    begun_s: float
    """Time of the start, by `time.perf_counter`."""

    def left_s(self) -> float:
        """Seconds until the time is up."""
        return _LIMIT_S - (time.perf_counter() - self.begun_s)

    def rounds(self, size: Size, parts: int, share: float) -> int:
        """Count the rounds of `parts` steps each that fit into a share of the time left.

        Raises:
            TimeoutError: if not even three do.
        """
        bench = StepBench(size, self.compute)
        step_s = _step_s(bench, bench.stepper(_MADE["CAG-plus"]), 2)
        rounds = min(self.most_rounds, int(share * self.left_s() / (parts * step_s)))
        if rounds < 3:
            raise TimeoutError(f"no time is left for steps of {step_s:.1f} s")
        return rounds


def methods(asked: Asked) -> Iterator[Line]:
    """Compare the step of CAG with the bare one, and that of CAG-plus with that of DACS."""
    for size in asked.steps:
        yield _as_line(overhead(size, asked.compute, asked.rounds(size, 2, 0.15)))
        for row in plus_over_dacs(size, asked.compute, asked.rounds(size, 4, 0.15)):
            yield _as_line(row)


def training(asked: Asked) -> Iterator[Line]:
    """Count the images of both domains that a CAG step takes a second, and its peak memory."""
    for size in asked.throughput:
        if asked.left_s() <= 0:
            raise TimeoutError(f"the time was up before {_told(size)}")
        for checkpointing in ((), ("blocks",)) if size is asked.paper else ((),):
            compute = asked.compute.model_copy(update={"checkpointing": checkpointing})
            bench = StepBench(size, compute)
            step_s = _step_s(bench, bench.stepper(_MADE["CAG"]), asked.most_rounds)
            mib = bench.need_mib(_MADE["CAG"])
            kept = ", blocks recomputed" if checkpointing else ""
            yield Line(
                f"training by CAG, {_told(size)}, {bench.compute.precision}{kept}",
                f"{2 * size.batch / step_s:.3g} images/s, {mib:.0f} MiB",
            )


def waiting(asked: Asked) -> Iterator[Line]:
    """Take steps of which torch refuses every one that waits for the device."""
    bench = StepBench(asked.paper, asked.compute)
    for name, made in _MADE.items():
        step = bench.stepper(made)
        for _ in range(2):  # The first ones choose kernels and allocate.
            step()
        try:
            with _no_synchronisation(bench.fabric.device):
                step()
            found = "none"
        except RuntimeError as error:
            found = str(error).splitlines()[0]
        yield Line(f"waits for the host in a step of {name}, {_told(asked.paper)}", found, "none")


def determinism(asked: Asked) -> Iterator[Line]:
    """Compare the weights of two runs with deterministic kernels, and their time with others'."""
    usual = StepBench(asked.paper, asked.compute)
    free = usual.stepper(_MADE["CAG"])
    try:
        # Launching it makes torch take deterministic kernels, from there on.
        exact = StepBench(asked.paper, usual.compute.model_copy(update={"deterministic": True}))
        one, other = (_weights_after(exact, _STEPS) for _ in range(2))
        alike = all(map(torch.equal, one, other))
        step = exact.stepper(_MADE["CAG"])

        def freely() -> None:
            torch.use_deterministic_algorithms(False)
            free()

        def exactly() -> None:
            torch.use_deterministic_algorithms(True, warn_only=True)
            step()

        rounds = asked.rounds(asked.paper, 4, 0.5)
        parts = {"over": exactly, "under": freely}
        times = interleaved_s(parts, rounds, exact.fabric.device)
    finally:
        torch.use_deterministic_algorithms(False)
    what = f"deterministic kernels, CAG, {_told(asked.paper)}"
    told = "equal" if alike else "not equal"
    yield Line(f"{what}: weights of two runs after {_STEPS} steps", told, "equal")
    ratio = median_ratio(times["over"], times["under"])
    yield Line(f"{what}: step over the usual one", f"{ratio:.2f} ×")


PARTS: tuple[Callable[[Asked], Iterator[Line]], ...] = (training, waiting, methods, determinism)
"""Parts of the measurement, the most important first: no time may be left for the last."""


def measure(asked: Asked) -> Iterator[Line]:
    """Take every part; one that fails for want of time or memory is a line that says so."""
    for part in PARTS:
        if asked.left_s() <= 0:
            yield Line(part.__name__, "not measured: the time is up")
            continue
        try:
            yield from part(asked)
        except (torch.OutOfMemoryError, TimeoutError) as error:
            yield Line(part.__name__, f"not measured: {str(error).splitlines()[0]}")


def _weights_after(bench: StepBench, steps: int) -> list[torch.Tensor]:
    """Train a copy of the network by CAG; gives its weights."""
    trained: list[Segmenter] = []

    def made(segmenter: Segmenter) -> Method:
        trained.append(segmenter)
        return _MADE["CAG"](segmenter)

    step = bench.stepper(made)
    for _ in range(steps):
        step()
    return [each.detach() for each in trained[0].parameters()]


def _step_s(bench: StepBench, step: Callable[[], object], rounds: int) -> float:
    """Take the median time of some steps, after one that is not timed."""
    times = interleaved_s({"step": step}, rounds, bench.fabric.device)["step"]
    return statistics.median(times)


@contextmanager
def _no_synchronisation(device: torch.device) -> Iterator[None]:
    """Let torch raise where work on a GPU waits for it. A CPU has nothing to wait for."""
    if device.type != "cuda":
        yield
        return
    wait_for(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _told(size: Size) -> str:
    height, width = size.crop_px
    decoder = size.segmenter.decoder
    return f"{size.segmenter.backbone}, {decoder}, {size.batch}+{size.batch} of {height}×{width}"


def _as_line(row: Row) -> Line:
    figure = "–" if math.isnan(row.figure) else f"{row.figure:.3f} {row.unit}"
    return Line(row.what, figure, f"≤ {row.at_most:g}")


def machine(device: str) -> str:
    """Name device, torch, CUDA and Python, for the table's first line."""
    if device == "cpu":
        return f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__}"
    properties = torch.cuda.get_device_properties(0)
    return (
        f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, torch {torch.__version__}, "
        f"CUDA {torch.version.cuda}, Python {platform.python_version()}"
    )


def main() -> None:
    """Measure, and print a table for docs/RESULTS.md line by line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small networks on a CPU, in seconds")
    smoke = parser.parse_args().smoke
    if not smoke and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --smoke goes the same way on a CPU")
    # cuBLAS reads it when it is first used; deterministic kernels come last.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device: Literal["cpu", "cuda"] = "cpu" if smoke else "cuda"
    asked = Asked(
        compute=ComputeConfig(
            accelerator=device, precision="32" if smoke else "auto", channels_last=not smoke
        ),
        steps=(_TINY,) if smoke else (_PAPER, *SIZES[:2]),
        throughput=(_TINY,) if smoke else _THROUGHPUT,
        paper=_TINY if smoke else _PAPER,
        most_rounds=3 if smoke else 15,
        begun_s=time.perf_counter(),
    )
    command = "`python benchmarks/gpu.py`"
    print(
        f"{machine(device)}\n\n| what | figure | wanted | command |\n|---|---|---|---|", flush=True
    )
    for line in measure(asked):
        print(f"| {line.what} | {line.figure} | {line.wanted} | {command} |", flush=True)


if __name__ == "__main__":
    main()
