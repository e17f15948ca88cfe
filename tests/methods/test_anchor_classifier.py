"""The classifier pooled with adapted anchors: the same answer, by weights alone."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cag_uda.adaptation.adapted_anchors import pool
from cag_uda.methods.anchor_classifier import AnchorClassifier, AnchorClassifierConfig
from cag_uda.methods.base import Passes
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.start import start_from
from cag_uda.types import Labelled
from tests.support.batches import make_batch, make_passes, same


def test_the_merged_network_answers_with_the_pool(segmenter: Segmenter) -> None:
    before = copy.deepcopy(segmenter).eval()
    method = AnchorClassifier(segmenter, AnchorClassifierConfig(weight=0.3))
    method.prepare(make_passes())
    image = make_batch(9).target.plain
    with torch.no_grad():
        seen = before.predict_levels(image)
        wanted = pool(seen.logits, method.adapted.anchors.log_likelihood(seen.features), 0.3)
        given = segmenter.eval()(image)
    # Features of the decoder, 128, and of the backbone's maps of strides 8 and 16.
    assert seen.features.shape[1] == 128 + 16 + 32
    assert given.features.equal(seen.features[:, :128])
    # Alike but for a constant of each pixel, which no label and no probability depends on.
    assert given.logits.log_softmax(1).allclose(wanted.log_softmax(1), atol=1e-3)
    assert not given.logits.argmax(1).equal(seen.logits.argmax(1))


def test_anchors_are_pooled_with_a_network_that_has_some_already(segmenter: Segmenter) -> None:
    AnchorClassifier(segmenter, AnchorClassifierConfig()).prepare(make_passes())
    before, image = copy.deepcopy(segmenter).eval(), make_batch(9).target.plain
    method = AnchorClassifier(segmenter, AnchorClassifierConfig(weight=0.6))
    method.prepare(make_passes())
    with torch.no_grad():
        seen = before.predict_levels(image)
        wanted = pool(seen.logits, method.adapted.anchors.log_likelihood(seen.features), 0.6)
        given = segmenter.eval()(image)
    assert given.logits.log_softmax(1).allclose(wanted.log_softmax(1), atol=1e-3)


def test_a_network_with_skip_scores_is_saved_begun_with_and_trained(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    AnchorClassifier(segmenter, AnchorClassifierConfig()).prepare(make_passes())
    segmenter.eval().save_pretrained(tmp_path)
    image = make_batch(9).target.plain
    loaded = Segmenter.from_pretrained(tmp_path)
    plain = Segmenter(segmenter.config.model_copy(update={"skip_scores": False}), segmenter.classes)
    start_from(plain, str(tmp_path))
    with torch.no_grad():
        wanted = segmenter(image).logits
        assert loaded(image).logits.equal(wanted)
        assert plain.eval()(image).logits.equal(wanted)
    assert plain.skip_scores is not None
    learning = {id(each) for each in plain.parameter_groups()["head"]}
    assert {id(each) for each in plain.skip_scores.parameters()} <= learning


def test_no_weight_leaves_the_network_as_it_is(segmenter: Segmenter) -> None:
    before = copy.deepcopy(segmenter.state_dict())
    method = AnchorClassifier(segmenter, AnchorClassifierConfig(weight=0.0))
    method.prepare(make_passes())
    assert all(value.equal(before[name]) for name, value in segmenter.state_dict().items())
    assert segmenter.training


@pytest.mark.parametrize("most_lost_points", [0.0, 100.0])
def test_anchors_that_cost_too_much_on_the_source_are_left_out(
    segmenter: Segmenter, most_lost_points: float, caplog: pytest.LogCaptureFixture
) -> None:
    image = make_batch(5).source.image
    with torch.no_grad():
        predicted = segmenter.eval()(image, "source").logits.argmax(1, keepdim=True)
    # Labels for which the classifier as it is has an mIoU of 1.
    label = F.interpolate(predicted.float(), image.shape[2:]).squeeze(1).long()
    assert len(label.unique()) > 1
    passes = Passes(lambda: [Labelled(image, label)], lambda: [make_batch(9).target], same)
    before = copy.deepcopy(segmenter.state_dict())
    config = AnchorClassifierConfig(weight=1.0, most_lost_points=most_lost_points)
    AnchorClassifier(segmenter, config).prepare(passes)
    is_as_before = all(value.equal(before[name]) for name, value in segmenter.state_dict().items())
    assert is_as_before == (most_lost_points == 0)
    assert ("anchors are left out" in caplog.text) == is_as_before


def test_networks_of_another_form_are_refused_by_name() -> None:
    config = AnchorClassifierConfig()
    assert config.problem_with(SegmenterConfig()) is None
    told = config.problem_with(SegmenterConfig(decoder="deeplab-v2"))
    assert told is not None
    assert "linear" in told
