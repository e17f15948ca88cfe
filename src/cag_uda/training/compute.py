"""Device, precision, memory layout and threads of a run.

What is "auto" is measured once, at the start of a run, and written resolved into its recipe.
"""

import math
import os
import time
from inspect import signature
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.plugins.precision.amp import MixedPrecision
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cag_uda.errors import UserError
from cag_uda.training.settings import ComputeConfig, Precision
from cag_uda.types import Prediction

_TIMED_ROUNDS, _HOPELESS = 4, 1.5
# Statistics of batch norms are averaged after each step. By default torch sends those of the first
# process before every forward pass, which would undo what the others learnt since.
_KEEP_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}
_SPOKEN = {"32": "float32", "bf16": "bfloat16", "16": "float16"}
_FABRICS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed"}


class SharedScale(MixedPrecision):
    """float16 with gradients scaled by one factor for all optimisers of a step.

    Fabric's own moves the factor after each optimiser; the next one's gradients would then be
    divided by another than they were multiplied with.
    """

    scaler: torch.amp.GradScaler

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device)
        self._first = self.scaler.state_dict()

    def begin(self) -> None:
        """Set the factor to its first value: a stage depends on none before it."""
        self.scaler.load_state_dict(self._first)

    def optimizer_step(self, optimizer: Any, **kwargs: Any) -> Any:
        """Take the optimiser's step, unless its gradients overflowed."""
        return self.scaler.step(optimizer, **kwargs)

    def end_step(self) -> None:
        """Lower the factor if gradients of any optimiser overflowed, raise it after many steps."""
        self.scaler.update()


def shared_scale(fabric: Fabric) -> SharedScale | None:
    """Find the gradient scaler of a Fabric; None where there is none."""
    precision = fabric.strategy.precision
    return precision if isinstance(precision, SharedScale) else None


def settle_arithmetic() -> None:
    """Take a large square root, the first of which is sometimes wrong on some CPU builds of torch.

    It is, after a matrix product, unless one came before.
    """
    torch.rand(1_000_000).sqrt()


def resolve(
    config: ComputeConfig,
    network: nn.Module,
    crop_px: tuple[int, int],
    batch: int,
    *,
    trains: bool = True,
) -> ComputeConfig:
    """Replace every "auto" by what is best here: on a CPU, by timing training steps.

    Args:
        config: as the recipe has it.
        network: a segmenter like the one that will be trained; its weights and buffers are not
            changed.
        crop_px: height and width of a training crop.
        batch: images of a batch on one device.
        trains: False where no step will be taken: then none is timed.

    Raises:
        UserError: if a GPU is asked for and there is none.
    """
    accelerator = resolve_accelerator(config)
    precision, channels_last = config.precision, config.channels_last
    if accelerator == "cuda":
        precision = half_precision(torch.device("cuda")) if precision == "auto" else precision
        channels_last = True if channels_last == "auto" else channels_last
    elif trains and "auto" in (precision, channels_last):
        # Of one image alone, as several devices may have, not every batch norm can learn.
        at_once = max(2, batch // config.accumulation)
        precision, channels_last = _fastest_on_cpu(config, network, crop_px, at_once)
    return config.model_copy(
        update={
            "accelerator": accelerator,
            "precision": "32" if precision == "auto" else precision,
            "channels_last": False if channels_last == "auto" else channels_last,
        }
    )


def half_precision(device: torch.device) -> Literal["bf16", "16"]:
    """Return the half precision of a device; GPUs before Ampere only imitate bf16."""
    is_gpu = device.type == "cuda"
    return "16" if is_gpu and not torch.cuda.is_bf16_supported(False) else "bf16"


def resolve_accelerator(config: ComputeConfig) -> Literal["cpu", "cuda"]:
    """Choose the device to compute on: for "auto", a GPU where there is one.

    Raises UserError if a GPU is asked for and there is none.
    """
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "no CUDA device is visible to torch; use --accelerator cpu, or install a CUDA build"
        )
    if config.accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.accelerator


def launch(config: ComputeConfig) -> Fabric:
    """Start the processes of a run, or take one's place among those that a scheduler has started.

    Under torchrun and SLURM, how many there are is theirs to say; otherwise `config.devices` are
    started on this machine. Computes in float32, so that precision can still be decided. Raises
    UserError if a GPU is asked for and there is none.
    """
    settle_arithmetic()
    if config.deterministic:
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    accelerator = resolve_accelerator(config)
    return _launched(config.model_copy(update={"accelerator": accelerator, "precision": "32"}))


def with_precision(fabric: Fabric, config: ComputeConfig) -> Fabric:
    """Let a launched Fabric's processes compute in a resolved configuration's precision."""
    return fabric if config.precision == "32" else _launched(config)


def _launched(config: ComputeConfig) -> Fabric:
    devices, nodes = _placement(config)
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(**_KEEP_BUFFERS) if devices * nodes > 1 else "auto",
        precision=_FABRICS.get(config.precision),
        plugins=SharedScale(config.accelerator) if config.precision == "16" else None,
    )
    fabric.launch()
    return fabric


def _placement(config: ComputeConfig) -> tuple[int, int]:
    """Count the processes of each machine, and the machines."""
    if TorchElasticEnvironment.detect():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    if "SLURM_NTASKS" in os.environ and SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return config.devices, int(os.environ.get("CAG_UDA_NODES", "1"))


def describe(config: ComputeConfig, processes: int) -> str:
    """Say in one line what a resolved configuration computes with, in how many processes."""
    layout = ", channels last" if config.channels_last is True else ""
    count = f", {processes} processes" if processes > 1 else ""
    return f"computing on {config.accelerator} in {_SPOKEN[config.precision]}{layout}{count}"


def memory_format(config: ComputeConfig) -> torch.memory_format:
    """Return the memory format of a resolved configuration."""
    return torch.channels_last if config.channels_last is True else torch.contiguous_format


def set_memory_format(network: nn.Module, layout: torch.memory_format) -> None:
    """Lay the weights of a network's convolutions out in memory, in place."""
    network.to(memory_format=layout)  # type: ignore[call-overload]


def _fastest_on_cpu(
    config: ComputeConfig, network: nn.Module, crop_px: tuple[int, int], batch: int
) -> tuple[Precision, bool]:
    """Time a training step in each allowed combination and take the fastest.

    They take turns, the first unmeasured, and the best time of each counts: other work on the
    machine then disturbs all alike. What is far behind twice is not timed again.
    """
    precisions: list[Precision] = (
        ["32", "bf16"] if config.precision == "auto" else [config.precision]
    )
    layouts = [False, True] if config.channels_last == "auto" else [config.channels_last]
    saved = {name: value.clone() for name, value in network.state_dict().items()}
    left = {(precision, layout): math.inf for precision in precisions for layout in layouts}
    with torch.random.fork_rng():
        for turn in range(1 + _TIMED_ROUNDS):
            for precision, layout in left:
                taken_s = _step_s(network, precision, layout, crop_px, batch)
                if turn:
                    left[precision, layout] = min(left[precision, layout], taken_s)
            best_s = min(left.values()) if turn > 1 else math.inf
            left = {each: time_s for each, time_s in left.items() if time_s <= _HOPELESS * best_s}
    set_memory_format(network, torch.contiguous_format)
    network.load_state_dict(saved)
    return min(left, key=left.__getitem__)


def _step_s(
    network: nn.Module, precision: str, is_channels_last: bool, crop_px: tuple[int, int], batch: int
) -> float:
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    set_memory_format(network, layout)
    image = torch.rand(batch, 3, *crop_px).contiguous(memory_format=layout)
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        prediction: Prediction = network(image)
    torch.autograd.backward(prediction.logits.float().square().mean())
    taken_s = time.perf_counter() - start
    network.zero_grad(set_to_none=True)
    return taken_s
