"""What a label would teach: centroids against plain loops, and measures by hand."""

import math

import pytest
import torch

from cag_uda.adaptation.adapted_anchors import AdaptedAnchors, SourceFigures
from cag_uda.adaptation.centroids import Centroids
from cag_uda.adaptation.teaching import (
    MEASURES,
    balanced_mean,
    by_class,
    class_weights,
    measure,
)
from cag_uda.errors import ShapeError
from cag_uda.types import Prediction

K, D = 3, 4


def test_centroids_are_the_means_of_each_class_s_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    middles = torch.tensor([[0.0, 0, 0, 0], [9, 0, 0, 0], [0, 9, 0, 0]]) + 100
    rows = middles.repeat_interleave(50, 0) + 0.1 * torch.randn(150, D, generator=generator)
    label = torch.tensor([0, 0, 2]).repeat_interleave(50)
    spread = torch.tensor([1.0, 2.0, 1.0, 1.0])
    found = Centroids.of(rows, label, spread, per_class=2)
    means = [rows[:50].mean(0), rows[50:100].mean(0)]
    order = found.vectors[:2, 0].argsort()
    torch.testing.assert_close(found.vectors[:2][order], torch.stack(means) / spread)
    alike = Centroids.of(torch.ones(5, D), torch.zeros(5).long(), spread)
    assert len(alike.vectors) == 1


def test_distance_is_that_to_the_nearest_centroid_in_standard_deviations() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, D, 3, 5, generator=generator) + 50
    spread = torch.rand(D, generator=generator) + 0.5
    known = Centroids(torch.randn(6, D, generator=generator) + 50 / spread, spread)
    got = known.distance(features)
    for b in range(2):
        for y in range(3):
            for x in range(5):
                apart = [
                    math.sqrt(float(((features[b, :, y, x] / spread - each) ** 2).mean()))
                    for each in known.vectors
                ]
                assert float(got[b, y, x]) == pytest.approx(min(apart), rel=1e-3)
    with pytest.raises(ShapeError, match="centroids want features"):
        known.distance(features[:, :2])
    torch.testing.assert_close(known.joined(known).distance(features), got)


def anchors() -> AdaptedAnchors:
    made = AdaptedAnchors(K, D)
    one = torch.ones(())
    made.begin(SourceFigures(torch.eye(K, D), torch.ones(K, dtype=torch.int64), torch.eye(D), one))
    return made


def test_measures_are_high_where_a_label_would_teach_more() -> None:
    feature = torch.eye(K, D)[0].view(1, D, 1, 1) * 5
    known = Centroids(torch.eye(K, D) * 5, torch.ones(D))
    sure = torch.tensor([30.0, 0, 0]).view(1, K, 1, 1)
    contrary = torch.tensor([0.0, 30, 0]).view(1, K, 1, 1)
    agreed = measure(Prediction(feature, sure), anchors(), known)
    assert set(agreed.measures) == set(MEASURES)
    assert float(agreed.label) == 0
    assert float(agreed.measures["anchors"]) == pytest.approx(0, abs=1e-3)
    contradicted = measure(Prediction(feature, contrary), anchors(), known)
    for name in ("uncertainty", "disagreement"):
        assert 0 <= float(agreed.measures[name]) < float(contradicted.measures[name]) <= 1
    assert float(contradicted.measures["disagreement"]) > 0.9
    far = measure(Prediction(-feature, sure), anchors(), known)
    assert float(far.measures["anchors"]) > 1


def test_means_are_balanced_by_class() -> None:
    weight = class_weights(torch.tensor([0.64, 0.36, 0.0]))
    assert float(weight[1] / weight[0]) == pytest.approx(0.8 / 0.6)
    assert bool(weight.isfinite().all())
    values = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    label = torch.tensor([[[0, 0], [1, 1]]])
    a, b = float(weight[0]), float(weight[1])
    expected = (a * 1 + a * 2 + b * 3) / (2 * a + 2 * b)
    assert float(balanced_mean(values, label, weight)) == pytest.approx(expected)
    shares = by_class(values, label, weight)[0].tolist()
    assert shares == pytest.approx([3 * a / (3 * a + 3 * b), 3 * b / (3 * a + 3 * b), 0])
    assert by_class(values * 0, label, weight).sum() == 0
