"""CAG-plus without the source: what it takes of a pack, and what its steps look at."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import cast

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from cag_uda.adaptation.soft_labels import soft_cross_entropy
from cag_uda.errors import UserError
from cag_uda.methods import METHODS, Passes
from cag_uda.methods.adapted_labels import AdaptedLabels
from cag_uda.methods.anchor_classifier import AnchorClassifier, AnchorClassifierConfig, merge
from cag_uda.methods.base import predict
from cag_uda.methods.cag_plus_source_free import CAGPlusSourceFree, CAGPlusSourceFreeConfig
from cag_uda.methods.labeller import LabellerPasses, one_by_one
from cag_uda.models.norm import carry_source_statistics
from cag_uda.models.pack import Pack
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE, Batch, Labelled
from tests.support.batches import make_batch, make_passes, same
from tests.support.method_steps import step

PLAIN = {"mix": {"jitter": 0.0, "blur_probability": 0.0}}


def no_source() -> Iterator[Labelled]:
    raise AssertionError("there is no source")


def of_pack(segmenter: Segmenter) -> Passes:
    """Sweeps over the target alone, beside a pack of the network."""
    labels = AdaptedLabels.of_levels(segmenter)
    see = partial(predict, copy.deepcopy(segmenter).eval(), levels=True)
    figures = labels.fit(LabellerPasses(segmenter, see, one_by_one(make_passes())))
    pack = Pack.of(segmenter, figures, "day/train")
    return Passes(no_source, make_passes().target, same, pack=pack)


def bias_of(network: Segmenter) -> Tensor:
    """The classifier's bias."""
    bias = cast(nn.Conv2d, network.classifier).bias
    assert bias is not None
    return bias


def without_source(batch: Batch) -> Batch:
    return batch._replace(source=Labelled(batch.source.image[:0], batch.source.label[:0]))


def test_from_a_pack_it_is_what_it_is_with_the_source_at_hand(segmenter: Segmenter) -> None:
    config, passes = CAGPlusSourceFreeConfig(), of_pack(segmenter)
    given = CAGPlusSourceFree(copy.deepcopy(segmenter), config)
    given.prepare(make_passes())
    packed = CAGPlusSourceFree(copy.deepcopy(segmenter), config)
    packed.prepare(passes)
    for (name, one), other in zip(
        given.state_dict().items(), packed.state_dict().values(), strict=True
    ):
        assert one.equal(other), name
    batch = make_batch(5)
    assert step(packed.train(), without_source(batch)) == step(given.train(), batch)


def test_the_losses_of_a_step_are_those_written_out(segmenter: Segmenter) -> None:
    segmenter.dropout.p = 0.0
    config = CAGPlusSourceFreeConfig.model_validate({**PLAIN, "pull": 0.4})
    method = CAGPlusSourceFree(segmenter, config)
    method.prepare(of_pack(copy.deepcopy(segmenter)))
    with torch.no_grad():
        for each in method.segmenter.parameters():
            each.add_(0.01)
    method.train()
    reference, batch = copy.deepcopy(method), without_source(make_batch(3))
    torch.manual_seed(0)
    (losses,) = method.losses(batch)
    features = (*segmenter.backbone.parameters(), *segmenter.decoder.parameters())
    moved_by = 0.01**2 * sum(each.numel() for each in features)
    assert losses["source/pull"].item() == pytest.approx(0.2 * moved_by, rel=1e-3)

    torch.manual_seed(0)
    image = batch.target.image
    logits = reference.see_target(image).logits
    mixed, soft = reference.mix(batch, logits)
    is_pasted = mixed.label != IGNORE
    assert 0 < is_pasted.float().mean() < 1
    other = image.flip(0)  # Of two images the one before is the other.
    torch.testing.assert_close(mixed.image, torch.where(is_pasted[:, None], other, image))
    plain = reference.soft_labels(logits, image)
    assert soft.probability.equal(
        torch.where(is_pasted[:, None], plain.probability.flip(0), plain.probability)
    )
    assert mixed.label[is_pasted].equal(soft.probability.argmax(1)[is_pasted])
    student = reference.segmenter(mixed.image, "target")
    ce = soft_cross_entropy(reference.upsample(student.logits, mixed.image), soft)
    torch.testing.assert_close(losses["mixed/ce"], ce)


@pytest.mark.parametrize("hold", [0.0, 0.25, 1.0])
def test_labels_are_the_pool_of_the_teacher_and_the_network_before(
    hold: float, segmenter: Segmenter
) -> None:
    """p(c | x)^(1 − hold) of the teacher by p(c | x)^hold of the frozen network, written out."""
    method = CAGPlusSourceFree(segmenter, CAGPlusSourceFreeConfig(hold=hold))
    method.prepare(of_pack(copy.deepcopy(segmenter)))
    with torch.no_grad():
        bias_of(method.teacher)[0] += 3.0
    image = make_batch(7).target.plain
    now, before = (
        predict(network.eval(), image, "target").logits.softmax(1)
        for network in (method.teacher, method.held)
    )
    wanted = now ** (1 - hold) * before**hold
    wanted /= wanted.sum(dim=1, keepdim=True)
    torch.testing.assert_close(method.see_target(image).logits.softmax(1), wanted)
    sure = wanted.amax(1).median().item()
    method.config = method.config.model_copy(update={"confidence": sure})
    told = method.pseudo_labels(image)["confidence"].label
    assert told[told != IGNORE].equal(wanted.argmax(1)[told != IGNORE])
    assert 0.4 < (told != IGNORE).float().mean() < 0.6


def test_what_holds_the_labels_never_changes(segmenter: Segmenter) -> None:
    method = CAGPlusSourceFree(segmenter, CAGPlusSourceFreeConfig())
    method.prepare(of_pack(copy.deepcopy(segmenter)))
    before = copy.deepcopy(method.held.state_dict())
    for number in range(2):
        step(method.train(), without_source(make_batch(number)))
        method.after_step(number)
    assert not bias_of(method.teacher).equal(before["classifier.bias"])
    for name, value in method.held.state_dict().items():
        assert value.equal(before[name]), name


def test_steps_are_normalised_by_the_statistics_that_the_stage_began_with(
    segmenter: Segmenter,
) -> None:
    """As its labels are; they are renewed at the end, the target's by its images."""
    passes = of_pack(copy.deepcopy(segmenter))
    method = CAGPlusSourceFree(segmenter, CAGPlusSourceFreeConfig())
    method.prepare(passes)
    before = copy.deepcopy(segmenter.state_dict())
    names = [name for name in before if name.endswith(("_mean", "_var"))]
    assert names
    step(method.train(), without_source(make_batch(1)))
    method.after_step(0)
    for network in (method.segmenter, method.teacher):
        for name in names:
            assert network.state_dict()[name].equal(before[name]), name
    alone, pair = make_batch(1).target.image[:1], make_batch(1).target.image
    method.segmenter.dropout.p = 0.0
    first = method.student(pair).logits[:1]
    torch.testing.assert_close(method.student(alone).logits, first, rtol=1e-3, atol=1e-4)

    method.finish(passes)
    wanted = copy.deepcopy(method.segmenter)
    wanted.estimate_statistics((batch.plain for batch in passes.target()), "target")
    carry_source_statistics(wanted, method.held)
    state = method.predictor().state_dict()
    for name in names:
        torch.testing.assert_close(state[name], wanted.state_dict()[name], rtol=1e-4, atol=1e-5)
        assert not state[name].equal(before[name]), name


def test_features_near_the_published_ones_are_refused() -> None:
    with pytest.raises(ValidationError, match="wants features of source images"):
        CAGPlusSourceFreeConfig.model_validate({"initial": {"weight": 0.005}})


def test_each_method_says_whether_it_uses_the_source() -> None:
    free = {name for name, method in METHODS.items() if not method.uses_source}
    assert free == {"adabn", "anchor-classifier", "cag-plus-source-free"}


def test_the_anchor_classifier_takes_the_packs_anchors(segmenter: Segmenter) -> None:
    passes, config = of_pack(segmenter), AnchorClassifierConfig()
    labels = AdaptedLabels.of_levels(segmenter)
    see = partial(predict, segmenter.eval(), levels=True)
    labels.prepare(LabellerPasses(segmenter, see, one_by_one(make_passes())))
    wanted = copy.deepcopy(segmenter)
    merge(wanted, labels, config.weight)
    packed = AnchorClassifier(copy.deepcopy(segmenter), config)
    packed.prepare(passes)
    assert bias_of(packed.segmenter).allclose(bias_of(wanted))
    assert not bias_of(packed.segmenter).equal(bias_of(segmenter))
    with torch.no_grad():
        next(segmenter.parameters()).add_(1.0)
    with pytest.raises(UserError, match="a network that was trained since"):
        AnchorClassifier(segmenter, config).prepare(passes)


@pytest.mark.parametrize("norm", ["per-domain", "shared", "frozen"])
def test_a_pack_of_one_norm_serves_a_recipe_of_another(segmenter: Segmenter, norm: str) -> None:
    passes = of_pack(segmenter)
    config = segmenter.config.model_copy(update={"norm": norm})
    other = Segmenter(config, segmenter.classes)
    method = CAGPlusSourceFree(other, CAGPlusSourceFreeConfig())
    method.prepare(passes)
    losses = step(method.train(), without_source(make_batch(1)))
    assert all(value == value for value in losses.values())


def test_the_sources_statistics_move_with_the_targets(segmenter: Segmenter) -> None:
    """Where all channels are shifted and scaled alike, the source's are what they would be."""
    for statistic in (*segmenter.statistics("source"), *segmenter.statistics("target")):
        statistic.copy_(torch.rand(statistic.shape) + 0.5)
    moved = copy.deepcopy(segmenter)
    scale, shift = 1.5, -2.0
    for place, statistic in enumerate(moved.statistics("target")):
        is_mean = place % 2 == 0
        statistic.copy_(scale * statistic + shift if is_mean else scale**2 * statistic)
    carry_source_statistics(moved, segmenter)
    pairs = zip(moved.statistics("source"), segmenter.statistics("source"), strict=True)
    for place, (got, before) in enumerate(pairs):
        wanted = scale * before + shift if place % 2 == 0 else scale**2 * before
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)

    same_weights = copy.deepcopy(segmenter)
    carry_source_statistics(same_weights, segmenter)
    for got, before in zip(
        same_weights.statistics("source"), segmenter.statistics("source"), strict=True
    ):
        torch.testing.assert_close(got, before)


def test_weights_that_do_not_learn_are_not_pulled(segmenter: Segmenter) -> None:
    for each in (*segmenter.backbone.parameters(), *segmenter.decoder.parameters()):
        each.requires_grad_(False)
    method = CAGPlusSourceFree(segmenter, CAGPlusSourceFreeConfig())
    method.prepare(of_pack(copy.deepcopy(segmenter)))
    losses = step(method.train(), without_source(make_batch(1)))
    assert losses["source/pull"] == 0
