"""Training never waits for the device: nothing in a step asks for a value on the host."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cag_uda.adaptation import CategoryAnchors, by_anchor
from cag_uda.adaptation.margins import AbsoluteMargin, RelativeMargin
from cag_uda.methods import METHODS
from cag_uda.methods.optim import OptimConfig
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.context_detail import ContextDetail
from cag_uda.models.segmenter import Segmenter
from cag_uda.training.compute import launch, resolve_accelerator, with_precision
from cag_uda.training.processes import Processes
from cag_uda.training.settings import ComputeConfig, StageSettings
from cag_uda.training.step import Trainer, train_step
from cag_uda.types import Batch, Labelled, Unlabelled
from tests.support.method_steps import make

TRAINED = [name for name, method in METHODS.items() if method.trains]
BATCH = 2
WAITING = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim",
    "_unique2", "unique_consecutive", "repeat_interleave", "bincount",
}  # fmt: skip
"""What must know values of its arguments on the host, or before its result has a shape."""


PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "matmul", "_cdist_forward", "_euclidean_dist"}


class Waits(TorchDispatchMode):
    """Notes every operation that would wait for a GPU, and every matrix product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self.found: list[str] = []
        self.products: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        # Which images of a batch are changed is drawn on the host, and known there.
        is_of_host = name == "nonzero" and args[0].shape == (BATCH,)
        if (name in WAITING and not is_of_host) or (name.startswith("index") and _has_mask(args)):
            self.found.append(name)
        if name in PRODUCTS:
            self.products.append(name)
        return func(*args, **(kwargs or {}))


def _has_mask(args: tuple[Any, ...]) -> bool:
    """Whether a tensor is indexed by one of booleans, which is `nonzero` in disguise."""
    indices = [each for arg in args if isinstance(arg, list | tuple) for each in arg]
    return any(isinstance(each, Tensor) and each.dtype == torch.bool for each in indices)


def stepper(
    name: str, segmenter: Segmenter, compute: ComputeConfig, **changes: object
) -> Callable[[Batch, int], Any]:
    """A function that takes a step of a method as the training loop does."""
    fabric = with_precision(launch(compute), compute)
    method = make(name, segmenter, **changes)
    method.to(fabric.device)
    optim = OptimConfig(optimizer="adamw", learning_rate=1e-4, clip_norm=1.0)
    settings = StageSettings(name="waiting", steps=9, optim=optim)
    trainer = Trainer(
        fabric, Processes(fabric), method, settings, compute, 0, method.optimizers(optim)
    )
    return lambda batch, step: train_step(trainer, step, batch)


def batch_on(device: str) -> Batch:
    torch.manual_seed(0)
    label = torch.randint(0, 4, (BATCH, 64, 64)).to(device)
    source, target = (torch.rand(BATCH, 3, 64, 64).to(device) for _ in range(2))
    return Batch(Labelled(source, label), Unlabelled(target, target.clone()))


def test_what_waits_is_noted() -> None:
    """The watch of the test below sees what it is to see."""
    values = torch.arange(4.0)
    for wait in (
        lambda: values.sum().item(),
        lambda: bool(values.any()),
        lambda: values[values > 1],
        lambda: values.nonzero(),
        lambda: values.unique(),
        lambda: torch.equal(values, values),
    ):
        with Waits() as waits:
            wait()
        assert waits.found, wait
    with Waits() as waits:
        torch.where(values > 1, values, 0).sum() + values[torch.tensor([1, 2])].sum()
    assert not waits.found


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_asks_for_no_value(name: str, segmenter: Segmenter) -> None:
    compute = ComputeConfig(accelerator="cpu", precision="32", channels_last=False)
    take, batch = stepper(name, segmenter, compute), batch_on("cpu")
    take(batch, 0)
    with Waits() as waits:
        take(batch, 1)
    assert waits.found == []


def test_a_step_on_balanced_labels_by_adapted_anchors_asks_for_no_value(
    segmenter: Segmenter,
) -> None:
    compute = ComputeConfig(accelerator="cpu", precision="32", channels_last=False)
    settings = {"labels": ("adapted",), "class_balance": 1.0}
    take, batch = stepper("cag", segmenter, compute, **settings), batch_on("cpu")
    take(batch, 0)
    with Waits() as waits:
        take(batch, 1)
    assert waits.found == []


def test_a_step_with_detail_asks_for_no_value(
    classes: Classes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The place of the crop is drawn on the host, and known there.
    monkeypatch.setattr(ContextDetail, "_draw_place", lambda self, units: (0, 0))
    compute = ComputeConfig(accelerator="cpu", precision="32", channels_last=False)
    take, batch = stepper("cag", with_detail(classes), compute), batch_on("cpu")
    take(batch, 0)
    with Waits() as waits:
        take(batch, 1)
    assert waits.found == []


def with_detail(classes: Classes) -> Segmenter:
    config = {"backbone": "resnet-tiny", "decoder": "light", "detail": {"crop_px": (64, 64)}}
    return Segmenter(SegmenterConfig.model_validate(config), classes)


def test_anchors_and_labels_are_one_product_each_and_ask_for_no_value() -> None:
    torch.manual_seed(0)
    features, label = torch.randn(3, 8, 6, 7), torch.randint(0, 5, (3, 6, 7))
    anchors, found = CategoryAnchors.from_vectors(torch.randn(5, 8)), CategoryAnchors(5, 8)
    per_class = torch.linspace(0.1, 0.5, 5)
    for margin in (2.5, AbsoluteMargin(per_class), RelativeMargin(per_class)):
        with Waits() as waits:
            by_anchor(anchors.distances(features), margin)
        assert (len(waits.products), waits.found) == (1, [])
    with Waits() as waits:
        found.update(features, label)
    assert (len(waits.products), waits.found) == (1, [])


@contextmanager
def no_synchronisation() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("name", [*TRAINED, "cag with detail"])
def test_a_step_on_a_gpu_waits_for_nothing(
    name: str, precision: str, segmenter: Segmenter, classes: Classes
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    if name == "cag with detail":
        name, segmenter = "cag", with_detail(classes)
    compute = ComputeConfig.model_validate(
        {"accelerator": "cuda", "precision": precision, "channels_last": True}
    )
    assert resolve_accelerator(compute) == "cuda"
    take, batch = stepper(name, copy.deepcopy(segmenter), compute), batch_on("cuda")
    for step in range(2):
        take(batch, step)
    torch.cuda.synchronize()
    with no_synchronisation():
        losses, _ = take(batch, 2)
    assert all(loss.isfinite() for loss in losses.values())
