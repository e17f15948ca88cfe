"""CAG-plus without the source: what it takes of a pack, and what its steps look at."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from cag_uda.adaptation.adapted_anchors import pool
from cag_uda.adaptation.pseudo_labels import by_confidence
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
from cag_uda.types import IGNORE, Batch, Labelled, Prediction
from tests.support.batches import make_batch, make_passes, same
from tests.support.method_steps import step

PLAIN = {"mix": {"jitter": 0.0, "blur_probability": 0.0}}


def no_source() -> Iterator[Labelled]:
    raise AssertionError("there is no source")


def of_pack(segmenter: Segmenter) -> Passes:
    """Sweeps over the target alone, beside a pack of the network."""
    method = CAGPlusSourceFree(copy.deepcopy(segmenter), CAGPlusSourceFreeConfig())
    method.prepare(make_passes())
    assert method.of_pack is not None
    figures = method.of_pack.anchors.figures(method.counts)
    pack = Pack.of(segmenter, figures, "day/train")
    return Passes(no_source, make_passes().target, same, pack=pack)


def bias_of(network: Segmenter) -> Tensor:
    """The classifier's bias."""
    bias = cast(nn.Conv2d, network.classifier).bias
    assert bias is not None
    return bias


def without_source(batch: Batch) -> Batch:
    return batch._replace(source=Labelled(batch.source.image[:0], batch.source.label[:0]))


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_from_a_pack_it_is_what_it_is_with_the_source_at_hand(
    weight: float, segmenter: Segmenter
) -> None:
    config, passes = CAGPlusSourceFreeConfig(anchors=weight), of_pack(segmenter)
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


def test_labels_are_the_pool_of_the_teacher_and_the_packs_anchors(segmenter: Segmenter) -> None:
    """As a stage of `anchor-classifier` would answer in its place, and with the class shares."""
    passes = of_pack(segmenter)
    stage = AnchorClassifier(copy.deepcopy(segmenter), AnchorClassifierConfig())
    stage.renew_target_statistics(passes)
    stage.prepare(passes)
    method = CAGPlusSourceFree(copy.deepcopy(segmenter), CAGPlusSourceFreeConfig())
    method.prepare(passes)
    image = make_batch(7).target.plain
    pooled = stage.frozen(stage.predictor().eval(), image, "target").logits
    pooled += 0.5 * stage.adapted.anchors.share.log()[:, None, None]
    sure = pooled.softmax(1).amax(1).median().item()
    method.config = method.config.model_copy(update={"confidence": sure})
    got, wanted = method.pseudo_labels(image)["confidence"].label, by_confidence(pooled, sure).label
    assert (got == wanted).float().mean() > 0.99
    assert 0.4 < (wanted != IGNORE).float().mean() < 0.6
    alone = method.frozen(method.packed, image, "target").logits
    assert (by_confidence(alone, sure).label == wanted).float().mean() < 0.9


def test_the_anchors_follow_a_teacher_that_has_moved(segmenter: Segmenter) -> None:
    """Twice the features are the same classes at twice the distance."""
    method = CAGPlusSourceFree(segmenter, CAGPlusSourceFreeConfig())
    passes = replace(of_pack(copy.deepcopy(segmenter)), target=make_passes(20).target)
    method.prepare(passes)
    assert method.of_pack is not None
    assert method.adapted is not None
    before = copy.deepcopy(method.adapted.anchors)
    frozen = method.frozen

    def doubled(*seen: Any, **how: Any) -> Prediction:
        prediction = frozen(*seen, **how)
        if seen[0] is not method.teacher:
            return prediction
        return prediction._replace(features=2 * prediction.features + 1)

    method.frozen = doubled  # type: ignore[method-assign]
    with torch.no_grad():
        next(method.teacher.decoder.parameters()).add_(1e-6)  # No longer the pack's.
    method.refresh(passes)
    moved = method.adapted.anchors
    # But for channels that hardly vary on the target, whose change it cannot tell.
    wanted = 2 * before.source + 1
    assert (moved.source - wanted).norm() < 0.03 * (wanted - before.source).norm()
    assert method.of_pack.anchors.source.equal(before.source), "the pack's stay what they are"


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


def test_the_end_pools_the_anchors_with_the_classifier(segmenter: Segmenter) -> None:
    passes = of_pack(segmenter)
    pooled = CAGPlusSourceFree(segmenter, CAGPlusSourceFreeConfig())
    pooled.prepare(passes)
    step(pooled.train(), make_batch(1))
    pooled.after_step(0)
    alone = copy.deepcopy(pooled)
    alone.adapted = None
    for method in (pooled, alone):
        method.finish(passes)
    assert pooled.adapted is not None
    image = make_batch(7).target.plain
    seen = alone.frozen(alone.predictor(), image, "target", levels=True)
    wanted = pool(seen.logits, pooled.adapted.anchors.log_likelihood(seen.features)).softmax(1)
    got = pooled.frozen(pooled.predictor(), image, "target").logits.softmax(1)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
    assert not got.allclose(seen.logits.softmax(1), atol=1e-2)


def test_a_classifier_that_is_not_linear_is_refused(segmenter: Segmenter) -> None:
    made_of = segmenter.config.model_copy(update={"decoder": "deeplab-v2"})
    assert "set anchors = 0" in str(CAGPlusSourceFreeConfig().problem_with(made_of))
    assert CAGPlusSourceFreeConfig(anchors=0).problem_with(made_of) is None


def test_weights_that_do_not_learn_are_not_pulled(segmenter: Segmenter) -> None:
    for each in (*segmenter.backbone.parameters(), *segmenter.decoder.parameters()):
        each.requires_grad_(False)
    method = CAGPlusSourceFree(segmenter, CAGPlusSourceFreeConfig(anchors=0))
    method.prepare(of_pack(copy.deepcopy(segmenter)))
    losses = step(method.train(), without_source(make_batch(1)))
    assert losses["source/pull"] == 0
