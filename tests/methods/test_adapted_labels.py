"""CAG with labels by adapted anchors: what it is prepared with, and what its labels are."""

import copy

import pytest
import torch

from cag_uda.adaptation.adapted_anchors import AdaptedAnchors, FeatureSample, SourceFeatures, pool
from cag_uda.methods.adapted_labels import features_and_logits
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE
from tests.support.batches import make_batch, make_passes, same
from tests.support.method_steps import step

THRESHOLD = 0.36
"""Under which some of an untrained network's labels of four classes are sure, and some are not."""


def prepared(segmenter: Segmenter, **settings: object) -> CAG:
    config = {"labels": ("adapted",), "adapted_confidence": THRESHOLD, **settings}
    method = CAG(segmenter, CAGConfig.model_validate(config))
    method.prepare(make_passes())
    return method.train()


def test_labels_are_the_sure_pixels_of_the_pool(segmenter: Segmenter) -> None:
    method = prepared(segmenter)
    labeller = copy.deepcopy(segmenter).eval()
    source, target = SourceFeatures(4, 128, torch.device("cpu")), FeatureSample()
    with torch.no_grad():
        for batch in make_passes().source():
            seen = labeller(batch.image, "source")
            source.update(seen.features, method.segmenter.on_grid(batch.label, seen.logits))
        for images in make_passes().target():
            target.update(features_and_logits(labeller(images.plain, "target")))
        anchors = AdaptedAnchors(4, 128)
        anchors.fit(source, same)
        anchors.adapt(target, same)
        image = make_batch(9).target.plain
        seen = labeller(image, "target")
        pooled = pool(seen.logits, anchors.log_likelihood(seen.features)).softmax(1)
    confidence, expected = pooled.max(1)
    labels = method.pseudo_labels(image)["adapted"]
    assert labels.label.equal(torch.where(confidence > THRESHOLD, expected, IGNORE))
    assert 0 < float((labels.label != IGNORE).float().mean()) < 1
    assert not anchors.vectors.allclose(anchors.source), "the target has moved them"


def test_a_step_learns_from_them_and_resumes(segmenter: Segmenter) -> None:
    method = prepared(segmenter, distance_weight=0.0)
    fresh = CAG(copy.deepcopy(segmenter), method.config).train()
    fresh.load_state_dict(method.state_dict())
    losses = step(method, make_batch(7))
    assert losses["target/adapted"] > 0
    assert losses.keys() == {"source/ce", "target/adapted"}, "no distance is taken where λ is 0"
    assert step(fresh, make_batch(7)) == losses


def test_the_papers_stage_takes_no_sweep_for_them(segmenter: Segmenter) -> None:
    assert "adapted" not in CAG(segmenter, CAGConfig()).kinds


@pytest.mark.parametrize("others", [("anchor",), ("confidence",)])
def test_they_go_with_other_kinds(segmenter: Segmenter, others: tuple[str, ...]) -> None:
    losses = step(prepared(segmenter, labels=("adapted", *others)), make_batch())
    assert {f"target/{kind}" for kind in ("adapted", *others)} < losses.keys()
