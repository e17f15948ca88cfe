"""Losses against values worked by hand, the released code's loops, and finite differences."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from cag_uda.adaptation import (
    adversarial,
    anchor_distance,
    centroid_distance,
    class_balance,
    cross_entropy,
    entropy,
    pixel_mean,
)
from cag_uda.errors import ShapeError, UserError
from cag_uda.types import IGNORE
from tests.support.batches import seeded


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of a loss."""
    leaf = at.clone().requires_grad_()
    value = loss(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def test_cross_entropy_by_hand() -> None:
    # Probabilities of the true class 3/4 and 1/4, the third pixel ignored:
    # (−ln 3/4 − ln 1/4) / 2 = (ln 4 − ln 3 + ln 4) / 2 = ln 4 − ln 3 / 2.
    logits = torch.tensor([[[[math.log(3), math.log(3), 5.0]], [[0.0, 0.0, -5.0]]]])
    label = torch.tensor([[[0, 1, IGNORE]]])
    assert cross_entropy(logits, label).item() == pytest.approx(math.log(4) - math.log(3) / 2)
    # Weights 1 and 1/2, still over two pixels: (ln 4/3 + ln 4 / 2) / 2.
    weight = torch.tensor([[[1.0, 0.5, 1.0]]])
    expected = (math.log(4 / 3) + math.log(4) / 2) / 2
    assert cross_entropy(logits, label, weight).item() == pytest.approx(expected)


def test_anchor_distance_by_hand() -> None:
    # Features (3, 4), (1, 1), (9, 9), (0, 0); anchors 0 = (0, 0), 1 = (1, 3):
    # ‖(3, 4)‖ = 5, ‖(1, 1) − (1, 3)‖ = 2, ignored, ‖0‖ = 0: (5 + 2 + 0) / 3.
    features = torch.tensor([[3.0, 1.0, 9.0, 0.0], [4.0, 1.0, 9.0, 0.0]])[None, :, None, :]
    anchors = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    label = torch.tensor([[[0, 1, IGNORE, 0]]])
    value, slope = gradient(lambda f: anchor_distance(f, anchors, label), features)
    assert value.item() == pytest.approx(7 / 3)
    # Unit vectors towards the features over 3, none at the anchor itself or where ignored.
    expected = torch.tensor([[0.6, 0.0, 0.0, 0.0], [0.8, -1.0, 0.0, 0.0]]) / 3
    torch.testing.assert_close(slope[0, :, 0], expected)
    weight = torch.tensor([[[0.5, 1.0, 1.0, 1.0]]])
    weighted = anchor_distance(features, anchors, label, weight)
    assert weighted.item() == pytest.approx((2.5 + 2) / 3)


def test_anchor_distance_leaves_classes_without_an_anchor_out() -> None:
    features = torch.tensor([[3.0, 1.0], [4.0, 1.0]])[None, :, None, :]
    anchors = torch.tensor([[0.0, 0.0], [math.nan, math.nan]])
    value, slope = gradient(
        lambda f: anchor_distance(f, anchors, torch.tensor([[[0, 1]]])), features
    )
    assert value.item() == pytest.approx(5)
    assert slope[0, :, 0, 1].tolist() == [0.0, 0.0]


def test_anchor_distance_has_the_derivative_of_finite_differences() -> None:
    features = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=seeded(), requires_grad=True)
    anchors = torch.randn(4, 3, dtype=torch.float64, generator=seeded(1))
    label = torch.tensor([0, 1, 2, 3, IGNORE, 0, 1, 1, 2, 2, IGNORE, 3]).view(2, 2, 3)
    assert torch.autograd.gradcheck(lambda f: anchor_distance(f, anchors, label), features)


def released_centroid_distance(
    features: Tensor, logits: Tensor, anchors: Tensor, label: Tensor
) -> Tensor:
    """The loops of the released trainer, from its description."""
    predicted, losses = logits.argmax(1), []
    for image in range(len(features)):
        for k in range(len(anchors)):
            mask = ((label[image] == k) & (predicted[image] == k)).float()
            if mask.sum() < 10:
                continue
            selected = features[image] * mask
            scale = mask.mean() * 2
            if selected.requires_grad:
                selected.register_hook(lambda slope, scale=scale: slope * scale)
            centroid = selected.mean((1, 2)) / mask.mean()
            loss = F.smooth_l1_loss(centroid, anchors[k])
            while loss.item() > 5:
                loss = loss / 10
            losses.append(loss)
    return torch.stack(losses).mean() * 10


@pytest.mark.parametrize("scale", [1.0, 30.0, 5000.0])
def test_centroid_distance_is_that_of_the_released_loops(scale: float) -> None:
    features = torch.randn(2, 6, 8, 9, generator=seeded())
    anchors = scale * torch.randn(4, 6, generator=seeded(1))
    label = torch.randint(0, 3, (2, 8, 9), generator=seeded(2))
    label[0, 0] = IGNORE
    # The student agrees with most labels of the classes 0 and 1 and with few of class 2.
    guess = torch.where((label == 2) & (torch.rand(2, 8, 9, generator=seeded(3)) < 0.8), 3, label)
    logits = F.one_hot(guess.clamp(max=3), 4).movedim(-1, 1).float()
    expected, expected_slope = gradient(
        lambda f: released_centroid_distance(f, logits, anchors, label), features
    )
    value, slope = gradient(lambda f: centroid_distance(f, logits, anchors, label), features)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(slope, expected_slope)
    assert slope.abs().sum() > 0


def test_centroid_distance_by_hand() -> None:
    # Ten pixels of class 0 with feature 3, anchor 1: SmoothL1 = |3 − 1| − 1/2 = 3/2; 10 · 3/2 / 1.
    # Class 1 has nine pixels: too few. Slope: 10 · 1 (SmoothL1') / 10 pixels · 2 · 10/19.
    features = torch.full((1, 1, 1, 19), 3.0)
    label = torch.tensor([0] * 10 + [1] * 9)[None, None]
    logits = F.one_hot(label, 2).movedim(-1, 1).float()
    anchors = torch.tensor([[1.0], [1.0]])
    value, slope = gradient(lambda f: centroid_distance(f, logits, anchors, label), features)
    assert value.item() == pytest.approx(15)
    torch.testing.assert_close(slope[0, 0, 0, :10], torch.full((10,), 20 / 19))
    assert slope[0, 0, 0, 10:].abs().sum() == 0
    # Anchor at 503: SmoothL1 = 499.5 → 49.95 → 4.995, and 10 times that.
    far = centroid_distance(features, logits, anchors + 502, label)
    assert far.item() == pytest.approx(49.95)


def test_adversarial_by_hand() -> None:
    score = torch.tensor([[[[2.0, 0.0]]]])
    assert adversarial(score, "source").item() == pytest.approx((4 + 0) / 2)
    assert adversarial(score, "target").item() == pytest.approx((1 + 1) / 2)
    # −ln(1 − σ(2)) = ln(1 + e²) and ln 2; −ln σ(2) = ln(1 + e⁻²) and ln 2.
    towards_source = (math.log(1 + math.exp(2)) + math.log(2)) / 2
    towards_target = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert adversarial(score, "source", "bce").item() == pytest.approx(towards_source)
    assert adversarial(score, "target", "bce").item() == pytest.approx(towards_target)
    with pytest.raises(UserError, match="hinge"):
        adversarial(score, "source", "hinge")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="real"):
        adversarial(score, "real")  # type: ignore[arg-type]


def test_entropy_by_hand() -> None:
    # Uniform over four classes: 1. Two of four at one half each: log₂ 2 / log₂ 4 = 1/2. Certain: 0.
    logits = torch.tensor(
        [[0.0, 0.0, 500.0], [0.0, 0.0, 0.0], [0.0, -500.0, 0.0], [0.0, -500.0, 0.0]]
    )
    logits = logits[None, :, None, :]
    value, slope = gradient(entropy, logits)
    assert value.item() == pytest.approx((1 + 0.5 + 0) / 3)
    assert slope.isfinite().all()
    with pytest.raises(ShapeError, match="at least 2"):
        entropy(torch.zeros(1, 1, 2, 2))


def test_entropy_has_the_derivative_of_finite_differences() -> None:
    logits = torch.randn(1, 3, 2, 2, dtype=torch.float64, generator=seeded(), requires_grad=True)
    assert torch.autograd.gradcheck(entropy, logits)


PIXEL_LOSSES = {
    "cross entropy": lambda f, y: cross_entropy(f, y),
    "cross entropy, weighted": lambda f, y: cross_entropy(f, y, torch.ones_like(y).float()),
    "anchor distance": lambda f, y: anchor_distance(f, torch.eye(4), y),
    "no anchor": lambda f, y: anchor_distance(f, torch.full((4, 4), torch.nan), y * 0),
    "centroid distance": lambda f, y: centroid_distance(f, f, torch.eye(4), y),
    "no centroid": lambda f, y: centroid_distance(f, f, torch.full((4, 4), torch.nan), y * 0, 1),
}


@pytest.mark.parametrize("name", PIXEL_LOSSES)
def test_nothing_labelled_is_zero_with_zero_gradient(name: str) -> None:
    label = torch.full((2, 3, 5), IGNORE)
    features = torch.randn(2, 4, 3, 5, generator=seeded())
    value, slope = gradient(lambda f: PIXEL_LOSSES[name](f, label), features)
    assert value.item() == 0
    assert slope.abs().max() == 0


@pytest.mark.parametrize("name", [name for name in PIXEL_LOSSES if not name.startswith("no ")])
def test_bfloat16_under_autocast_gives_the_float32_loss(name: str) -> None:
    label = torch.randint(0, 4, (2, 6, 8), generator=seeded())
    features = torch.randn(2, 4, 6, 8, generator=seeded()).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = PIXEL_LOSSES[name](features, label)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, PIXEL_LOSSES[name](features.float(), label))


def test_what_does_not_fit_is_refused_in_words() -> None:
    features, label = torch.zeros(2, 4, 3, 5), torch.zeros(2, 3, 5, dtype=torch.int64)
    with pytest.raises(ShapeError, match="cross_entropy wants"):
        cross_entropy(features[:1], label)
    with pytest.raises(ShapeError, match="one size"):
        cross_entropy(features, label.repeat(1, 2, 2))
    with pytest.raises(ShapeError, match="weight"):
        cross_entropy(features, label, torch.zeros(2, 1, 5))
    with pytest.raises(ShapeError, match=r"\(K, D\)"):
        anchor_distance(features, torch.zeros(4, 3), label)
    with pytest.raises(ShapeError, match="downsample"):
        anchor_distance(features, torch.zeros(4, 4), label.repeat(1, 2, 2))
    with pytest.raises(ShapeError, match="logits"):
        centroid_distance(features, features[:, :3], torch.zeros(4, 4), label)


def uneven_batch() -> tuple[Tensor, Tensor]:
    """Two images for a linear classifier, the second with a third of the first's labels."""
    inputs = torch.randn(2, 3, 4, 6, generator=seeded(5))
    label = torch.randint(0, 4, (2, 4, 6), generator=seeded(6))
    label[1, :, 2:] = IGNORE
    return inputs, label


def losses_of_classifier(weight: Tensor, inputs: Tensor, label: Tensor) -> Tensor:
    features = torch.einsum("kd,bdhw->bkhw", weight, inputs)
    distance = anchor_distance(features, torch.eye(4), label)
    centroid = centroid_distance(features, features, torch.eye(4), label, min_pixels=1)
    return cross_entropy(features, label) + distance + centroid


def gradient_of_part(rank: int, parts: int, rendezvous: str, folder: str) -> None:
    """What one process of data parallel training computes; run in a process of its own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=parts)
    inputs, label = uneven_batch()
    part = slice(rank, rank + 1)
    _, slope = gradient(
        lambda w: losses_of_classifier(w, inputs[part], label[part]),
        torch.randn(4, 3, generator=seeded(7)),
    )
    dist.all_reduce(slope)
    torch.save(slope / parts, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_average_to_the_gradient_of_one(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spawn(gradient_of_part, args=(2, f"{folder}/meet", str(tmp_path)), nprocs=2)
    _, expected = gradient(
        lambda w: losses_of_classifier(w, *uneven_batch()), torch.randn(4, 3, generator=seeded(7))
    )
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected)


def test_pixel_mean_divides_by_the_count_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pixel_mean(torch.tensor(6.0), torch.tensor(3)).item() == 2
    # This process sums 6 over 3 pixels, the other 1 over 1: the mean over all is 7 / 4, and the
    # average of what the two give, 6 · 2 / 4 and 1 · 2 / 4, is too.
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.fill_(4))
    own, others = (
        pixel_mean(torch.tensor(total), torch.tensor(count))
        for total, count in ((6.0, 3), (1.0, 1))
    )
    assert own.item() == 3
    assert (own + others).item() / 2 == 7 / 4


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_class_balance_weighs_by_powers_of_frequency(exponent: float) -> None:
    label = torch.tensor([[[0, 0, 0, 0, 2], [0, 0, IGNORE, 1, 1]]])
    counts = {0: 6, 1: 2, 2: 1}
    powers = {c: n**-exponent for c, n in counts.items()}
    mean = sum(powers[c] * n for c, n in counts.items()) / 9
    wanted = [[powers.get(int(c), 0.0) / mean for c in row] for row in label[0]]
    assert class_balance(label, 4, exponent).allclose(torch.tensor([wanted]))


def test_balanced_cross_entropy_is_the_mean_of_the_classes_means() -> None:
    logits, label = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    label[0, 0] = IGNORE
    loss = cross_entropy(logits, label, class_balance(label, 3, 1.0))
    each = torch.nn.functional.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
    wanted = torch.stack([each[label == c].mean() for c in range(3)]).mean()
    assert loss.allclose(wanted)


def test_class_balance_without_labels_is_zero() -> None:
    label = torch.full((1, 2, 2), IGNORE)
    assert class_balance(label, 3, 1.0).equal(torch.zeros(1, 2, 2))
