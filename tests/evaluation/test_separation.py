"""Class separation and precision curves against loops and hand-worked values."""

import numpy as np
import pytest
import torch

from cag_uda.errors import ShapeError
from cag_uda.evaluation.class_separation import ClassScatter, centroid_shift, separation
from cag_uda.evaluation.precision_curves import PrecisionCurves, precision_at
from cag_uda.evaluation.pseudo_label_scores import PseudoLabelTally
from cag_uda.runs.records.stage import CurvesPerClass, LabelCurves
from cag_uda.types import IGNORE, PseudoLabels


def scatter_of(features: torch.Tensor, label: torch.Tensor, classes: int) -> ClassScatter:
    scatter = ClassScatter(classes, features.shape[1])
    for feature, ids in zip(features, label, strict=True):
        scatter.update(feature[None], ids[None])
    return scatter


def test_separation_by_hand() -> None:
    """Two classes on a line: at 0 and 2 (three pixels, one), at 10 (one pixel)."""
    features = torch.tensor([0.0, 0.0, 0.0, 2.0, 10.0]).view(1, 1, 1, 5)
    label = torch.tensor([[[0, 0, 0, 0, 2]]])
    scatter = scatter_of(features, label, 4)
    assert scatter.means[[0, 2], 0].tolist() == [0.5, 10.0]
    assert scatter.variances[[0, 2]].tolist() == [0.75, 0.0]
    found = separation(scatter)
    # By pixels: mean 2.4; between (4 · 1.9² + 7.6²) / 5, within 4 · 0.75 / 5.
    assert found.by_pixels == pytest.approx((4 * 1.9**2 + 7.6**2) / 3)
    # Balanced: mean 5.25, between 4.75², within 0.375.
    assert found.balanced == pytest.approx(4.75**2 / 0.375)


def test_scatter_is_the_loop_over_pixels_and_has_no_unit() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 4, 6, generator=generator) + 7
    label = torch.randint(0, 3, (3, 4, 6), generator=generator)
    label[0, 0] = IGNORE
    scatter = scatter_of(features, label, 4)
    rows = features.movedim(1, -1).reshape(-1, 5).double().numpy()
    ids = label.flatten().numpy()
    for k in range(3):
        of_class = rows[ids == k]
        np.testing.assert_allclose(scatter.means[k], of_class.mean(0))
        spread = ((of_class - of_class.mean(0)) ** 2).sum(1).mean()
        assert scatter.variances[k].item() == pytest.approx(spread)
    assert scatter.means[3].isnan().all()
    larger = separation(scatter_of(10 * features, label, 4)).plain()
    assert larger == pytest.approx(separation(scatter).plain())
    assert separation(scatter_of(features, label * 0, 4)).balanced is None
    with pytest.raises(ShapeError, match="grid"):
        scatter.update(features, label[:, :2])


def test_centroid_shift_by_hand() -> None:
    label = torch.tensor([[[0, 1, 2]]])
    source = scatter_of(torch.tensor([0.0, 3.0, 9.0]).view(1, 1, 1, 3), label, 4)
    target = scatter_of(torch.tensor([1.0, 3.0, 3.0]).view(1, 1, 1, 3), label, 4)
    # Mean distance of two different classes in the source: (3 + 9 + 6) / 3 = 6.
    np.testing.assert_allclose(centroid_shift(source, target), [1 / 6, 0, 1, np.nan])


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    score = torch.rand(2, 8, 9, generator=generator)
    score[0, 0, 0] = torch.nan
    label = torch.randint(0, 3, (2, 8, 9), generator=generator)
    truth = torch.where(torch.rand(2, 8, 9, generator=generator) < score.nan_to_num(), label, 1)
    truth[1, 0] = IGNORE
    return score, label, truth


def test_curves_are_the_tally_at_each_threshold() -> None:
    """Every point of a curve is what the scores of pseudo-labels say at that threshold."""
    score, label, truth = example()
    thresholds = torch.tensor([0.0, 0.25, 0.5, 0.9, 0.999])
    curves = PrecisionCurves(3, thresholds)
    for index in range(2):
        curves.update(score[index : index + 1], label[index : index + 1], truth[index : index + 1])
    got = curves.curves().plain()
    for place, threshold in enumerate(thresholds.tolist()):
        assigned = score >= threshold
        tally = PseudoLabelTally(3)
        tally.update(PseudoLabels(torch.where(assigned, label, IGNORE), assigned.float()), truth)
        wanted = tally.scores().plain()
        assert got["precision"][place] == pytest.approx(wanted["precision"])
        assert got["coverage"][place] == pytest.approx(wanted["coverage"])
        for k in range(3):
            for what in ("precision", "coverage"):
                value, other = got["per_class"][what][k][place], wanted["per_class"][what][k]
                assert (value is None and other is None) or value == pytest.approx(other)


def test_precision_at_a_coverage_lies_between_the_points() -> None:
    curve = LabelCurves(
        thresholds=[0.0, 0.3, 0.6, 0.9],
        precision=[0.5, 0.7, 0.9, None],
        coverage=[0.8, 0.4, 0.2, 0.0],
        per_class=CurvesPerClass(precision=[], coverage=[]),
    )
    assert precision_at(curve, 0.4) == pytest.approx(0.7)
    assert precision_at(curve, 0.3) == pytest.approx(0.8)
    assert precision_at(curve, 0.9) is None
    assert precision_at(curve, 0.1) is None
    with pytest.raises(ShapeError, match="one grid"):
        PrecisionCurves(3, torch.tensor([0.5])).update(*(torch.zeros(1, n, 2) for n in (2, 2, 3)))
