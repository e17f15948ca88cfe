"""Pseudo-labels against plain loops, ties and edges included."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cag_uda.adaptation import (
    AbsoluteMargin,
    RelativeMargin,
    by_anchor,
    by_confidence,
    intersection,
    union,
)
from cag_uda.errors import ShapeError, UserError
from cag_uda.types import IGNORE, PseudoLabels


def row(*pixels: tuple[float, ...]) -> Tensor:
    """One image of one row: (1, K, 1, pixels) of each pixel's K values."""
    return torch.tensor(pixels).t()[None, :, None, :]


def labels(*ids: int) -> PseudoLabels:
    label = torch.tensor(ids)[None, None]
    return PseudoLabels(label, (label != IGNORE).float())


def plain_by_anchor(distances: list[float], margins: list[float]) -> int:
    """The definition for one pixel."""
    if any(math.isnan(d) for d in distances):
        return IGNORE
    order = sorted(range(len(distances)), key=lambda k: distances[k])
    nearest, second = distances[order[0]], distances[order[1]]
    if nearest == math.inf:
        return IGNORE
    return order[0] if second - nearest >= margins[order[0]] else IGNORE


# Quarters are exact in float32, so that ties and edges are ties and edges.
quarters = st.integers(0, 40).map(lambda n: n / 4)
pixel_distances = st.lists(quarters | st.sampled_from([math.inf, math.nan]), min_size=4, max_size=4)
class_margins = st.lists(quarters, min_size=4, max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.lists(pixel_distances, min_size=1, max_size=6), class_margins)
def test_by_anchor_is_the_plain_loop(pixels: list[list[float]], margins: list[float]) -> None:
    found = by_anchor(row(*map(tuple, pixels)), torch.tensor(margins))
    expected = [plain_by_anchor(pixel, margins) for pixel in pixels]
    assert found.label.flatten().tolist() == expected
    assert found.weight.flatten().tolist() == [float(k != IGNORE) for k in expected]


def test_gap_equal_to_the_margin_is_active_and_one_step_less_is_not() -> None:
    distances = row((1.0, 3.5, 9.0), (9.0, 1.0, 3.5), (1.0, 3.4999998, 9.0))
    assert by_anchor(distances, 2.5).label.flatten().tolist() == [0, 1, IGNORE]


def test_ties_take_the_lower_class_and_need_no_margin() -> None:
    distances = row((5.0, 2.0, 2.0), (2.0, 5.0, 2.0))
    assert by_anchor(distances, 0.0).label.flatten().tolist() == [1, 0]
    assert by_anchor(distances, 1e-6).label.flatten().tolist() == [IGNORE, IGNORE]


def test_margin_per_class_is_that_of_the_nearest() -> None:
    distances = row((1.0, 3.0), (3.0, 1.0))
    assert by_anchor(distances, torch.tensor([1.0, 2.5])).label.flatten().tolist() == [0, IGNORE]


def test_single_anchor_labels_everything_and_none_labels_nothing() -> None:
    distances = row((math.inf, 2.0, math.inf), (math.inf, math.inf, math.inf))
    for margin in (2.5, RelativeMargin(1.0)):
        assert by_anchor(distances, margin).label.flatten().tolist() == [1, IGNORE]
    for never in (math.inf, AbsoluteMargin(math.inf), RelativeMargin(math.inf)):
        assert by_anchor(distances, never).label.flatten().tolist() == [IGNORE, IGNORE]


def test_relative_margin_has_no_unit() -> None:
    distances = torch.rand(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    small, large = (by_anchor(distances * scale, RelativeMargin(0.25)) for scale in (0.125, 1024.0))
    assert torch.equal(small.label, large.label)
    assert 0 < small.weight.mean() < 1


def test_pseudo_labels_have_the_promised_types() -> None:
    values = torch.rand(2, 3, 4, 5).bfloat16()
    for found in (by_anchor(values, 0.1), by_confidence(values, 0.4)):
        assert found.label.shape == found.weight.shape == (2, 4, 5)
        assert found.label.dtype == torch.int64
        assert found.weight.dtype == torch.float32
        assert torch.equal(found.weight, (found.label != IGNORE).float())


def test_by_confidence_is_strictly_above_the_threshold() -> None:
    # softmax of (log 3, 0) is (3/4, 1/4); of (0, 0), (1/2, 1/2).
    logits = row((math.log(3), 0.0), (0.0, math.log(3)), (0.0, 0.0), (math.nan, 9.0))
    assert by_confidence(logits, 0.7).label.flatten().tolist() == [0, 1, IGNORE, IGNORE]
    assert by_confidence(logits, 0.8).label.flatten().tolist() == [IGNORE] * 4
    assert by_confidence(logits, 0.5).label.flatten().tolist() == [0, 1, IGNORE, IGNORE]
    per_class = torch.tensor([0.8, 0.7])
    assert by_confidence(logits, per_class).label.flatten().tolist() == [IGNORE, 1, IGNORE, IGNORE]


def test_intersection_and_union() -> None:
    first, second = labels(1, 1, 2, IGNORE, IGNORE), labels(1, IGNORE, 3, 4, IGNORE)
    both, either = intersection(first, second), union(first, second)
    assert both.label.flatten().tolist() == [1, IGNORE, IGNORE, IGNORE, IGNORE]
    assert either.label.flatten().tolist() == [1, 1, IGNORE, 4, IGNORE]
    for found in (both, either):
        assert torch.equal(found.weight, (found.label != IGNORE).float())


def test_intersection_keeps_the_smaller_weight_and_union_the_larger() -> None:
    first = labels(1)._replace(weight=torch.full((1, 1, 1), 0.25))
    second = labels(1)._replace(weight=torch.full((1, 1, 1), 0.75))
    assert intersection(first, second).weight.item() == 0.25
    assert union(first, second).weight.item() == 0.75


def test_what_does_not_fit_is_refused_in_words() -> None:
    with pytest.raises(ShapeError, match="at least 2"):
        by_anchor(torch.zeros(1, 1, 2, 2), 2.5)
    with pytest.raises(ShapeError, match="at least 2"):
        by_confidence(torch.zeros(1, 1, 2, 2), 0.9)
    with pytest.raises(ShapeError, match="wants 3 numbers"):
        by_anchor(torch.zeros(1, 3, 2, 2), torch.zeros(4))
    with pytest.raises(ShapeError, match="wants 3 numbers"):
        by_anchor(torch.zeros(1, 3, 2, 2), RelativeMargin(torch.zeros(2)))
    with pytest.raises(ShapeError, match="wants 3 numbers"):
        by_confidence(torch.zeros(1, 3, 2, 2), torch.zeros(2))
    with pytest.raises(ShapeError, match="one grid"):
        union(labels(1, 2), labels(1))
    with pytest.raises(UserError, match="at least 0"):
        by_anchor(torch.zeros(1, 3, 2, 2), -1.0)
