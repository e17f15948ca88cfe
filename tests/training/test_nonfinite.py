"""Losses that are not finite, and data with nothing to learn from: defined, told, and never NaN."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from cag_uda.errors import RunError
from cag_uda.methods.source_only import SourceOnly
from cag_uda.recipes import load_recipe
from cag_uda.runs.runner import adapt
from cag_uda.training.log import StageLog
from tests.support.trees import RECIPE, read_pixels, write_domain, write_recipe

ONE_STAGE = "[[stages]]".join(RECIPE.split("[[stages]]")[:2]).replace("steps = 3", "steps = 8")


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Tensor], Tensor]) -> None:
    """Change the loss of source-only by the number of its call, from 0."""
    calls, whole = [0], SourceOnly.cross_entropy

    def spoiled(*arguments: Any, **keywords: Any) -> Tensor:
        calls[0] += 1
        return change(calls[0] - 1, whole(*arguments, **keywords))

    monkeypatch.setattr(SourceOnly, "cross_entropy", spoiled)


def nan_at(*steps: int) -> Callable[[int, Tensor], Tensor]:
    return lambda step, loss: loss * float("nan") if step in steps else loss


def infinite_gradient_at(wanted: int) -> Callable[[int, Tensor], Tensor]:
    """A finite loss whose gradient is not: the square root's at zero."""
    return lambda step, loss: loss + (loss - loss.detach()).sqrt() if step == wanted else loss


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "stages/0-source-only/metrics.jsonl").open()]


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model" / "model.safetensors")


def test_a_loss_that_is_not_finite_stops_with_step_terms_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found when the log is due, long after; the checkpoints on the way are those before it."""
    recipe = load_recipe(write_recipe(tmp_path, ONE_STAGE), ["stages.*.checkpoint_every=2"])
    with monkeypatch.context() as patch:
        spoil(patch, nan_at(3))
        with pytest.raises(RunError) as stopped:
            adapt(recipe, tmp_path / "run")
    message = str(stopped.value)
    assert "loss source/ce is not finite at step 4 (source/ce nan)" in message
    assert message.count("day/images/") == message.count("dusk/images/") == 2
    state = torch.load(tmp_path / "run/stages/0-source-only/checkpoint/state.pt", weights_only=True)
    assert state["step"] == 2
    assert all(each.isfinite().all() for each in state["method"].values())
    # The cause is gone (here: the patch), and the run goes on to the end that it would have had.
    adapt(recipe, tmp_path / "run", resume=True)
    adapt(recipe, tmp_path / "whole")
    assert all(
        np.array_equal(value, weights(tmp_path / "whole")[name])
        for name, value in weights(tmp_path / "run").items()
    )


def test_no_checkpoint_holds_weights_that_are_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a finite loss had an infinite gradient just before a checkpoint was due."""
    recipe = load_recipe(write_recipe(tmp_path, ONE_STAGE), ["stages.*.checkpoint_every=2"])
    spoil(monkeypatch, infinite_gradient_at(3))
    with pytest.raises(RunError, match=r"the gradient is not finite at step 4 \(source/ce \d"):
        adapt(recipe, tmp_path / "run")
    state = torch.load(tmp_path / "run/stages/0-source-only/checkpoint/state.pt", weights_only=True)
    assert state["step"] == 2
    assert all(each.isfinite().all() for each in state["method"].values())


@pytest.mark.parametrize("change", [nan_at(3), infinite_gradient_at(3)])
def test_a_step_that_is_not_finite_is_left_out_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Tensor], Tensor]
) -> None:
    skip = ["stages.*.on_nonfinite=skip", "stages.*.log_every=4"]
    recipe = load_recipe(write_recipe(tmp_path, ONE_STAGE), skip)
    spoil(monkeypatch, change)
    run = adapt(recipe, tmp_path / "run").folder
    assert all(np.isfinite(value).all() for value in weights(run).values())
    (noted,) = [record for record in records(run) if "left_out" in record]
    assert noted["step"] == 4
    assert len(noted["left_out"]["files"]) == 4
    assert all(np.isfinite(record["losses"]["source/ce"]) for record in records(run)[1:])


def test_a_left_out_step_changes_no_weight_and_no_statistic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving out all steps from the third gives the network after two."""
    two = ONE_STAGE.replace("steps = 8", "steps = 2").replace("[[stages]]", CONSTANT, 1)
    ten = ONE_STAGE.replace("steps = 8", "steps = 10").replace("[[stages]]", CONSTANT, 1)
    short = adapt(write_recipe(tmp_path, two), tmp_path / "short").folder
    (tmp_path / "ten.toml").write_text(ten)
    spoil(monkeypatch, nan_at(*range(2, 10)))
    recipe = load_recipe(tmp_path / "ten.toml", ["stages.*.on_nonfinite=skip"])
    long = adapt(recipe, tmp_path / "long").folder
    for name, value in weights(short).items():
        assert np.array_equal(value, weights(long)[name]), name


CONSTANT = '[[stages]]\noptim = { schedule = "constant" }'


def test_many_left_out_steps_in_a_row_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ONE_STAGE.replace("steps = 8", "steps = 30")
    recipe = load_recipe(write_recipe(tmp_path, text), ["stages.*.on_nonfinite=skip"])
    spoil(monkeypatch, nan_at(*range(5, 30)))
    with pytest.raises(RunError, match="not finite at step 16"):
        adapt(recipe, tmp_path / "run")


def test_losses_leave_the_device_only_when_they_are_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path, ONE_STAGE),
        ["stages.*.log_every=4", "stages.*.checkpoint_every=8"],
    )
    waited: list[int] = []
    fetch = StageLog._fetch

    def counted(self: StageLog) -> None:
        waited.append(len(self._on_device))
        fetch(self)

    monkeypatch.setattr(StageLog, "_fetch", counted)
    adapt(recipe, tmp_path / "run")
    assert [steps for steps in waited if steps] == [4, 4]


def test_an_absent_class_an_unlabelled_image_and_no_active_pixel(tmp_path: Path) -> None:
    """A class that the source never shows, an image without a label, a margin that none reaches."""
    unreachable = 'margin = { kind = "absolute", value = 1e9 }'
    text = RECIPE.replace('margin = { kind = "clearest", value = 0.5 }', unreachable)
    recipe = write_recipe(tmp_path, text)
    for place, path in enumerate(sorted((tmp_path / "day/labels").iterdir())):
        label = read_pixels(path)
        label[label == 3] = 255
        cv2.imwrite(str(path), np.full_like(label, 255) if place == 0 else label)
    run = adapt(load_recipe(recipe, ["stages.*.log_every=1"]), tmp_path / "run")
    for stage in sorted((run.folder / "stages").iterdir()):
        for value in load_file(stage / "model/model.safetensors").values():
            assert np.isfinite(value).all()
        for line in (stage / "metrics.jsonl").open():
            assert all(np.isfinite(value) for value in json.loads(line)["losses"].values())
    last = run.folder / "stages/3-stage-1"
    anchors = load_file(last / "anchors.safetensors")
    assert anchors["counts"][3] == 0 < anchors["counts"][:3].min()
    assert np.isfinite(anchors["vectors"][:3]).all()
    quality = json.loads((last / "pseudo_labels.json").read_text())
    assert quality["anchor"]["coverage"] == 0
    assert quality["anchor"]["precision"] is None


def test_a_source_without_any_labelled_pixel(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    for path in (tmp_path / "day/labels").iterdir():
        cv2.imwrite(str(path), np.full((48, 64), 255, np.uint8))
    run = adapt(recipe, tmp_path / "run")
    for value in weights(run.folder).values():
        assert np.isfinite(value).all()


def test_a_target_of_one_image(tmp_path: Path) -> None:
    write_domain(tmp_path, "day", seed=1)
    write_domain(tmp_path, "dusk", count=1, light=0.4, seed=2)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    run = adapt(tmp_path / "tiny.toml", tmp_path / "run")
    assert len(run.scores.stages) == 4
