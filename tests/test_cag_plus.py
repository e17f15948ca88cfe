"""CAG-plus: each piece against a plain loop or a value worked by hand, and the step they make."""

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
from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.adaptation.class_prior import ClassPrior
from cag_uda.adaptation.contrast import anchor_contrast
from cag_uda.adaptation.feature_distance import feature_distance
from cag_uda.adaptation.labels import downsample
from cag_uda.adaptation.losses import cross_entropy
from cag_uda.adaptation.masking import hidden_blocks
from cag_uda.adaptation.moving_anchors import follow, nearest_of
from cag_uda.adaptation.soft_labels import (
    SoftLabels,
    rectify,
    soft_cross_entropy,
    soften,
    with_known,
)
from cag_uda.anchor_files import load_anchors
from cag_uda.errors import ShapeError, UserError
from cag_uda.methods.cag_plus import CAGPlus
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.methods.dacs import DACS, DACSConfig
from cag_uda.models import teacher as teachers
from cag_uda.models.backbones import build_backbone
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import load_recipe
from cag_uda.scenario import Scenario
from cag_uda.types import IGNORE, Batch

from .test_methods import gradients, make_batch, make_passes, step
from .trees import RECIPE, write_recipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(segmenter: Segmenter, **settings: Any) -> CAGPlus:
    """A prepared method in training mode."""
    method = CAGPlus(segmenter, CAGPlusConfig.model_validate(settings))
    method.prepare(make_passes())
    method.train()
    return method


# --- soft labels


def test_rectified_labels_are_the_product_of_probability_and_nearness_by_a_loop() -> None:
    logits = torch.randn(2, 4, 3, 5, generator=seeded()) * 2
    distances = torch.rand(2, 4, 3, 5, generator=seeded(1)) * 7 + 1
    distances[:, 3] = math.inf
    got = rectify(logits, distances, 3.0).softmax(dim=1)
    for b in range(2):
        nearest = [float(distances[b, :, y, x].min()) for y in range(3) for x in range(5)]
        mean = sum(nearest) / len(nearest)
        for y in range(3):
            for x in range(5):
                p = logits[b, :, y, x].double().softmax(0)
                near = torch.exp(-3.0 * distances[b, :, y, x].double() / mean)
                wanted = p * near / near.sum()
                torch.testing.assert_close(got[b, :, y, x], (wanted / wanted.sum()).float())
    assert (got[:, 3] == 0).all(), "no anchor, no label"


def test_rectified_labels_know_no_unit_and_can_leave_the_anchors_out() -> None:
    logits = torch.randn(1, 3, 4, 4, generator=seeded())
    distances = torch.rand(1, 3, 4, 4, generator=seeded(1)) + 0.1
    torch.testing.assert_close(rectify(logits, distances, 2.0), rectify(logits, 1e3 * distances, 2))
    assert rectify(logits, distances, 0.0).equal(logits)
    with pytest.raises(ShapeError, match="one grid"):
        rectify(logits, distances[..., :2], 2.0)


def test_an_unseen_class_does_not_spoil_labels_at_image_size() -> None:
    distances = torch.ones(1, 3, 2, 2)
    distances[:, 2] = math.inf
    grown = F.interpolate(rectify(torch.zeros(1, 3, 2, 2), distances, 4.0), (7, 7), mode="bilinear")
    torch.testing.assert_close(
        grown.softmax(1)[0, :, 3, 3], torch.tensor([0.5, 0.5, 0.0]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_the_temperature_sharpens_labels_and_leaves_weights(temperature: float) -> None:
    probability = torch.tensor([0.6, 0.3, 0.1])
    soft = soften(probability.log().view(1, 3, 1, 1), temperature)
    wanted = {
        1.0: [0.6, 0.3, 0.1],
        0.5: [0.36 / 0.46, 0.09 / 0.46, 0.01 / 0.46],
        0.0: [1.0, 0.0, 0.0],
    }[temperature]
    torch.testing.assert_close(soft.probability.flatten(), torch.tensor(wanted))
    torch.testing.assert_close(soft.weight.flatten(), torch.tensor([0.6]))


def test_soft_cross_entropy_is_the_loop_and_with_hard_labels_the_plain_one() -> None:
    logits = torch.randn(2, 4, 4, 4, generator=seeded())
    label = torch.randint(0, 4, (2, 8, 8), generator=seeded(1))
    soft = SoftLabels(torch.rand(2, 4, 8, 8, generator=seeded(2)).softmax(1), torch.rand(2, 8, 8))
    log_p = F.interpolate(logits, (8, 8), mode="bilinear").log_softmax(1)
    total = 0.0
    for b in range(2):
        for y in range(8):
            for x in range(8):
                inner = sum(
                    float(soft.probability[b, k, y, x] * log_p[b, k, y, x]) for k in range(4)
                )
                total -= float(soft.weight[b, y, x]) * inner
    assert soft_cross_entropy(logits, soft).item() == pytest.approx(total / 128, rel=1e-4)
    certain = with_known(soft, label)
    torch.testing.assert_close(soft_cross_entropy(logits, certain), cross_entropy(logits, label))


def test_known_pixels_are_certain_and_the_others_stay() -> None:
    soft = SoftLabels(torch.full((1, 3, 1, 2), 1 / 3), torch.full((1, 1, 2), 0.4))
    got = with_known(soft, torch.tensor([[[2, IGNORE]]]))
    assert got.probability[0, :, 0, 0].tolist() == [0, 0, 1]
    torch.testing.assert_close(got.probability[0, :, 0, 1], soft.probability[0, :, 0, 1])
    torch.testing.assert_close(got.weight, torch.tensor([[[1.0, 0.4]]]))


# --- anchors, class shares, contrast


def test_anchors_follow_class_by_class() -> None:
    anchors = CategoryAnchors.from_vectors(
        torch.tensor([[1.0, 0.0], [0.0, 2.0], [math.nan, 0.0]]), torch.tensor([10, 4, 0])
    )
    latest = CategoryAnchors.from_vectors(
        torch.tensor([[3.0, 4.0], [math.nan, 0.0], [5.0, 5.0]]), torch.tensor([2, 0, 7])
    )
    follow(anchors, latest, 0.9)
    wanted = torch.tensor([[0.9 + 0.3, 0.4], [0.0, 2.0], [5.0, 5.0]])
    torch.testing.assert_close(anchors.vectors, wanted)
    assert anchors.counts.tolist() == [10, 4, 7]
    before = anchors.vectors
    follow(anchors, latest, 1.0)
    torch.testing.assert_close(anchors.vectors, before)
    with pytest.raises(UserError, match="momentum"):
        follow(anchors, latest, 1.5)
    with pytest.raises(ShapeError, match="as many"):
        follow(anchors, CategoryAnchors(2, 2), 0.5)


def test_of_two_sets_of_anchors_the_nearer_one_counts() -> None:
    source = CategoryAnchors.from_vectors(torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    target = CategoryAnchors.from_vectors(torch.tensor([[3.0, 0.0], [math.nan, 0.0]]))
    feature = torch.tensor([2.5, 0.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(
        nearest_of([source, target], feature).flatten(), torch.tensor([0.5, 1.5])
    )
    torch.testing.assert_close(nearest_of([source], feature).flatten(), torch.tensor([2.5, 1.5]))


def test_alignment_at_full_strength_gives_the_sources_shares_and_at_none_changes_nothing() -> None:
    prior = ClassPrior(3)
    logits = torch.randn(1, 3, 2, 2, generator=seeded())
    torch.testing.assert_close(prior.align(logits, 1.0), logits, msg="nothing is known yet")
    prior.begin(torch.tensor([60, 30, 10]), torch.tensor([0.2, 0.2, 0.4]))
    as_shared = prior.target.log().view(1, 3, 1, 1)
    got = prior.align(as_shared, 1.0).softmax(1).flatten()
    torch.testing.assert_close(got, torch.tensor([0.6, 0.3, 0.1]))
    half = prior.align(as_shared, 0.5).softmax(1).flatten()
    wanted = (
        torch.tensor([0.25, 0.25, 0.5])
        * (torch.tensor([0.6, 0.3, 0.1]) / torch.tensor([0.25, 0.25, 0.5])).sqrt()
    )
    torch.testing.assert_close(half, wanted / wanted.sum())
    torch.testing.assert_close(prior.align(logits, 0.0), logits)
    prior.follow(torch.tensor([8.0, 0.0, 0.0]), 0.75)
    torch.testing.assert_close(prior.target, torch.tensor([0.4375, 0.1875, 0.375]))


def test_contrast_is_the_loop_over_pixels_and_anchors() -> None:
    features = torch.randn(2, 5, 3, 4, generator=seeded()).requires_grad_()
    anchors = torch.randn(4, 5, generator=seeded(1))
    anchors[2] = math.nan
    label = torch.randint(0, 4, (2, 3, 4), generator=seeded(2))
    label[0, 0] = IGNORE
    weight = torch.rand(2, 3, 4, generator=seeded(3))
    got = anchor_contrast(features, anchors, label, weight, temperature=0.2)
    total, count = 0.0, 0
    for b in range(2):
        for y in range(3):
            for x in range(4):
                k = int(label[b, y, x])
                if k in (2, IGNORE):
                    continue
                cosine = {
                    c: float(F.cosine_similarity(features[b, :, y, x].detach(), anchors[c], dim=0))
                    / 0.2
                    for c in (0, 1, 3)
                }
                normaliser = math.log(sum(math.exp(value) for value in cosine.values()))
                total -= float(weight[b, y, x]) * (cosine[k] - normaliser)
                count += 1
    assert got.item() == pytest.approx(total / count, rel=1e-4)
    got.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_contrast_pulls_to_the_own_anchor_and_pushes_from_the_others() -> None:
    anchors = torch.eye(3)
    feature = torch.tensor([0.6, 0.6, 0.5]).view(1, 3, 1, 1).requires_grad_()
    anchor_contrast(feature, anchors, torch.zeros(1, 1, 1, dtype=torch.int64)).backward()
    assert feature.grad is not None
    downhill = -feature.grad.flatten()
    assert downhill[0] > 0
    assert (downhill[1:] < 0).all()
    nothing = torch.full((1, 1, 1), IGNORE)
    assert anchor_contrast(feature, anchors, nothing).item() == 0
    assert anchor_contrast(feature, anchors * math.nan, nothing * 0).item() == 0


# --- hidden blocks, initial features


def test_hidden_blocks_are_blocks_of_the_asked_size_and_number() -> None:
    hidden = hidden_blocks(400, (24, 32), ratio=0.7, block=0.25, generator=seeded())
    assert hidden.shape == (400, 24, 32)
    rows = hidden.view(400, 4, 6, 32)
    assert (rows == rows[:, :, :1]).all(), "6 rows of pixels to a block"
    edges = (hidden[:, :, 1:] != hidden[:, :, :-1]).any(dim=0).any(dim=0).nonzero().flatten()
    assert edges.tolist() == [6, 12, 19, 25], "5 blocks of 6 or 7 pixels across"
    assert hidden.float().mean().item() == pytest.approx(0.7, abs=0.02)
    some = hidden_blocks(400, (24, 32), 1.0, 0.25, probability=0.3, generator=seeded())
    assert some.flatten(1).all(dim=1).float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert some.flatten(1).any(dim=1).equal(some.flatten(1).all(dim=1))
    assert hidden_blocks(1, (4, 4), 1.0, 0.01).all(), "no smaller than a pixel"


def test_feature_distance_is_the_loop_over_cells_of_the_counted_classes() -> None:
    features = torch.randn(2, 3, 2, 2, generator=seeded())
    initial = torch.randn(2, 3, 2, 2, generator=seeded(1))
    label = torch.randint(0, 3, (2, 8, 8), generator=seeded(2))
    label[0, :4, :4] = 1
    label[0, 0, :4] = 2  # 75 % of class 1
    label[1, 4:, :4] = 1
    label[1, 4:6, :4] = IGNORE  # 50 %
    label[1, :4, 4:] = 0  # not counted
    counted = torch.tensor([False, True, True])
    wanted = (features[0, :, 0, 0] - initial[0, :, 0, 0]).norm()
    torch.testing.assert_close(feature_distance(features, initial, label, counted), wanted)
    nowhere = torch.full_like(label, IGNORE)
    assert feature_distance(features, initial, nowhere, counted).item() == 0


# --- the teacher


def test_weights_and_the_sources_statistics_follow(segmenter: Segmenter) -> None:
    teacher = copy.deepcopy(segmenter)
    before = copy.deepcopy(teacher)
    with torch.no_grad():
        for value in [*segmenter.parameters(), *segmenter.statistics("source")]:
            value.add_(1.0)
        for value in segmenter.statistics("target"):
            value.add_(9.0)
    teachers.follow(teacher, segmenter, 0.75)
    for mine, first in zip(teacher.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(mine, first + 0.25)
    for mine, first in zip(teacher.statistics("source"), before.statistics("source"), strict=True):
        torch.testing.assert_close(mine, first + 0.25)
    for mine, first in zip(teacher.statistics("target"), before.statistics("target"), strict=True):
        assert mine.equal(first), "the teacher's own"


def test_statistics_take_the_batch_in_and_then_normalise_it(segmenter: Segmenter) -> None:
    image = make_batch().target.plain
    norm = next(m for m in segmenter.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen: list[tuple[Tensor, Tensor]] = []
    norm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    segmenter.eval()
    with torch.no_grad(), teachers.statistics_follow(segmenter):
        segmenter(image, "target")
    values, output = seen[0]
    mean = 0.1 * values.mean(dim=(0, 2, 3))
    variance = 0.9 + 0.1 * values.var(dim=(0, 2, 3))
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    shape = (1, -1, 1, 1)
    wanted = (values - mean.view(shape)) / (variance + norm.eps).sqrt().view(shape)
    torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-5)
    kept = [value.clone() for value in segmenter.statistics("target")]
    with torch.no_grad():
        segmenter(image, "target")
    for value, one in zip(segmenter.statistics("target"), kept, strict=True):
        assert value.equal(one), "only within the block"


# --- the method


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


def test_anchors_and_class_shares_follow_what_the_step_saw(segmenter: Segmenter) -> None:
    settings = {"anchor_momentum": 0.8, "prior_momentum": 0.7, "anchor_confidence": 0.0}
    method = make(segmenter, anchor_weight=4.0, prior_strength=0.5, **settings)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    batch = make_batch(3)
    reference = copy.deepcopy(method)
    anchors, target_anchors = method.anchors.vectors, method.target_anchors.vectors
    for losses in method.losses(batch):
        torch.stack(list(losses.values())).sum().backward()
    for name in ("anchors.sums", "target_anchors.sums", "prior.target"):
        assert method.state_dict()[name].equal(before[name]), "only after the step"
    method.after_step(0)

    torch.manual_seed(0)
    features = reference.segmenter(batch.source.image, "source").features.detach()
    label = downsample(batch.source.label, (8, 8))
    with torch.no_grad(), teachers.statistics_follow(reference.teacher):
        seen, logits = reference.teacher(batch.target.plain, "target")
    rectified = rectify(
        logits, nearest_of([reference.anchors, reference.target_anchors], seen), 4.0
    )
    probability = rectified.softmax(1)
    found = reference.prior.align(rectified, 0.5).argmax(1)
    for k in range(4):
        for got, old, maps, labels in (
            (method.anchors, anchors, features, label),
            (method.target_anchors, target_anchors, seen, found),
        ):
            own = maps.permute(0, 2, 3, 1)[labels == k]
            wanted = 0.8 * old[k] + 0.2 * own.mean(0) if len(own) else old[k]
            torch.testing.assert_close(got.vectors[k], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        method.prior.target,
        0.7 * before["prior.target"] + 0.3 * probability.mean(dim=(0, 2, 3)),
    )


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
        {"label_anchors": ["source"]},
        {"label_anchors": ["target"]},
        {"anchor_weight": 0.0},
        {"anchor_momentum": 1.0},
        {"prior_strength": 0.0},
        {"label_temperature": 0.0},
        {"contrast": {"weight": 0.0}},
        {"mix": {"probability": 0.0}},
        {"mask": {"probability": 0.0}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_piece_can_be_taken_out(settings: dict[str, Any], segmenter: Segmenter) -> None:
    method = make(segmenter, **settings)
    anchors = method.anchors.vectors
    for number in range(2):
        losses = step(method, make_batch(number))
        method.after_step(number)
        assert all(math.isfinite(loss) for loss in losses.values()), losses
    labels = method.pseudo_labels(make_batch(4).target.plain)
    assert set(labels) == {"corrected", "confidence"}
    if settings == {"anchor_weight": 0.0}:
        plain = make(copy.deepcopy(segmenter), anchor_weight=0.0, prior_strength=0.0)
        given = plain.pseudo_labels(make_batch(4).target.plain)
        assert given["corrected"].label.equal(given["confidence"].label)
    assert method.anchors.vectors.equal(anchors) == (settings == {"anchor_momentum": 1.0})
    if settings == {"momentum": 0.0}:
        for mine, theirs in zip(
            method.teacher.parameters(), method.segmenter.parameters(), strict=True
        ):
            torch.testing.assert_close(mine, theirs)
    if settings == {"contrast": {"weight": 0.0}}:
        assert losses["source/contrast"] == losses["mixed/contrast"] == 0


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


def test_labels_flood_less_with_the_sources_shares(segmenter: Segmenter) -> None:
    """A class that the labels prefer beyond its share of the source gets fewer of them."""
    method = make(segmenter, anchor_weight=0.0)
    with torch.no_grad():
        method.teacher.classifier.bias[0] += 2.0
    image = make_batch(4).target.plain
    _, logits = method._rectified(image)
    method.prior.follow(logits.softmax(1).sum(dim=(0, 2, 3)), 0.0)
    shares = [
        (method.prior.align(logits, strength).softmax(1)[:, 0].mean().item())
        for strength in (0.0, 0.5, 1.0)
    ]
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] == pytest.approx(method.prior.source[0].item(), abs=0.1)


def test_features_stay_near_the_published_ones(segmenter: Segmenter, tmp_path: Path) -> None:
    published = build_backbone("resnet-tiny", None, 16)
    published.network.save_pretrained(tmp_path)
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


def test_a_run_keeps_the_sources_anchors_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    path = write_recipe(tmp_path, RECIPE[: RECIPE.index('[[stages]]\nname = "adabn"')] + STAGE)
    changes = ["loading.rare_class_temperature=0.1", "stages.*.checkpoint_every=1"]
    recipe = load_recipe(path, changes)
    run = cag_uda.adapt(recipe, tmp_path / "run")
    folder = run.folder / "stages" / "1-plus"
    quality = json.loads((folder / "pseudo_labels.json").read_text())
    assert set(quality) == {"corrected", "confidence"}
    start = cag_uda.load(run.folder / "stages" / "0-source-only" / "model")
    (images,) = Scenario.open(recipe).sources
    expected = CategoryAnchors(4, start.feature_channels)
    with torch.no_grad():
        for index in range(len(images)):
            image, label = images.read(index)
            picture = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
            features = start(picture, "source").features
            size = (features.shape[2], features.shape[3])
            expected.update(features, downsample(torch.from_numpy(label)[None].long(), size))
    kept = load_anchors(folder / "anchors.safetensors")
    torch.testing.assert_close(kept.vectors, expected.vectors, rtol=1e-4, atol=1e-5)
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
