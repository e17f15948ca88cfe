"""What a run computes with: device, precision, memory layout, threads.

What is "auto" is measured once, at the start of a run, and written resolved into its recipe.
"""

import ctypes
import logging
import os
import time
from typing import Literal

import torch
from lightning.fabric import Fabric
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from cag_uda.errors import UserError
from cag_uda.types import Prediction

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 30
_SPOKEN = {"32": "float32", "bf16": "bfloat16"}


class ComputeConfig(BaseModel):
    """The `[compute]` table of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(default=1, ge=1)
    """Processes of this machine, one device each; more machines by torchrun or SLURM."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Of forward and backward passes; weights and statistics stay in float32."""
    channels_last: bool | Literal["auto"] = "auto"
    """Whether feature maps keep channels innermost in memory."""


def prepare_process() -> None:
    """Settings of the process that must precede the first large tensor.

    glibc gives each large block back to the kernel, and half of a CPU step's time is then spent on
    page faults; raised thresholds keep the memory. The first large square root after a matrix
    product
    is sometimes wrong on some CPU builds of torch unless one came before.
    """
    try:
        allocator = ctypes.CDLL("libc.so.6")
        allocator.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        allocator.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    except (OSError, AttributeError):
        pass  # Another C library: it has no such setting.
    torch.rand(1_000_000).sqrt()


def resolve(
    config: ComputeConfig, network: nn.Module, crop_px: tuple[int, int], batch: int
) -> ComputeConfig:
    """Replace every "auto" by what is best here.

    Args:
        config: as the recipe has it.
        network: a segmenter like the one that will be trained; its weights and buffers are not
        changed.
        crop_px: height and width of a training crop.
        batch: images of a batch on one device.

    Raises:
        UserError: if a GPU is asked for and there is none.
    """
    accelerator = config.accelerator
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "no CUDA device is visible to torch; use --accelerator cpu, or install a CUDA build"
        )
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    precision, channels_last = config.precision, config.channels_last
    if accelerator == "cuda":
        precision = "bf16" if precision == "auto" and torch.cuda.is_bf16_supported() else precision
        channels_last = True if channels_last == "auto" else channels_last
    elif "auto" in (precision, channels_last):
        precision, channels_last = _fastest_on_cpu(config, network, crop_px, batch)
    return config.model_copy(
        update={
            "accelerator": accelerator,
            "precision": "32" if precision == "auto" else precision,
            "channels_last": channels_last,
        }
    )


def make_fabric(config: ComputeConfig) -> Fabric:
    """Fabric for a resolved configuration, launched where there are several processes."""
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=int(os.environ.get("CAG_UDA_NODES", "1")),
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def describe(config: ComputeConfig) -> str:
    """One line on what a resolved configuration computes with."""
    layout = ", channels last" if config.channels_last is True else ""
    count = f", {config.devices} processes" if config.devices > 1 else ""
    return f"computing on {config.accelerator} in {_SPOKEN[config.precision]}{layout}{count}"


def memory_format(config: ComputeConfig) -> torch.memory_format:
    """The memory format of a resolved configuration."""
    return torch.channels_last if config.channels_last is True else torch.contiguous_format


def set_memory_format(network: nn.Module, layout: torch.memory_format) -> None:
    """Lay the weights of a network's convolutions out in memory, in place."""
    network.to(memory_format=layout)  # type: ignore[call-overload]


def _fastest_on_cpu(
    config: ComputeConfig, network: nn.Module, crop_px: tuple[int, int], batch: int
) -> tuple[Literal["32", "bf16"], bool]:
    """Time a training step in each allowed combination and take the fastest."""
    precisions: list[Literal["32", "bf16"]] = (
        ["32", "bf16"] if config.precision == "auto" else [config.precision]
    )
    layouts = [False, True] if config.channels_last == "auto" else [config.channels_last]
    saved = {name: value.clone() for name, value in network.state_dict().items()}
    timed = {}
    with torch.random.fork_rng():
        for precision in precisions:
            for layout in layouts:
                timed[precision, layout] = _step_s(network, precision, layout, crop_px, batch)
    set_memory_format(network, torch.contiguous_format)
    network.load_state_dict(saved)
    return min(timed, key=timed.__getitem__)


def _step_s(
    network: nn.Module, precision: str, is_channels_last: bool, crop_px: tuple[int, int], batch: int
) -> float:
    """Seconds of a forward and backward pass, the better of two after one to warm up."""
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    set_memory_format(network, layout)
    image = torch.rand(batch, 3, *crop_px).contiguous(memory_format=layout)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            prediction: Prediction = network(image)
        torch.autograd.backward(prediction.logits.float().square().mean())
        network.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - start)
    return min(times[1:])
