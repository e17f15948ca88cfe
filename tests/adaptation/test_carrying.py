"""Figures of the source go along when features move."""

import torch
from torch import Tensor

from cag_uda.adaptation.adapted_anchors import FeatureSample, SourceFigures
from cag_uda.adaptation.carrying import carried
from tests.support.batches import same, seeded

CHANNELS = 5


def some_figures() -> SourceFigures:
    vectors = torch.randn(3, CHANNELS, generator=seeded(1)) * 3
    return SourceFigures(
        vectors=vectors,
        counts=torch.tensor([5, 7, 0]),
        covariance=torch.tensor([1.0, 2.0, 0.5, 1.5, 1.0]).diag() + 0.2,
        temperature=torch.tensor(2.0),
    )


def pairs_of(before: Tensor, after: Tensor) -> FeatureSample:
    """A sample of rows (N, D) before and after."""
    sample = FeatureSample()
    sample.update(torch.cat([before, after], dim=1).t()[None, :, :, None])
    return sample


def test_an_affine_change_of_the_features_is_followed_exactly() -> None:
    features = torch.randn(4000, CHANNELS, generator=seeded(2)) * 2 + 10
    matrix = torch.randn(CHANNELS, CHANNELS, generator=seeded(3))
    offset = torch.tensor([4.0, -2.0, 0.0, 100.0, 1.0])
    figures = some_figures()
    moved = carried(figures, pairs_of(features, features @ matrix + offset), same)
    # Anchors far from the sample's middle show the ridge most.
    torch.testing.assert_close(moved.vectors, figures.vectors @ matrix + offset, rtol=0, atol=0.02)
    expected = matrix.t() @ figures.covariance @ matrix
    torch.testing.assert_close(moved.covariance, expected, rtol=5e-3, atol=5e-3)
    assert moved.counts.equal(figures.counts)
    assert moved.temperature.equal(figures.temperature)


def test_what_the_map_does_not_explain_widens_the_classes() -> None:
    features = torch.randn(20_000, CHANNELS, generator=seeded(2))
    noise = torch.randn(20_000, CHANNELS, generator=seeded(3)) * 2
    figures = some_figures()
    moved = carried(figures, pairs_of(features, features + noise), same)
    expected = figures.covariance + 4 * torch.eye(CHANNELS)
    torch.testing.assert_close(moved.covariance, expected, rtol=0.05, atol=0.1)
    torch.testing.assert_close(moved.vectors, figures.vectors, rtol=0, atol=0.3)


def test_channels_that_never_move_do_no_harm() -> None:
    features = torch.randn(1000, CHANNELS, generator=seeded(2))
    features[:, 1] = 0
    features[:, 2] = features[:, 0]
    moved = carried(some_figures(), pairs_of(features, features), same)
    assert all(each.isfinite().all() for each in moved)
    assert (torch.linalg.eigvalsh(moved.covariance) > -1e-4).all()


def test_without_pixels_nothing_moves() -> None:
    figures = some_figures()
    assert carried(figures, FeatureSample(), same) is figures
