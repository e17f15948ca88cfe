"""Label-free criteria against loops and hand-worked values."""

import inspect
import math
import typing

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.errors import ShapeError
from cag_uda.evaluation import label_free
from cag_uda.evaluation.label_free import (
    active_share,
    agreement,
    expected_iou,
    expected_iou_between_views,
    information_maximisation,
    look_at,
    mean_entropy,
    neighbourhood_density,
    target_criteria,
)
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import CriterionName, Labelled


def test_entropy_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).clamp(min=1e-30)
    # H = 1.5 bits and 0 bits.
    assert mean_entropy(p.log()).item() == pytest.approx(0.75 * math.log(2))


def test_infomax_is_the_mutual_information_by_hand() -> None:
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).clamp(min=1e-30).log()
    assert information_maximisation(sure).item() == pytest.approx(math.log(2))
    one_class = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).clamp(min=1e-30).log()
    assert information_maximisation(one_class).item() == pytest.approx(0.0, abs=1e-6)
    unsure = torch.full((3, 2), 0.5).log()
    assert information_maximisation(unsure).item() == pytest.approx(0.0, abs=1e-6)


def test_neighbourhood_density_is_the_loop() -> None:
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    unit = [[v / math.hypot(*row) for v in row] for row in features.tolist()]
    entropies = []
    for i, one in enumerate(unit):
        weights = [
            math.exp(sum(a * b for a, b in zip(one, other, strict=True)) / 0.05)
            for j, other in enumerate(unit)
            if j != i
        ]
        shares = [weight / sum(weights) for weight in weights]
        entropies.append(-sum(share * math.log(share) for share in shares if share))
    expected = sum(entropies) / len(entropies)
    assert neighbourhood_density(features).item() == pytest.approx(expected, rel=1e-4)


def test_neighbourhood_density_sees_dense_neighbourhoods() -> None:
    """Equal directions are all neighbours of each other; two directions halve them."""
    one = torch.ones(8, 3)
    assert neighbourhood_density(one).item() == pytest.approx(math.log(7))
    two = torch.cat([torch.eye(2)[:1].expand(5, -1), torch.eye(2)[1:].expand(5, -1)])
    assert neighbourhood_density(two).item() == pytest.approx(math.log(4), abs=1e-3)
    with pytest.raises(ShapeError, match="two pixels"):
        neighbourhood_density(torch.ones(1, 3))


def test_expected_iou_by_hand() -> None:
    def alone(probability: Tensor) -> float:
        return expected_iou(probability.argmax(dim=1), probability).item()

    sure = torch.eye(3)[torch.tensor([0, 0, 1, 2])]
    assert alone(sure) == 1
    assert alone(sure[:3]) == pytest.approx(2 / 3), "a lost class counts as 0"
    # Class 0: 0.6 + 0.8 of two pixels and 0.3 elsewhere; class 1: 0.7 of one, 0.4 + 0.2 elsewhere.
    unsure = torch.tensor([[0.6, 0.4], [0.8, 0.2], [0.3, 0.7]])
    assert alone(unsure) == pytest.approx((1.4 / 2.3 + 0.7 / 1.6) / 2)
    swallowed = torch.tensor([[0.9, 0.1]]).expand(10, -1)
    assert alone(swallowed) == pytest.approx(0.45), "one class takes all: half is lost"
    # Pixels of class 1, 0, 0: one right of class 0's two, none of class 1's.
    assert expected_iou(torch.tensor([1, 0, 0]), torch.eye(2)[[0, 0, 1]]).item() == 1 / 6


def test_what_is_not_seen_again_in_another_view_is_not_believed() -> None:
    sure = torch.eye(2)[[0, 0, 1, 1]]
    assert expected_iou_between_views(sure, sure[None]).item() == 1
    swapped = expected_iou_between_views(sure, torch.stack([sure, sure.flip(1)]))
    assert swapped.item() == 0.5, "the second view says the opposite"
    unsure = torch.full((4, 2), 0.5)
    # By it, each class has half of its two pixels; its own predictions are all class 0. Sharpening
    # leaves 0, 0.5 and 1 as they are.
    by_hand = ((1 / 3 + 1 / 3) / 2 + (2 / 4 + 0) / 2) / 2
    assert expected_iou_between_views(sure, unsure[None]).item() == pytest.approx(by_hand)
    half_sure = torch.tensor([[0.75, 0.25], [0.25, 0.75]])  # Sharpened: 0.9 and 0.1.
    assert expected_iou_between_views(half_sure, half_sure[None]).item() == pytest.approx(0.9 / 1.1)


def test_agreement_and_active_share_by_hand() -> None:
    inf = math.inf
    distances = torch.tensor([[1.0, 3.0, inf], [2.0, 2.1, 9.0], [5.0, 1.0, 1.1], [4.0, inf, 2.0]])
    logits = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0, 9.0, 0], [9.0, 0, 0]])
    assert agreement(distances, logits).item() == 0.5
    # Relative gaps 0.5, 0.024, 0.048, 0.333.
    assert active_share(distances).item() == 0.5
    assert active_share(distances, 0.03).item() == 0.75


def distances_to(vectors: Tensor) -> typing.Callable[[Tensor], Tensor]:
    def distances(features: Tensor) -> Tensor:
        found: Tensor = (features[:, None] - vectors[None, :, :, None, None]).norm(dim=2)
        return found

    return distances


def test_criteria_of_a_network_are_finite_repeatable_and_leave_it_alone(
    segmenter: Segmenter,
) -> None:
    images = [torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    vectors = torch.randn(4, segmenter.feature_channels, generator=torch.Generator().manual_seed(2))
    segmenter.train()
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    seen = look_at(segmenter, images, distances_to(vectors))
    assert segmenter.training
    assert all(value.equal(before[name]) for name, value in segmenter.state_dict().items())
    assert seen.logits.shape == (4 * 8 * 12, 4)
    found = target_criteria(seen)
    assert found.keys() | {"source-miou", "probe-iou"} == set(typing.get_args(CriterionName))
    assert all(math.isfinite(value) for value in found.values())
    assert found == target_criteria(look_at(segmenter, images, distances_to(vectors)))
    # The order of pixels is kept: the second image's cells are those of a pass of it alone.
    alone = look_at(segmenter, [images[0][1:]], distances_to(vectors))
    torch.testing.assert_close(seen.logits[96:192], alone.logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(ShapeError, match="at least one"):
        look_at(segmenter, [], distances_to(vectors))


def test_views_lie_on_the_pixels_of_the_images(segmenter: Segmenter) -> None:
    image = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    vectors = torch.zeros(4, segmenter.feature_channels)
    seen, mirrored = (
        look_at(segmenter, [each], distances_to(vectors)) for each in (image, image.flip(-1))
    )
    back = mirrored.logits.softmax(dim=1).unflatten(0, (2, 8, 12)).flip(2).flatten(0, 2)
    torch.testing.assert_close(seen.views[0], back)
    smaller = F.interpolate(image, (24, 36), mode="bilinear", antialias=True)
    coarse = look_at(segmenter, [smaller], distances_to(vectors)).logits.softmax(dim=1)
    coarse = coarse.unflatten(0, (2, 6, 9)).movedim(-1, 1)
    grown = F.interpolate(coarse, (8, 12), mode="bilinear").movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(seen.views[1], grown)


def test_no_criterion_can_be_handed_a_label() -> None:
    """By type: nothing in the module takes, returns or imports labelled images or a domain."""
    for name, function in inspect.getmembers(label_free, inspect.isfunction):
        if function.__module__ != label_free.__name__:
            continue
        hints = typing.get_type_hints(function)
        assert Labelled not in hints.values(), name
        assert not any("label" in parameter or "truth" in parameter for parameter in hints), name
    source = inspect.getsource(label_free)
    assert "import Domain" not in source
    assert "Labelled" not in source
