"""Margins: their edges, and the fitted ones against numpy and brute force."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cag_uda.adaptation import MarginStatistics, RelativeMargin, by_anchor, two_nearest
from cag_uda.adaptation.margins import relative_gap
from cag_uda.errors import ShapeError, UserError
from cag_uda.types import IGNORE

CLASSES = 4


def some_pixels(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Distances (2, 4, 40, 50) and true labels that agree with clear gaps more often.

    Class 3 is never right; a tenth of the true labels is unknown.
    """
    generator = torch.Generator().manual_seed(seed)
    distances = 1 + 9 * torch.rand(2, CLASSES, 40, 50, generator=generator)
    nearest, second, label = two_nearest(distances)
    draw = torch.rand(label.shape, generator=generator)
    right = (draw < 0.5 + 2 * relative_gap(nearest, second)) & (label != 3)
    true_label = torch.where(right, label, (label + 1) % CLASSES)
    unknown = torch.rand(label.shape, generator=generator) < 0.1
    return distances, torch.where(unknown, IGNORE, true_label)


def gaps_by_class(distances: Tensor) -> tuple[np.ndarray, np.ndarray]:
    ordered = np.sort(distances.movedim(1, -1).numpy().reshape(-1, CLASSES), axis=1)
    gap = (ordered[:, 1] - ordered[:, 0]) / (ordered[:, 1] + ordered[:, 0])
    return gap, distances.argmin(1).flatten().numpy()


def by_class(margin: RelativeMargin) -> Tensor:
    """The margin of each nearest class, (K,)."""
    assert isinstance(margin.value, Tensor)
    return margin.value


def test_relative_gap_at_its_limits() -> None:
    nearest = torch.tensor([1.0, 2.0, 0.0, 0.0, 3.0, math.inf, math.nan])
    second = torch.tensor([3.0, 2.0, 5.0, 0.0, math.inf, math.inf, 1.0])
    gap = relative_gap(nearest, second)
    assert gap[:5].nan_to_num(-1).tolist() == [0.5, 0.0, 1.0, -1.0, 1.0]
    assert gap[5:].isnan().all()


def test_pixel_at_distance_zero_of_two_anchors_is_not_active() -> None:
    assert by_anchor(torch.zeros(1, 3, 1, 1), RelativeMargin(0.0)).label.item() == IGNORE


@pytest.mark.parametrize("portion", [0.05, 0.3, 0.5, 1.0])
def test_clearest_is_the_quantile_of_numpy(portion: float) -> None:
    distances, _ = some_pixels()
    statistics = MarginStatistics(CLASSES)
    for image in distances.split(1):
        statistics.update(image)
    margin = statistics.clearest(portion)
    gap, nearest = gaps_by_class(distances)
    for k in range(CLASSES):
        of_class = gap[nearest == k]
        # A portion need not be a whole number of pixels: the quantile's two neighbours bound it.
        lower = np.quantile(of_class, 1 - portion, method="lower")
        higher = np.quantile(of_class, 1 - portion, method="higher")
        assert lower - 1 / 4096 <= by_class(margin)[k] <= higher
    active = by_anchor(distances, margin).label.flatten().numpy()
    for k in range(CLASSES):
        share = (active == k).sum() / (nearest == k).sum()
        assert portion <= share <= portion + 0.005


def test_clearest_counts_exactly_where_rounding_would_not() -> None:
    # Thirty gaps of a class; 0.1 × 30 is above 3 in floating point, yet three are a tenth.
    second = torch.arange(1, 31) / 32
    distances = torch.stack([1 - second, 1 + second])[None, :, None, :]
    statistics = MarginStatistics(2)
    statistics.update(distances)
    margin = statistics.clearest(0.1)
    assert (by_anchor(distances, margin).label == 0).sum() == 3
    assert by_class(margin)[1] == math.inf


@pytest.mark.parametrize("precision", [0.6, 0.8, 0.9])
def test_calibrated_is_the_smallest_margin_that_brute_force_finds(precision: float) -> None:
    distances, true_label = some_pixels()
    statistics = MarginStatistics(CLASSES, bins=64)
    statistics.update(distances, true_label)
    found = by_class(statistics.calibrated(precision, min_pixels=20))
    gap, nearest = gaps_by_class(distances)
    known = true_label.flatten().numpy()
    for k in range(CLASSES):
        expected = math.inf
        for edge in np.arange(63, -1, -1) / 64:
            active = (nearest == k) & (gap >= edge) & (known != IGNORE)
            if active.sum() >= 20 and (known[active] == k).mean() >= precision:
                expected = edge
        assert found[k] == expected
    assert found[3] == math.inf
    assert found[:3].isfinite().all()


@pytest.mark.parametrize("portion", [0.1, 0.5, 1.0])
def test_within_prior_is_the_smallest_margin_that_brute_force_finds(portion: float) -> None:
    distances, _ = some_pixels()
    share = torch.tensor([0.05, 0.6, 0.35, 0.0])
    statistics = MarginStatistics(CLASSES, bins=64)
    statistics.update(distances)
    found = by_class(statistics.within_prior(portion, share))
    gap, nearest = gaps_by_class(distances)
    for k in range(CLASSES):
        expected = math.inf
        for edge in np.arange(63, -1, -1) / 64:
            if share[k] and ((nearest == k) & (gap >= edge)).sum() <= portion * share[k] * gap.size:
                expected = edge
        assert found[k] == expected
    labels = by_anchor(distances, statistics.within_prior(portion, share)).label
    for k in range(CLASSES):
        assert (labels == k).sum() <= round(portion * float(share[k]) * gap.size)
    assert found[3] == math.inf
    # A class nearest to fewer pixels than it may label gets them all.
    assert (found[1] == 0) == (portion == 1.0 or (nearest == 1).mean() <= portion * 0.6)


def test_precision_holds_for_every_class_that_is_labelled() -> None:
    distances, true_label = some_pixels()
    statistics = MarginStatistics(CLASSES)
    statistics.update(distances, true_label)
    label = by_anchor(distances, statistics.calibrated(0.8)).label
    for k in range(3):
        judged = (label == k) & (true_label != IGNORE)
        assert judged.sum() >= 100
        assert (true_label[judged] == k).float().mean() >= 0.8
    assert not (label == 3).any()


def test_class_that_never_reaches_the_precision_may_get_its_best() -> None:
    # Class 0: gaps 1/4 wrong, 1/2 right and wrong, 3/4 wrong: best precision is 1/3 from 1/2 on.
    gap = torch.tensor([0.25, 0.5, 0.5, 0.75])
    distances = torch.stack([1 - gap, 1 + gap])[None, :, None, :]
    statistics = MarginStatistics(2, bins=8)
    statistics.update(distances, torch.tensor([[[1, 0, 1, 1]]]))
    assert by_class(statistics.calibrated(0.9, min_pixels=1)).tolist() == [math.inf, math.inf]
    best = by_class(statistics.calibrated(0.9, min_pixels=1, unreachable="best"))
    # From 3/8 on the same pixels are active; the first edge of equals labels no fewer.
    assert best.tolist() == [0.375, math.inf]
    assert by_class(statistics.calibrated(0.3, min_pixels=1))[0] == 0.375
    assert by_class(statistics.calibrated(0.3, min_pixels=4))[0] == math.inf


def test_pixels_without_a_comparison_are_left_out() -> None:
    distances = torch.tensor([[math.nan, 1.0], [math.inf, math.inf], [0.0, 0.0], [1.0, math.inf]])
    statistics = MarginStatistics(2, bins=4)
    statistics.update(distances.t()[None, :, None, :])
    assert statistics.assigned.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]


def test_reduce_and_state_dict() -> None:
    distances, true_label = some_pixels()
    whole, part = MarginStatistics(CLASSES), MarginStatistics(CLASSES)
    whole.update(distances, true_label)
    part.update(distances, true_label)
    part.reduce(lambda histogram: 2 * histogram)
    assert torch.equal(part.correct, 2 * whole.correct)
    part.load_state_dict(whole.state_dict())
    assert torch.equal(part.labelled, whole.labelled)


def test_what_does_not_fit_is_refused_in_words() -> None:
    statistics = MarginStatistics(CLASSES)
    with pytest.raises(UserError, match="feature units"):
        RelativeMargin(2.5)
    with pytest.raises(UserError, match="portion"):
        statistics.clearest(0.0)
    with pytest.raises(UserError, match="portion"):
        statistics.within_prior(1.5, torch.ones(4) / 4)
    with pytest.raises(UserError, match="precision"):
        statistics.calibrated(80)
    with pytest.raises(UserError, match="min_pixels"):
        statistics.calibrated(0.8, min_pixels=0)
    with pytest.raises(UserError, match="two classes"):
        MarginStatistics(1)
    with pytest.raises(ShapeError, match=r"\(B, 4, h, w\)"):
        statistics.update(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ShapeError, match="grid"):
        statistics.update(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 4, dtype=torch.int64))
