"""The linear probe against a plain loop, hand-worked values, and cells whose place is known."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.evaluation.linear_probe import ProbedCells, probe_iou, probed_cells
from cag_uda.models.segmenter import Segmenter


def cells_of(features: Tensor, is_second: Tensor) -> ProbedCells:
    return ProbedCells(torch.arange(len(features)), features, is_second)


def plain(features: np.ndarray, label: np.ndarray, second: np.ndarray, classes: int) -> float:
    """The criterion by loops over halves, classes and cells."""
    found = []
    for half in (second, ~second):
        x, y = features[half], label[half]
        shown = [c for c in range(classes) if (y == c).sum() >= 5]
        mean = {c: x[y == c].mean(axis=0) for c in np.unique(y)}
        centred = [row - mean[c] for row, c in zip(x, y, strict=True)]
        covariance = np.mean([np.outer(row, row) for row in centred], axis=0)
        covariance += 0.05 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        inverse = np.linalg.inv(covariance)
        probed = []
        for row in features[~half]:
            scores = {
                c: row @ inverse @ mean[c]
                - mean[c] @ inverse @ mean[c] / 2
                + math.log((y == c).mean())
                for c in shown
            }
            probed.append(max(scores, key=lambda c: scores[c]))
        ious = []
        for c in range(classes):
            own, other = label[~half] == c, np.array(probed) == c
            union = (own | other).sum()
            ious.append((own & other).sum() / union if union else 0.0)
        found.append(np.mean(ious))
    return float(np.mean(found))


def test_it_is_the_plain_loop() -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(5, 240, p=[0.4, 0.3, 0.2, 0.09, 0.01])
    features = rng.normal(size=(240, 6)) + 1.5 * rng.normal(size=(5, 6))[label]
    second = rng.random(240) < 0.5
    cells = cells_of(torch.tensor(features).float(), torch.tensor(second))
    found = probe_iou(cells, torch.tensor(label), 5).item()
    assert found == pytest.approx(plain(features, label, second, 5), abs=1e-6)
    assert 0.2 < found < 0.9


def test_labels_that_images_show_are_predicted_and_made_up_ones_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (600,), generator=generator)
    features = 8 * torch.eye(3)[label] + torch.randn(600, 3, generator=generator)
    cells = cells_of(features, torch.arange(600) % 2 == 1)
    assert probe_iou(cells, label, 3).item() > 0.99
    made_up = torch.randint(3, (600,), generator=generator)
    assert probe_iou(cells, made_up, 3).item() < 0.35
    swallowed = torch.where(label == 2, 1, label)
    assert probe_iou(cells, swallowed, 3).item() == pytest.approx(2 / 3, abs=0.01), "a lost class"
    one_image = cells_of(features, torch.zeros(600, dtype=torch.bool))
    assert math.isnan(probe_iou(one_image, label, 3).item())


def test_cells_lie_where_they_are_in_the_images(segmenter: Segmenter) -> None:
    """Of small images every cell is drawn, with what its place in the middle maps says."""
    segmenter.train()
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(n, 3, 64, side, generator=generator) for n, side in ((2, 96), (1, 64))]
    cells = probed_cells(segmenter, images)
    assert segmenter.training
    assert cells.places.sort().values.equal(torch.arange(len(cells.places)))
    segmenter.eval()
    rows = []
    for image in images:
        size = segmenter(image).logits.shape[-2:]
        maps = segmenter.encode(image, "source")[1:-1]
        assert len(maps) == 2
        grid = torch.cat([F.interpolate(each, size, mode="bilinear") for each in maps], dim=1)
        rows.append(grid.movedim(1, -1).flatten(0, 2))
    expected = torch.cat(rows)[cells.places]
    expected = (expected - expected.mean(dim=0)) / expected.std(dim=0).clamp_min(1e-7)
    torch.testing.assert_close(cells.features, expected.detach(), rtol=1e-3, atol=1e-3)
    of_image = len(rows[0]) // 2
    is_second = (cells.places >= of_image) & (cells.places < 2 * of_image)
    assert cells.is_second.equal(is_second), "every other image"
    again = probed_cells(segmenter, images)
    assert again.places.equal(cells.places), "the same cells for every network"
