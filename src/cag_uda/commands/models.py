"""How commands open a network: from a folder, a run or the hub, on a device, in a precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cag_uda.errors import UserError
from cag_uda.models.segmenter import Segmenter
from cag_uda.training.compute import prepare_process


def open_model(name: str, accelerator: str) -> Segmenter:
    """Load a network onto a device.

    Args:
        name: a model folder, a run folder, or a hub id.
        accelerator: auto, cpu or cuda.

    Raises:
        UserError: if the model or the device cannot be had.
    """
    prepare_process()
    if accelerator not in ("auto", "cpu", "cuda"):
        raise UserError(f"--accelerator is auto, cpu or cuda, got {accelerator!r}")
    has_cuda = torch.cuda.is_available()
    if accelerator == "cuda" and not has_cuda:
        raise UserError("no CUDA device is visible to torch; use --accelerator cpu")
    device = "cuda" if has_cuda and accelerator != "cpu" else "cpu"
    return Segmenter.from_pretrained(name).to(device)


@contextmanager
def computing_in(precision: str, segmenter: Segmenter) -> Iterator[None]:
    """Let a network compute in float32 or, asked for, in bfloat16.

    Raises:
        UserError: for another precision.
    """
    if precision not in ("32", "bf16"):
        raise UserError(f"--precision is 32 or bf16 here, got {precision!r}")
    with torch.autocast(segmenter.mean.device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield
