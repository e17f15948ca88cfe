"""MinEnt, CBST, DACS and the variants of CAG against loops, numpy and the published settings."""

import copy
import math
from typing import Literal, TypeVar

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cag_uda.adaptation.mixing import Mixed
from cag_uda.adaptation.pseudo_labels import ConfidenceStatistics, by_class_balance
from cag_uda.errors import ShapeError, UserError
from cag_uda.methods import Method
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.methods.cbst import CBST, CBSTConfig
from cag_uda.methods.dacs import DACS, DACSConfig
from cag_uda.methods.minent import MinEnt, MinEntConfig
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE, Batch
from tests.support.batches import make_batch, make_passes
from tests.support.method_steps import step

M = TypeVar("M", bound=Method)


def logits_of(seed: int, scale: float = 3.0, classes: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, classes, 24, 31, generator=generator) * scale


@pytest.mark.parametrize("portion", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("scale", [1.0, 4.0, 12.0])
def test_thresholds_are_numpys_quantiles_of_each_class(portion: float, scale: float) -> None:
    """Also where most pixels are above 0.9999 (scale 12)."""
    statistics = ConfidenceStatistics(5)
    batches = [logits_of(seed, scale) for seed in range(3)]
    for logits in batches:
        statistics.update(logits)
    got = statistics.thresholds(portion).double().numpy()
    probability = torch.cat(batches).double().softmax(dim=1)
    confidence, label = (each.numpy().ravel() for each in probability.max(dim=1))
    for k in range(5):
        of_class = np.sort(confidence[label == k])
        exact = np.quantile(of_class, 1 - portion, method="lower")
        assert abs(got[k] - exact) < 2e-3
        # What counts: the share that is labelled.
        labelled = (of_class.astype(np.float32) >= np.float32(got[k])).mean()
        assert labelled == pytest.approx(portion, abs=0.02)
        assert labelled >= portion - 1e-9


def test_a_class_that_is_predicted_nowhere_is_never_assigned() -> None:
    statistics = ConfidenceStatistics(3)
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 0] = 1
    statistics.update(logits)
    thresholds = statistics.thresholds(0.5)
    assert thresholds.isinf().tolist() == [False, True, True]
    logits[:, 2] = 50
    assert (by_class_balance(logits, thresholds).label == IGNORE).all()


def test_statistics_add_up_over_processes_and_refuse_other_shapes() -> None:
    whole, part = ConfidenceStatistics(5), ConfidenceStatistics(5)
    for seed in range(2):
        whole.update(logits_of(seed))
    part.update(logits_of(0))
    other = ConfidenceStatistics(5)
    other.update(logits_of(1))
    part.reduce(lambda pixels: pixels + other.pixels)
    assert part.pixels.equal(whole.pixels)
    with pytest.raises(ShapeError, match="class balance"):
        whole.update(torch.zeros(1, 4, 2, 2))
    with pytest.raises(UserError, match="portion"):
        whole.thresholds(0.0)


def test_class_balanced_labels_by_a_loop_over_pixels() -> None:
    logits = logits_of(0, 1.0)
    thresholds = torch.tensor([0.9, 0.3, 0.5, math.inf, 0.25])
    got = by_class_balance(logits, thresholds)
    probability = logits.double().softmax(dim=1)
    for b in range(2):
        for y in range(24):
            for x in range(31):
                ratio = [float(probability[b, k, y, x] / thresholds[k]) for k in range(5)]
                best = max(range(5), key=ratio.__getitem__)
                wanted = best if ratio[best] >= 1 else IGNORE
                assert got.label[b, y, x] == wanted
                assert got.weight[b, y, x] == (wanted != IGNORE)
    # Rare classes win pixels that the classifier gives to others: that is what it is for.
    assert (got.label != logits.argmax(1))[got.label != IGNORE].any()


def test_cbst_rounds_grow_by_five_points_up_to_half(segmenter: Segmenter) -> None:
    method = CBST(segmenter, CBSTConfig())
    portions = []
    for _ in range(8):
        portions.append(round(method.portion, 6))
        method.prepare(make_passes())
    assert portions == [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.5]
    assert CBST(segmenter, CBSTConfig(portion=0.8)).portion == 0.8


def test_cbst_labels_its_share_of_the_target_by_the_network_of_the_round(
    segmenter: Segmenter,
) -> None:
    segmenter.set_target_share(1.0)  # An untrained network's source statistics say nothing.
    method = CBST(segmenter, CBSTConfig(portion=0.4))
    method.prepare(make_passes())
    frozen = copy.deepcopy(method.segmenter).eval()
    images = [target.plain for target in make_passes().target()]
    predicted = torch.cat([frozen(image, "target").logits.argmax(1) for image in images])
    labels = torch.cat([method.pseudo_labels(image)["class-balanced"].label for image in images])
    assert (labels != IGNORE).float().mean().item() == pytest.approx(0.4, abs=0.05)
    for k in predicted.unique().tolist():
        share = (labels == k).sum() / (predicted == k).sum()
        assert share >= 0.3
    method.train()
    before = labels
    for number in range(2):
        step(method, make_batch(number))
    after = torch.cat([method.pseudo_labels(image)["class-balanced"].label for image in images])
    assert after.equal(before), "labels stay those of the round's first network"
    method.prepare(make_passes())
    renewed = torch.cat([method.pseudo_labels(image)["class-balanced"].label for image in images])
    assert not renewed.equal(before)


def test_cbst_takes_the_targets_statistics_before_it_labels(segmenter: Segmenter) -> None:
    expected = copy.deepcopy(segmenter)
    expected.estimate_statistics([t.plain for t in make_passes().target()], "target")
    method = CBST(segmenter, CBSTConfig())
    method.prepare(make_passes())
    for ours, theirs in zip(
        method.labeller.statistics("target"), expected.statistics("target"), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_minent_adds_a_thousandth_of_advents_entropy(segmenter: Segmenter) -> None:
    """The released code's formula: base 2, over log2 K, on upsampled probabilities."""
    method = MinEnt(segmenter, MinEntConfig()).train()
    batch = make_batch()
    reference = copy.deepcopy(segmenter).train()
    torch.manual_seed(0)
    losses = [dict(each) for each in method.losses(batch)]
    torch.manual_seed(0)
    reference(batch.source.image, "source")
    logits = reference(batch.target.image, "target").logits
    p = F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False).softmax(dim=1)
    n, c, h, w = p.shape
    expected = -(p * torch.log2(p + 1e-30)).sum() / (n * h * w * math.log2(c))
    torch.testing.assert_close(losses[1]["target/entropy"], 1e-3 * expected)
    assert list(losses[0]) == ["source/ce"]


def test_the_dacs_teacher_is_the_true_mean_first_and_then_follows_at_a_hundredth(
    segmenter: Segmenter,
) -> None:
    method = DACS(segmenter, DACSConfig())
    method.prepare(make_passes())
    teacher = next(iter(method.teacher.parameters()))
    student = next(iter(method.segmenter.parameters()))
    history = []
    for number in range(4):
        with torch.no_grad():
            student.add_(1.0)
        history.append(student.detach().clone())
        method.after_step(number)
    torch.testing.assert_close(teacher, torch.stack(history).mean(dim=0))
    before = teacher.clone()
    method.after_step(10_000)
    torch.testing.assert_close(teacher, 0.99 * before + 0.01 * student)
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())


def test_dacs_mixes_what_the_teacher_says_with_the_published_weights(segmenter: Segmenter) -> None:
    config = DACSConfig(jitter_probability=0.0, blur_probability=0.0, confidence=0.3)
    method = DACS(segmenter, config)
    method.prepare(make_passes())
    method.train()
    batch = make_batch()
    plain = batch.target.image.flip(0)
    batch = batch._replace(target=batch.target._replace(plain=plain))
    reference = copy.deepcopy(method.teacher)
    mixed = method.mix(batch)
    with torch.no_grad():
        logits = reference(plain, "target").logits
    probability = F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False).softmax(1)
    confidence, label = probability.max(dim=1)
    share = (confidence >= 0.3).float().mean()
    assert 0 < share < 1
    pasted = mixed.weight == 1
    torch.testing.assert_close(
        mixed.image,
        torch.where(pasted[:, None], batch.source.image, batch.target.image),
        rtol=0,
        atol=1e-6,
    )
    assert mixed.label.equal(torch.where(pasted, batch.source.label, label))
    torch.testing.assert_close(mixed.weight[~pasted], share.expand(int((~pasted).sum())))
    for b in range(2):
        classes = batch.source.label[b][pasted[b]].unique().tolist()
        assert len(classes) == 2, "half of four"
        assert IGNORE not in classes


def without_dropout(method: M) -> M:
    """A method prepared and in training, such that a network gives the same twice."""
    method.segmenter.dropout.p = 0.0
    method.prepare(make_passes())
    method.train()
    return method


def test_the_losses_of_dacs_are_means_over_all_pixels(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The released loss: each pixel's cross entropy times its weight, over the pixels' number."""
    method = without_dropout(DACS(segmenter, DACSConfig(confidence=0.3)))
    batch, student = make_batch(), copy.deepcopy(segmenter)
    given: list[Mixed] = []
    mix = method.mix

    def note(some: Batch) -> Mixed:
        given.append(mix(some))
        return given[-1]

    monkeypatch.setattr(method, "mix", note)  # what was drawn at random is looked at
    source, mixed = (dict(each) for each in method.losses(batch))

    def of_pixels(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        large = F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False)
        return F.cross_entropy(large, label, ignore_index=IGNORE, reduction="none")

    plain = of_pixels(student(batch.source.image, "source").logits, batch.source.label)
    known = batch.source.label != IGNORE
    torch.testing.assert_close(source["source/ce"], plain[known].mean())
    weighed = of_pixels(student(given[0].image, "target").logits, given[0].label) * given[0].weight
    torch.testing.assert_close(mixed["mixed/ce"], weighed.mean())


def test_the_losses_of_cbst_are_of_the_rounds_labels_on_their_grid(segmenter: Segmenter) -> None:
    method = without_dropout(CBST(segmenter, CBSTConfig(portion=0.4)))
    batch, student = make_batch(), copy.deepcopy(segmenter)
    source, target = (dict(each) for each in method.losses(batch))
    logits = student(batch.source.image, "source").logits
    large = F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(large, batch.source.label, ignore_index=IGNORE)
    torch.testing.assert_close(source["source/ce"], expected)
    with torch.no_grad():
        probability = method.labeller(batch.target.plain, "target").logits.softmax(dim=1)
    ratio, label = (probability / method.thresholds.view(1, -1, 1, 1)).max(dim=1)
    label = torch.where(ratio >= 1, label, IGNORE)
    assert (label != IGNORE).any()
    logits = student(batch.target.image, "target").logits
    expected = F.cross_entropy(logits, label, ignore_index=IGNORE)
    torch.testing.assert_close(target["target/ce"], expected)


def test_mixed_images_use_and_move_the_targets_statistics_alone(segmenter: Segmenter) -> None:
    method = DACS(segmenter, DACSConfig())
    method.prepare(make_passes())
    method.train()
    yields = method.losses(make_batch())
    next(yields)
    source = [value.clone() for value in segmenter.statistics("source")]
    target = [value.clone() for value in segmenter.statistics("target")]
    next(yields)
    assert all(a.equal(b) for a, b in zip(segmenter.statistics("source"), source, strict=True))
    assert not any(a.equal(b) for a, b in zip(segmenter.statistics("target"), target, strict=True))


def test_dacs_delivers_the_student_with_statistics_of_plain_target_images(
    segmenter: Segmenter,
) -> None:
    method = DACS(segmenter, DACSConfig())
    method.prepare(make_passes())
    method.train()
    step(method, make_batch())
    method.after_step(5)
    expected = copy.deepcopy(method.segmenter)
    expected.estimate_statistics([t.plain for t in make_passes().target()], "target")
    method.finish(make_passes())
    delivered = method.predictor()
    assert delivered is method.segmenter
    for ours, theirs in zip(
        delivered.statistics("target"), expected.statistics("target"), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("norm", ["shared", "frozen"])
@pytest.mark.parametrize("method", [CBST, DACS, MinEnt])
def test_rivals_do_with_other_norms(
    method: type[Method], norm: Literal["shared", "frozen"], segmenter: Segmenter
) -> None:
    config = SegmenterConfig(backbone="resnet-tiny", decoder="light", norm=norm)
    torch.manual_seed(0)
    network = Segmenter(config, segmenter.classes)
    made = method(network, method.Config.model_validate({}))
    made.prepare(make_passes())
    losses = step(made.train(), make_batch())
    assert all(math.isfinite(loss) for loss in losses.values())
    if norm == "frozen":
        assert all(
            (value == 0).all() or (value == 1).all() for value in network.statistics("target")
        )


def test_a_renewed_cag_labeller_has_statistics_of_whole_target_images(segmenter: Segmenter) -> None:
    method = CAG(segmenter, CAGConfig())
    method.prepare(make_passes())
    step(method.train(), make_batch())
    expected = copy.deepcopy(method.segmenter)
    expected.estimate_statistics([t.plain for t in make_passes().target()], "target")
    method.prepare(make_passes())
    for ours, theirs in zip(
        method.labeller.statistics("target"), expected.statistics("target"), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
