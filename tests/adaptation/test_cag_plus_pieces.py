"""The pieces of CAG-plus: each against a plain loop or a value worked by hand."""

import copy

import pytest
import torch
from torch import Tensor

from cag_uda.adaptation.losses import cross_entropy, feature_distance
from cag_uda.adaptation.mixing import hidden_blocks
from cag_uda.adaptation.soft_labels import (
    SoftLabels,
    soft_cross_entropy,
    soften,
    with_known,
)
from cag_uda.models import teacher as teachers
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE
from tests.support.batches import make_batch, seeded

# --- soft labels


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_the_temperature_sharpens_labels_and_leaves_weights(temperature: float) -> None:
    probability = torch.tensor([0.6, 0.3, 0.1])
    soft = soften(probability.log().view(1, 3, 1, 1), temperature)
    wanted = {
        1.0: [0.6, 0.3, 0.1],
        0.5: [0.36 / 0.46, 0.09 / 0.46, 0.01 / 0.46],
        0.0: [1.0, 0.0, 0.0],
    }[temperature]
    torch.testing.assert_close(soft.probability.flatten(), torch.tensor(wanted))
    torch.testing.assert_close(soft.weight.flatten(), torch.tensor([0.6]))


def test_soft_cross_entropy_is_the_loop_and_with_hard_labels_the_plain_one() -> None:
    logits = torch.randn(2, 4, 8, 8, generator=seeded())
    label = torch.randint(0, 4, (2, 8, 8), generator=seeded(1))
    soft = SoftLabels(torch.rand(2, 4, 8, 8, generator=seeded(2)).softmax(1), torch.rand(2, 8, 8))
    log_p = logits.log_softmax(1)
    total = 0.0
    for b in range(2):
        for y in range(8):
            for x in range(8):
                inner = sum(
                    float(soft.probability[b, k, y, x] * log_p[b, k, y, x]) for k in range(4)
                )
                total -= float(soft.weight[b, y, x]) * inner
    assert soft_cross_entropy(logits, soft).item() == pytest.approx(total / 128, rel=1e-4)
    certain = with_known(soft, label)
    torch.testing.assert_close(soft_cross_entropy(logits, certain), cross_entropy(logits, label))


def test_known_pixels_are_certain_and_the_others_stay() -> None:
    soft = SoftLabels(torch.full((1, 3, 1, 2), 1 / 3), torch.full((1, 1, 2), 0.4))
    got = with_known(soft, torch.tensor([[[2, IGNORE]]]))
    assert got.probability[0, :, 0, 0].tolist() == [0, 0, 1]
    torch.testing.assert_close(got.probability[0, :, 0, 1], soft.probability[0, :, 0, 1])
    torch.testing.assert_close(got.weight, torch.tensor([[[1.0, 0.4]]]))


# --- hidden blocks, initial features


def test_hidden_blocks_are_blocks_of_the_asked_size_and_number() -> None:
    hidden = hidden_blocks(400, (24, 32), ratio=0.7, block=0.25, generator=seeded())
    assert hidden.shape == (400, 24, 32)
    rows = hidden.view(400, 4, 6, 32)
    assert (rows == rows[:, :, :1]).all(), "6 rows of pixels to a block"
    edges = (hidden[:, :, 1:] != hidden[:, :, :-1]).any(dim=0).any(dim=0).nonzero().flatten()
    assert edges.tolist() == [6, 12, 19, 25], "5 blocks of 6 or 7 pixels across"
    assert hidden.float().mean().item() == pytest.approx(0.7, abs=0.02)
    some = hidden_blocks(400, (24, 32), 1.0, 0.25, probability=0.3, generator=seeded())
    assert some.flatten(1).all(dim=1).float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert some.flatten(1).any(dim=1).equal(some.flatten(1).all(dim=1))
    assert hidden_blocks(1, (4, 4), 1.0, 0.01).all(), "no smaller than a pixel"


def test_feature_distance_is_the_loop_over_cells_of_the_counted_classes() -> None:
    features = torch.randn(2, 3, 2, 2, generator=seeded())
    initial = torch.randn(2, 3, 2, 2, generator=seeded(1))
    label = torch.randint(0, 3, (2, 8, 8), generator=seeded(2))
    label[0, :4, :4] = 1
    label[0, 0, :4] = 2  # 75 % of class 1
    label[1, 4:, :4] = 1
    label[1, 4:6, :4] = IGNORE  # 50 %
    label[1, :4, 4:] = 0  # not counted
    counted = torch.tensor([False, True, True])
    wanted = (features[0, :, 0, 0] - initial[0, :, 0, 0]).norm()
    torch.testing.assert_close(feature_distance(features, initial, label, counted), wanted)
    nowhere = torch.full_like(label, IGNORE)
    assert feature_distance(features, initial, nowhere, counted).item() == 0


# --- the teacher


def test_weights_and_the_sources_statistics_follow(segmenter: Segmenter) -> None:
    teacher = copy.deepcopy(segmenter)
    before = copy.deepcopy(teacher)
    with torch.no_grad():
        for value in [*segmenter.parameters(), *segmenter.statistics("source")]:
            value.add_(1.0)
        for value in segmenter.statistics("target"):
            value.add_(9.0)
    teachers.follow(teacher, segmenter, 0.75)
    for mine, first in zip(teacher.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(mine, first + 0.25)
    for ours, old in zip(teacher.statistics("source"), before.statistics("source"), strict=True):
        torch.testing.assert_close(ours, old + 0.25)
    for ours, old in zip(teacher.statistics("target"), before.statistics("target"), strict=True):
        assert ours.equal(old), "the teacher's own"


def test_statistics_take_the_batch_in_and_then_normalise_it(segmenter: Segmenter) -> None:
    segmenter.set_target_share(1.0)
    image = make_batch().target.plain
    norm = next(m for m in segmenter.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen: list[tuple[Tensor, Tensor]] = []
    norm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    segmenter.eval()
    with torch.no_grad(), teachers.statistics_follow(segmenter):
        segmenter(image, "target")
    values, output = seen[0]
    mean = 0.1 * values.mean(dim=(0, 2, 3))
    variance = 0.9 + 0.1 * values.var(dim=(0, 2, 3))
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    shape = (1, -1, 1, 1)
    wanted = (values - mean.view(shape)) / (variance + norm.eps).sqrt().view(shape)
    torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-5)
    kept = [value.clone() for value in segmenter.statistics("target")]
    with torch.no_grad():
        segmenter(image, "target")
    for value, one in zip(segmenter.statistics("target"), kept, strict=True):
        assert value.equal(one), "only within the block"
