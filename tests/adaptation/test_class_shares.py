"""Class shares: known ones are found again, and a plain loop finds the same."""

import pytest
import torch
from torch import Tensor

from cag_uda.adaptation.class_shares import estimated_shares, total_variation
from cag_uda.errors import ShapeError

SOURCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TARGET = torch.tensor([0.15, 0.25, 0.6], dtype=torch.float64)


def posteriors_of(target: Tensor, source: Tensor, count: int) -> Tensor:
    """The source's exact posteriors of points drawn from Gaussians on a line at other shares."""
    generator = torch.Generator().manual_seed(0)
    centres = 2.0 * torch.arange(len(source), dtype=torch.float64)
    label = torch.multinomial(target, count, replacement=True, generator=generator)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    density = (-((centres[label] + noise)[:, None] - centres).square() / 2).exp()
    joint = density * source
    return joint / joint.sum(dim=1, keepdim=True)


def plain_loop(posteriors: Tensor, source: Tensor, rounds: int) -> list[float]:
    shares = source.tolist()
    for _ in range(rounds):
        sums = [0.0] * len(shares)
        for row in posteriors.tolist():
            weights = [
                p * share / s if s else 0.0
                for p, share, s in zip(row, shares, source.tolist(), strict=True)
            ]
            for place, weight in enumerate(weights):
                sums[place] += weight / sum(weights)
        shares = [each / len(posteriors) for each in sums]
    return shares


def test_known_shares_are_found_again() -> None:
    posteriors = posteriors_of(TARGET, SOURCE, 50_000)
    found = estimated_shares(posteriors, SOURCE)
    assert total_variation(found, TARGET) < 0.01
    # Counting the answers, or averaging them, stays nearer to the source's shares.
    assert total_variation(posteriors.mean(dim=0), TARGET) > 0.1
    same = estimated_shares(posteriors_of(SOURCE, SOURCE, 50_000), SOURCE)
    assert total_variation(same, SOURCE) < 0.01


def test_a_plain_loop_finds_the_same() -> None:
    posteriors = posteriors_of(TARGET, SOURCE, 50)
    for rounds in (1, 2, 20):
        found = estimated_shares(posteriors, SOURCE, tolerance=0.0, most_rounds=rounds)
        assert found.tolist() == pytest.approx(plain_loop(posteriors, SOURCE, rounds), abs=1e-12)


def test_a_class_that_the_source_has_not_stays_at_zero() -> None:
    source = torch.tensor([0.6, 0.0, 0.4], dtype=torch.float64)
    posteriors = torch.tensor([[0.7, 0.1, 0.2], [0.1, 0.6, 0.3], [0.0, 1.0, 0.0]])
    found = estimated_shares(posteriors, source)
    assert found[1] == 0
    assert float(found.sum()) == pytest.approx(1)
    assert torch.equal(found, estimated_shares(posteriors[:2], source))


def test_a_class_that_the_target_has_not_goes_to_zero() -> None:
    target = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    found = estimated_shares(posteriors_of(target, SOURCE, 20_000), SOURCE)
    assert found[1] < 0.02


def test_parts_of_the_samples_are_summed() -> None:
    posteriors = posteriors_of(TARGET, SOURCE, 64)
    # The other process holds the same samples.
    doubled = estimated_shares(posteriors, SOURCE, total=lambda counts: 2 * counts)
    torch.testing.assert_close(doubled, estimated_shares(posteriors, SOURCE))


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(4, 2\) and \(3,\)"):
        estimated_shares(torch.ones(4, 2), SOURCE)
    with pytest.raises(ShapeError, match="at least one sample"):
        estimated_shares(torch.ones(0, 3), SOURCE)


def test_total_variation_by_hand() -> None:
    assert total_variation(SOURCE, SOURCE) == 0
    assert total_variation(SOURCE, TARGET) == pytest.approx(0.4)
    assert total_variation(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) == 1
    with pytest.raises(ShapeError, match="as many classes"):
        total_variation(SOURCE, TARGET[:2])
