"""CAG-plus as a method: what a step costs, mixes and follows, what is delivered, and a run."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

import cag_uda
from cag_uda.adaptation.losses import feature_distance
from cag_uda.adaptation.soft_labels import SoftLabels, soften
from cag_uda.errors import UserError
from cag_uda.methods.cag_plus import CAGPlus
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.methods.dacs import DACS, DACSConfig
from cag_uda.models.backbones import build_backbone
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import load_recipe
from cag_uda.types import IGNORE, Batch
from tests.support.batches import make_batch, make_passes, seeded
from tests.support.method_steps import gradients, step
from tests.support.network_parts import publish
from tests.support.trees import RECIPE, write_recipe


def make(segmenter: Segmenter, **settings: Any) -> CAGPlus:
    """A prepared method in training mode."""
    method = CAGPlus(segmenter, CAGPlusConfig.model_validate(settings))
    method.prepare(make_passes())
    method.train()
    return method


def test_a_step_passes_as_many_images_through_networks_as_one_of_dacs(
    segmenter: Segmenter,
) -> None:
    """What a step costs is these passes: two of the student with gradients, one of the teacher."""

    def passes(method: CAGPlus | DACS) -> dict[str, int]:
        count = {"student": 0, "teacher": 0}
        for name, network in (("student", method.segmenter), ("teacher", method.teacher)):

            def note(_: Any, inputs: Any, name: str = name) -> None:
                count[name] += len(inputs[0])

            network.backbone.register_forward_pre_hook(note)
        step(method, make_batch())
        return count

    dacs = DACS(copy.deepcopy(segmenter), DACSConfig())
    dacs.prepare(make_passes())
    assert passes(make(segmenter)) == passes(dacs.train()) == {"student": 4, "teacher": 2}


def test_the_teacher_is_the_true_mean_first_and_is_delivered_with_plain_statistics(
    segmenter: Segmenter,
) -> None:
    method = make(segmenter)
    student = next(iter(method.segmenter.parameters()))
    history = []
    for number in range(3):
        with torch.no_grad():
            student.add_(1.0)
        history.append(student.detach().clone())
        method.after_step(number)
    mean = torch.stack(history).mean(dim=0)
    torch.testing.assert_close(next(iter(method.predictor().parameters())), mean)
    expected = copy.deepcopy(method.teacher)
    expected.estimate_statistics([t.plain for t in make_passes().target()], "target")
    method.finish(make_passes())
    torch.testing.assert_close(student.detach(), mean)
    for got, wanted in zip(
        method.predictor().statistics("target"), expected.statistics("target"), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def mixed_images(segmenter: Segmenter, **settings: Any) -> tuple[Batch, Tensor, Tensor, SoftLabels]:
    plain = {"jitter": 0.0, "blur_probability": 0.0}
    settings["mix"] = {**plain, **settings.get("mix", {})}
    method = make(segmenter, **settings)
    batch = make_batch()
    mixed, soft = method.mix(batch, torch.randn(2, 4, 8, 8, generator=seeded(5)))
    return batch, mixed.image, mixed.label, soft


def test_blocks_are_hidden_of_the_target_alone_and_its_labels_stay(segmenter: Segmenter) -> None:
    mask = {"probability": 1.0, "ratio": 0.5, "block": 0.25}
    batch, image, known, soft = mixed_images(segmenter, mask=mask)
    grey = segmenter.mean.expand_as(image)
    is_hidden = (image == grey).all(dim=1)
    pasted = known != IGNORE
    assert not (is_hidden & pasted).any()
    share = is_hidden[~pasted].float().mean().item()
    assert 0.1 < share < 0.9
    seen = (~is_hidden & ~pasted)[:, None].expand_as(image)
    torch.testing.assert_close(image[seen], batch.target.image[seen], rtol=0, atol=1e-6)
    pasted_pixels = pasted[:, None].expand_as(image)
    torch.testing.assert_close(
        image[pasted_pixels], batch.source.image[pasted_pixels], rtol=0, atol=1e-6
    )
    assert known[pasted].equal(batch.source.label[pasted])
    assert (soft.weight[pasted] == 1).all()
    torch.testing.assert_close(soft.probability.sum(1), torch.ones_like(soft.weight))
    # A hidden pixel is labelled as the teacher labels it in the whole image.
    logits = torch.randn(2, 4, 8, 8, generator=seeded(5))
    whole = soften(F.interpolate(logits, (32, 32), mode="bilinear"), 0.5)
    hidden = is_hidden[:, None].expand_as(soft.probability)
    torch.testing.assert_close(soft.probability[hidden], whole.probability[hidden])


def test_the_half_that_covers_less_is_pasted(segmenter: Segmenter) -> None:
    changed = 0
    for seed in range(6):
        torch.manual_seed(seed)
        batch, _, either, _ = mixed_images(segmenter, mix={"half": "any"})
        torch.manual_seed(seed)
        _, image, known, _ = mixed_images(segmenter)
        is_labelled, was_pasted, is_pasted = (
            each != IGNORE for each in (batch.source.label, either, known)
        )
        for one in range(2):
            share = was_pasted[one].sum() / is_labelled[one].sum()
            wanted = was_pasted[one] if share <= 0.5 else is_labelled[one] & ~was_pasted[one]
            assert is_pasted[one].equal(wanted)
            changed += int(share > 0.5)
        here = is_pasted[:, None].expand_as(image)
        torch.testing.assert_close(image[here], batch.source.image[here], rtol=0, atol=1e-6)
    assert 0 < changed < 12


def test_target_pixels_weigh_what_of_the_batch_is_sure_or_each_itself(segmenter: Segmenter) -> None:
    logits = torch.randn(2, 4, 8, 8, generator=seeded(5))
    highest = F.interpolate(logits, (32, 32), mode="bilinear").softmax(1).amax(1)
    for least, expected in (
        (0.6, (highest >= 0.6).float().mean().expand_as(highest)),
        (0, highest),
    ):
        _, _, known, soft = mixed_images(segmenter, confidence=least)
        of_target = known == IGNORE
        torch.testing.assert_close(soft.weight[of_target], expected[of_target])
        assert (soft.weight[~of_target] == 1).all()


def test_mixing_and_hiding_can_be_taken_out(segmenter: Segmenter) -> None:
    out = {"probability": 0.0}
    batch, image, known, _ = mixed_images(segmenter, mix=out, mask=out)
    assert (known == IGNORE).all()
    torch.testing.assert_close(image, batch.target.image, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.0},
        {"confidence": 0.0},
        {"label_temperature": 0.0},
        {"mix": {"probability": 0.0}},
        {"mix": {"half": "any"}},
        {"mask": {"probability": 0.0}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_piece_can_be_taken_out_or_put_in(
    settings: dict[str, Any], segmenter: Segmenter
) -> None:
    method = make(segmenter, **settings)
    for number in range(2):
        losses = step(method, make_batch(number))
        method.after_step(number)
        assert all(math.isfinite(loss) for loss in losses.values()), losses
    if settings == {"momentum": 0.0}:
        for mine, theirs in zip(
            method.teacher.parameters(), method.segmenter.parameters(), strict=True
        ):
            torch.testing.assert_close(mine, theirs)
    assert losses.keys() == {"source/ce", "mixed/ce"}


@pytest.mark.parametrize("norm", ["shared", "frozen"])
def test_other_norms_do(norm: str, classes: Classes) -> None:
    torch.manual_seed(0)
    config = SegmenterConfig.model_validate(
        {"backbone": "resnet-tiny", "decoder": "light", "norm": norm}
    )
    method = make(Segmenter(config, classes))
    before = [value.clone() for value in method.teacher.statistics("target")]
    assert all(math.isfinite(loss) for loss in step(method, make_batch()).values())
    method.after_step(0)
    same = [
        one.equal(other)
        for one, other in zip(method.teacher.statistics("target"), before, strict=True)
    ]
    assert all(same) == (norm == "frozen")


def test_features_stay_near_the_published_ones(segmenter: Segmenter, tmp_path: Path) -> None:
    published = build_backbone("resnet-tiny", None, 16)
    publish(published, tmp_path)
    config = segmenter.config.model_copy(update={"weights": str(tmp_path)})
    network = Segmenter(config, segmenter.classes)
    method = make(network, initial={"weight": 0.01, "classes": ["car", "no class here"]})
    assert method.counted.tolist() == [False, True, False, False]
    batch = make_batch()
    parts = list(method.losses(batch))
    label, mean, std = batch.source.label, network.mean, network.std
    with torch.no_grad():
        first = published.eval()((batch.source.image - mean) / std)[-1]
        last = copy.deepcopy(network).train().encode(batch.source.image, "source")[-1]
    wanted = 0.01 * feature_distance(last, first, label, method.counted)
    torch.testing.assert_close(parts[0]["source/initial"].detach(), wanted)
    assert not any(p.requires_grad for p in method.initial.parameters())  # type: ignore[union-attr]
    assert gradients(method, batch, early=True)


def test_features_near_random_ones_are_refused(segmenter: Segmenter) -> None:
    config = CAGPlusConfig.model_validate({"initial": {"weight": 0.005}})
    with pytest.raises(UserError, match=r"segmenter\.weights"):
        CAGPlus(segmenter, config)
    assert CAGPlusConfig().problem_with(segmenter.config) is None
    with pytest.raises(ValidationError, match="momentum"):
        CAGPlusConfig(momentum=1.0)


STAGE = """
[[stages]]
name = "plus"
steps = 2
method = { name = "cag-plus" }
"""


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    path = write_recipe(tmp_path, RECIPE[: RECIPE.index('[[stages]]\nname = "adabn"')] + STAGE)
    changes = ["loading.rare_class_temperature=0.1", "stages.*.checkpoint_every=1"]
    recipe = load_recipe(path, changes)
    run = cag_uda.adapt(recipe, tmp_path / "run")
    quality = json.loads((run.folder / "stages" / "1-plus" / "pseudo_labels.json").read_text())
    assert set(quality) == {"confidence"}
    assert len(list((tmp_path / "cache" / "class-pixels").iterdir())) == 1
    weights = (run.model / "model.safetensors").read_bytes()

    stopped = tmp_path / "stopped"
    monkeypatch.setattr(CAGPlus, "after_step", _stop_after(1, CAGPlus.after_step))
    with pytest.raises(KeyboardInterrupt):
        cag_uda.adapt(recipe, stopped)
    monkeypatch.undo()
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    resumed = cag_uda.adapt(recipe, stopped, resume=True)
    assert (resumed.model / "model.safetensors").read_bytes() == weights


def _stop_after(step: int, after_step: Any) -> Any:
    """As `after_step`, until a step from which a process would not come back."""

    def stopping(method: CAGPlus, number: int) -> None:
        if number == step:
            raise KeyboardInterrupt
        after_step(method, number)

    return stopping
