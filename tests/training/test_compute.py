"""Less memory, other precisions, compiled networks: the same adaptation by other means."""

import copy
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from cag_uda.errors import ModelError, RecipeError
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.recomputing import check_names, recompute
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import load_recipe
from cag_uda.runs.runner import adapt
from cag_uda.training import compute, loop
from cag_uda.training.compute import launch, resolve, shared_scale, with_precision
from cag_uda.training.interrupt import Interrupted
from cag_uda.training.settings import ComputeConfig
from cag_uda.training.step import Trainer, _split, train_step
from cag_uda.types import Batch, Labelled, Prediction, Unlabelled
from tests.support.stopping import StopAt
from tests.support.trees import RECIPE, write_recipe

SHORT = RECIPE.replace("steps = 3", "steps = 2")


def network(classes: Classes, norm: str) -> Segmenter:
    torch.manual_seed(0)
    config = {"backbone": "resnet-18-half", "decoder": "light", "norm": norm}
    made = Segmenter(SegmenterConfig.model_validate(config), classes)
    # Drops are of the generator's next numbers, which a repetition has not moved.
    made.dropout.p = 0.0
    return made


@pytest.fixture
def segmenter(classes: Classes) -> Segmenter:
    return network(classes, "per-domain")


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model" / "model.safetensors")


def kept_bytes(step: Callable[[], Tensor]) -> int:
    """Bytes of activations that a forward pass keeps for the backward pass, each once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step()
    torch.autograd.backward(loss)
    return sum(kept.values())


@pytest.mark.parametrize("norm", ["shared", "per-domain"])
def test_recomputed_blocks_keep_less_and_change_nothing(norm: str, classes: Classes) -> None:
    segmenter = network(classes, norm)
    other = copy.deepcopy(segmenter)
    recompute(other, ["blocks"])
    recompute(other, ["blocks"])
    assert list(other.state_dict()) == list(segmenter.state_dict())
    image = torch.rand(2, 3, 64, 64)

    def loss(each: Segmenter) -> Tensor:
        prediction: Prediction = each(image, "source")
        return prediction.logits.square().mean()

    plain, less = (kept_bytes(partial(loss, each)) for each in (segmenter, other))
    assert less < 0.5 * plain
    for mine, theirs in zip(segmenter.parameters(), other.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad)
    # Running statistics have seen the batch once, not twice.
    states = (segmenter.state_dict(), other.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    fresh = copy.deepcopy(segmenter)
    fresh.load_state_dict(other.state_dict())


def test_recomputed_parts_are_named_and_an_unknown_one_is_refused(segmenter: Segmenter) -> None:
    recompute(segmenter, ["decoder", "backbone.network.encoder.stages.*"])
    wrapped = [
        name for name, module in segmenter.named_modules() if hasattr(module, "checkpoint_fn")
    ]
    assert wrapped == ["backbone.network.encoder.stages.0", "backbone.network.encoder.stages.1",
                       "backbone.network.encoder.stages.2", "backbone.network.encoder.stages.3",
                       "decoder"]  # fmt: skip
    with pytest.raises(ModelError, match=r"'layer5', which is no part .*\"blocks\".*decoder"):
        check_names(segmenter, ["layer5"])


@pytest.mark.slow
def test_a_recomputed_run_is_the_run(tmp_path: Path) -> None:
    """Exactly, all methods of the recipe, and on from a checkpoint of the other."""
    path = write_recipe(tmp_path, SHORT)
    adapt(load_recipe(path), tmp_path / "plain")
    adapt(load_recipe(path, ['compute.checkpointing=["blocks", "decoder"]']), tmp_path / "less")
    expected, found = weights(tmp_path / "plain"), weights(tmp_path / "less")
    assert list(expected) == list(found)
    assert all(np.array_equal(value, found[name]) for name, value in expected.items())
    # Who runs out of memory on the way may go on with less.
    adapt(load_recipe(path, ['compute.checkpointing=["blocks"]']), tmp_path / "plain", resume=True)
    with pytest.raises(ModelError, match="no part of this network"):
        adapt(load_recipe(path, ['compute.checkpointing=["nothing"]']), tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_a_batch_in_parts_is_all_of_it_in_order() -> None:
    batch = Batch(
        Labelled(torch.rand(4, 3, 8, 8), torch.randint(0, 3, (4, 8, 8))),
        Unlabelled(torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)),
    )
    parts = list(_split(batch, 2))
    assert [len(part.source.image) for part in parts] == [2, 2]
    for whole, *pieces in (
        (batch.source.image, *(part.source.image for part in parts)),
        (batch.source.label, *(part.source.label for part in parts)),
        (batch.target.image, *(part.target.image for part in parts)),
        (batch.target.plain, *(part.target.plain for part in parts)),
    ):
        assert torch.equal(whole, torch.cat(pieces))


def test_a_batch_in_parts_gives_the_gradients_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without batch statistics and drops, and with every pixel labelled."""
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, image: image)
    stages = "[[stages]]".join(RECIPE.split("[[stages]]")[:2])
    path = write_recipe(tmp_path, stages.replace("batch_size = 2", "batch_size = 4"))
    for parts in (1, 2, 4):
        changes = ['segmenter.norm="frozen"', f"compute.accumulation={parts}"]
        adapt(load_recipe(path, changes), tmp_path / str(parts))
    for several in ("2", "4"):
        found = weights(tmp_path / several)
        for name, value in weights(tmp_path / "1").items():
            np.testing.assert_allclose(value, found[name], atol=1e-6, err_msg=name)
    logs = [
        json.loads((tmp_path / parts / "stages/0-source-only/metrics.jsonl").read_text())
        for parts in ("1", "4")
    ]
    assert logs[0]["losses"] == pytest.approx(logs[1]["losses"], rel=1e-5)


def test_parts_that_do_not_divide_the_batch_are_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    with pytest.raises(RecipeError, match="2 images cannot be taken in 3 equal parts"):
        load_recipe(path, ["compute.accumulation=3"])
    with pytest.raises(RecipeError, match="cannot train batch norm"):
        load_recipe(path, ["compute.accumulation=2"])


def test_compiled_networks_keep_all_activations(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    with pytest.raises(RecipeError, match="compile and checkpointing do not go together"):
        load_recipe(path, ["compute.compile=true", 'compute.checkpointing=["blocks"]'])


def test_deterministic_kernels_are_taken_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, bool]] = []
    monkeypatch.setattr(
        torch,
        "use_deterministic_algorithms",
        lambda mode, *, warn_only: asked.append((mode, warn_only)),
    )
    launch(ComputeConfig(accelerator="cpu"))
    assert asked == []
    launch(ComputeConfig(accelerator="cpu", deterministic=True))
    assert asked == [(True, True)]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]


@pytest.mark.slow
@pytest.mark.gpu
def test_with_deterministic_kernels_a_run_on_a_gpu_goes_on_exactly(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    changes = ['compute.accelerator="cuda"', "compute.deterministic=true", "stages.*.log_every=1"]
    recipe = load_recipe(write_recipe(tmp_path), changes)
    try:
        with pytest.raises(Interrupted):
            adapt(recipe, tmp_path / "run", progress=StopAt("stage-1", 1))
        adapt(recipe, tmp_path / "run", resume=True)
        adapt(recipe, tmp_path / "whole")
    finally:
        torch.use_deterministic_algorithms(False)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(np.array_equal(value, found[name]) for name, value in expected.items())


def test_float16_scales_the_gradients_of_all_networks_alike(tmp_path: Path) -> None:
    """Of two optimisers; where the scale is too large, both leave the step out."""
    config = ComputeConfig(accelerator="cpu", precision="16", channels_last=False)
    fabric = with_precision(launch(config), config)
    scale = shared_scale(fabric)
    assert scale is not None
    assert shared_scale(launch(config.model_copy(update={"precision": "32"}))) is None
    one, two = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    networks = [fabric.setup_module(each) for each in (one, two)]
    optimizers = fabric.setup_optimizers(
        *(torch.optim.SGD(each.parameters(), lr=1.0) for each in (one, two))
    )
    assert isinstance(optimizers, tuple)
    begun = [each.weight.detach().clone() for each in (one, two)]

    def step(factor: float) -> None:
        for network in networks:
            fabric.backward((network(torch.full((1, 2), 0.5)) * factor).sum())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        scale.end_step()

    step(1e6)
    assert all(
        torch.equal(each.weight, before) for each, before in zip((one, two), begun, strict=True)
    )
    assert scale.scaler.get_scale() == 2**15
    step(1.0)
    for each, before in zip((one, two), begun, strict=True):
        torch.testing.assert_close(each.weight, before - 0.5, atol=1e-3, rtol=0)
    scale.begin()
    assert scale.scaler.get_scale() == 2**16


@pytest.mark.slow
def test_a_run_in_float16_goes_on_exactly_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale is a part of the checkpoint."""
    path = write_recipe(tmp_path, SHORT.replace("steps = 2", "steps = 4"))
    changes = ['compute.precision="16"', "stages.*.checkpoint_every=2"]
    adapt(load_recipe(path, changes), tmp_path / "whole")
    seen: list[float] = []

    def interrupted(trainer: Trainer, step: int, batch: Batch) -> object:
        scale = shared_scale(trainer.fabric)
        assert scale is not None
        if step == 2 and len(trainer.optimizers) == 2 and not seen:
            seen.append(scale.scaler.get_scale())
            raise Interrupted(15)
        return train_step(trainer, step, batch)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(Interrupted):
        adapt(load_recipe(path, changes), tmp_path / "run")
    small = {**torch.amp.GradScaler("cpu").state_dict(), "scale": 8.0}
    monkeypatch.setattr(
        compute.SharedScale, "begin", lambda self: self.scaler.load_state_dict(small)
    )
    adapt(load_recipe(path, changes), tmp_path / "run", resume=True)
    folder = tmp_path / "run" / "stages" / "2-warmup" / "checkpoint" / "state.pt"
    state = torch.load(folder, weights_only=True)
    whole = tmp_path / "whole" / "stages" / "2-warmup" / "checkpoint" / "state.pt"
    expected = torch.load(whole, weights_only=True)
    assert state["optimizers"]["scale"] == expected["optimizers"]["scale"]
    for name, value in expected["method"].items():
        assert torch.equal(value, state["method"][name]), name


def test_the_fastest_way_is_found_by_turns(
    monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter
) -> None:
    """What is slow once (another program's fault) is timed again; what is hopeless is not."""
    calls: list[tuple[str, bool]] = []
    slow = {("32", False): 3.0, ("32", True): 1.2, ("bf16", False): 9.0, ("bf16", True): 1.0}

    def step_s(
        _: object, precision: str, layout: bool, crop_px: tuple[int, int], batch: int
    ) -> float:
        assert (crop_px, batch) == ((32, 32), 2), "what is taken at once"
        calls.append((precision, layout))
        disturbed = len(calls) == 8
        return slow[precision, layout] * (10 if disturbed else 1)

    monkeypatch.setattr(compute, "_step_s", step_s)
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    config = ComputeConfig(accelerator="cpu", accumulation=4)
    found = resolve(config, segmenter, (32, 32), 8)
    assert (found.precision, found.channels_last) == ("bf16", True)
    assert calls[7] == ("bf16", True), "the disturbed one was to be the best"
    assert calls.count(("bf16", False)) < calls.count(("32", True))
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())


def test_without_steps_none_is_timed(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> float:
        raise AssertionError("a step was timed")

    monkeypatch.setattr(compute, "_step_s", refuse)
    found = resolve(ComputeConfig(accelerator="cpu"), segmenter, (512, 896), 8, trains=False)
    assert (found.precision, found.channels_last) == ("32", False)


@pytest.mark.slow
def test_a_compiled_run_is_the_run_to_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks and gradients as torch captures them; what it makes of graphs is torch's own."""
    captured: list[nn.Module] = []

    def captures(network: nn.Module, **settings: Any) -> object:
        captured.append(network)
        return whole(network, **{**settings, "backend": "aot_eager"})

    whole = torch.compile
    monkeypatch.setattr(torch, "compile", captures)
    path = write_recipe(tmp_path, SHORT)
    adapt(load_recipe(path), tmp_path / "plain")
    assert not captured
    adapt(load_recipe(path, ["compute.compile=true"]), tmp_path / "compiled")
    assert {type(each).__name__ for each in captured} >= {"Segmenter", "Discriminator"}
    expected, found = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert list(expected) == list(found)
    for name, value in expected.items():
        np.testing.assert_allclose(value, found[name], rtol=1e-3, atol=1e-4, err_msg=name)
