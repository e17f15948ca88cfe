"""Open a trained network on a device, and domains with the classes that it has learned."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cag_uda.data.domains.class_subset import with_classes
from cag_uda.data.domains.domain import Domain
from cag_uda.errors import UserError
from cag_uda.models.pack import read_pack
from cag_uda.models.segmenter import Segmenter
from cag_uda.training.compute import settle_arithmetic


def open_model(name: str, accelerator: str) -> Segmenter:
    """Load the network of a model folder, a run folder or a hub id onto auto, cpu or cuda.

    Raises UserError if the model or the device cannot be had.
    """
    device = _device(accelerator)
    return Segmenter.from_pretrained(name).to(device)


def open_network(name: str, accelerator: str) -> Segmenter:
    """Load a network as `open_model` does, or that of the pack at a path."""
    if not name.endswith(".safetensors"):
        return open_model(name, accelerator)
    device = _device(accelerator)
    return read_pack(Path(name)).segmenter().to(device)


def _device(accelerator: str) -> str:
    settle_arithmetic()
    if accelerator not in ("auto", "cpu", "cuda"):
        raise UserError(f"--accelerator is auto, cpu or cuda, got {accelerator!r}")
    has_cuda = torch.cuda.is_available()
    if accelerator == "cuda" and not has_cuda:
        raise UserError("no CUDA device is visible to torch; use --accelerator cpu")
    return "cuda" if has_cuda and accelerator != "cpu" else "cpu"


@contextmanager
def computing_in(precision: str, segmenter: Segmenter) -> Iterator[None]:
    """Let a network compute in float32 or, asked for, in bfloat16.

    Raises UserError for another precision.
    """
    if precision not in ("32", "bf16"):
        raise UserError(f"--precision is 32 or bf16 here, got {precision!r}")
    with torch.autocast(segmenter.mean.device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def as_learned(domain: Domain, segmenter: Segmenter, name: str) -> Domain:
    """Reduce a domain to the classes of a network; pixels of other classes are ignored.

    Raises UserError if the domain lacks some of them, or has them in another order.
    """
    learned, space = segmenter.classes.names, domain.label_space
    if space is None or set(learned) <= set(space.names):
        domain = with_classes(domain, learned)
    if domain.label_space is not None and domain.label_space.names != learned:
        raise UserError(
            f"{name} tells {', '.join(learned)} apart; domain {domain.name!r} has "
            f"{', '.join(domain.label_space.names)}; use a domain that has the same classes, or "
            "more, in the same order"
        )
    return domain
