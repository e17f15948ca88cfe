"""Confusion matrices, scores, intervals and pseudo-label scores."""

import json
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cag_uda.errors import DataError, ShapeError
from cag_uda.evaluation.bootstrap import Interval, bootstrap_of_means
from cag_uda.evaluation.confusion import ConfusionMatrix
from cag_uda.evaluation.pseudo_label_scores import PseudoLabelTally
from cag_uda.evaluation.scores import scores
from cag_uda.types import IGNORE, PseudoLabels
from tests.support.confusions import confusion_of

NO_CLASS = 255

LabelMap = npt.NDArray[np.uint8]


# ---- confusion matrix -------------------------------------------------------------------------


def test_counts_are_truth_rows_and_prediction_columns() -> None:
    confusion = confusion_of(
        [[0, 0, 1, 1], [2, 2, IGNORE, IGNORE]], [[0, 1, 1, 1], [0, NO_CLASS, 2, 0]], 3
    )
    assert confusion.counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 1]]
    assert confusion.counts.dtype == np.int64


def test_a_prediction_of_no_class_misses_its_class_and_alarms_none() -> None:
    # Class 0: 1 right, 2 pixels of truth. Class 1: 1 right of 1, no false alarm.
    iou = scores(confusion_of([0, 0, 1], [0, NO_CLASS, 1], 2), ("a", "b")).iou
    assert iou.tolist() == [0.5, 1.0]


@pytest.mark.parametrize("beyond", [3, 254, NO_CLASS])
def test_every_id_that_is_no_class_counts_as_no_prediction(beyond: int) -> None:
    assert confusion_of([1, 1], [beyond, 1], 3).counts[1].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "form",
    [
        lambda labels: labels.astype(np.int64),
        lambda labels: torch.from_numpy(labels),
        lambda labels: torch.from_numpy(labels).long(),
        lambda labels: np.broadcast_to(labels, labels.shape),  # read-only
        lambda labels: labels[::-1, ::-1],
    ],
)
def test_all_integer_forms_count_alike(form: Callable[[LabelMap], object]) -> None:
    generator = np.random.default_rng(1)
    truth = generator.choice([0, 1, 2, 3, IGNORE], (6, 7)).astype(np.uint8)
    prediction = generator.choice([0, 1, 2, 3, NO_CLASS], (6, 7)).astype(np.uint8)
    confusion = ConfusionMatrix(4)
    confusion.update(form(truth), form(prediction))  # type: ignore[arg-type]
    assert confusion.counts.tolist() == confusion_of(truth, prediction, 4).counts.tolist()


def test_wide_predictions_outside_a_byte_are_no_class() -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([0, 0, 0, 1]), np.array([-1, 256, 257, 1]))
    assert confusion.counts.tolist() == [[0, 0, 3], [0, 1, 0]]


@pytest.mark.parametrize(
    ("truth", "named"),
    [
        (np.array([0, 34, 34, 7], np.uint8), "7, 34"),
        (np.array([0, -1, 256]), "-1, 256"),
    ],
)
def test_a_truth_that_is_no_train_id_is_refused_by_name(
    truth: npt.NDArray[np.int64], named: str
) -> None:
    with pytest.raises(DataError, match=named):
        ConfusionMatrix(3).update(truth, np.zeros_like(truth))


def test_maps_of_different_shapes_or_of_floats_are_refused() -> None:
    confusion = ConfusionMatrix(3)
    with pytest.raises(ShapeError, match="resolution"):
        confusion.update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
    with pytest.raises(ShapeError, match="integers"):
        confusion.update(np.zeros(3, np.uint8), np.zeros(3))


def test_matrices_add_up_over_processes() -> None:
    first, second = confusion_of([0, 1], [0, 0], 2), confusion_of([1, 1], [1, 0], 2)
    both = confusion_of([0, 1, 1, 1], [0, 0, 1, 0], 2)
    other = torch.from_numpy(second.counts)
    assert first.reduced(lambda mine: mine + other).counts.tolist() == both.counts.tolist()
    assert first.counts.sum() == 2


@pytest.mark.parametrize("num_classes", [0, 256])
def test_class_counts_that_bytes_cannot_hold_are_refused(num_classes: int) -> None:
    with pytest.raises(DataError, match=str(num_classes)):
        ConfusionMatrix(num_classes)


# ---- scores -----------------------------------------------------------------------------------


def test_iou_of_a_hand_worked_matrix() -> None:
    counts = np.array([[50, 10, 0], [5, 30, 5], [0, 20, 80]])
    result = scores(counts, ("road", "car", "sky"))
    assert result.iou.tolist() == [50 / 65, 30 / 70, 80 / 105]
    assert result.miou == (50 / 65 + 30 / 70 + 80 / 105) / 3


def test_a_class_in_neither_truth_nor_prediction_is_left_out_of_the_mean() -> None:
    result = scores(confusion_of([0, 0], [0, 0], 3), ("a", "b", "c"))
    assert result.iou[0] == 1.0
    assert np.isnan(result.iou[1:]).all()
    assert result.miou == 1.0


def test_a_class_that_is_predicted_but_absent_scores_0() -> None:
    result = scores(confusion_of([0, 0], [0, 1], 3), ("a", "b", "c"))
    assert result.iou[:2].tolist() == [0.5, 0.0]
    assert result.miou == 0.25


def test_a_class_that_is_predicted_on_unlabelled_pixels_alone_is_undefined() -> None:
    assert math.isnan(scores(confusion_of([0, IGNORE], [0, 1], 2), ("a", "b")).iou[1])


def test_scores_are_json_with_null_for_undefined() -> None:
    written = scores(confusion_of([0], [0], 2), ("a", "b")).record().plain()
    assert json.loads(json.dumps(written, allow_nan=False)) == {
        "protocol": None,
        "miou": 1.0,
        "classes": ["a", "b"],
        "iou": [1.0, None],
    }
    nothing = scores(ConfusionMatrix(2), ("a", "b")).record().plain()
    assert nothing["miou"] is None


def test_names_must_fit_the_matrix() -> None:
    with pytest.raises(ShapeError, match="2 class names"):
        scores(ConfusionMatrix(3), ("a", "b"))


# ---- bootstrap --------------------------------------------------------------------------------


def frames_of(accuracy: float, seed: int, count: int = 40) -> npt.NDArray[np.int64]:
    """Confusion matrices (N, 3, 4) of a predictor that is right with the given chance."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 3, (count, 400), np.uint8)
    right = generator.random(truth.shape) < accuracy
    guess = generator.integers(0, 3, truth.shape, np.uint8)
    return np.stack(
        [
            confusion_of(t, p, 3).counts
            for t, p in zip(truth, np.where(right, truth, guess), strict=True)
        ]
    )


def paired_bootstrap(first: np.ndarray, second: np.ndarray, **draws: int) -> Interval:
    return bootstrap_of_means([first], [second], **draws)


def test_a_segmenter_does_not_differ_from_itself() -> None:
    frames = frames_of(0.6, 0)
    assert paired_bootstrap(frames, frames) == (0.0, 0.0, 0.0)


def test_a_clear_gap_is_seen_with_its_sign() -> None:
    better, worse = frames_of(0.8, 0), frames_of(0.5, 1)
    up, down = paired_bootstrap(better, worse), paired_bootstrap(worse, better)
    assert 0 < up.low < up.difference < up.high
    assert down == pytest.approx((-up.difference, -up.high, -up.low))
    names = ("a", "b", "c")
    gap = scores(better.sum(0), names).miou - scores(worse.sum(0), names).miou
    assert up.difference == gap


def test_draws_are_those_of_the_seed() -> None:
    pair = frames_of(0.7, 0), frames_of(0.6, 1)
    assert paired_bootstrap(*pair, seed=3) == paired_bootstrap(*pair, seed=3)
    assert paired_bootstrap(*pair, seed=3).low != paired_bootstrap(*pair, seed=4).low


def test_bootstrap_equals_a_plain_loop() -> None:
    first, second = frames_of(0.6, 0, count=12), frames_of(0.55, 1, count=12)
    # Undefined classes must fall out of the mean of a resample: class 2 is in two frames only.
    first[2:, 2] = first[2:, :, 2] = second[2:, 2] = second[2:, :, 2] = 0
    draws = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), size=300)
    differences = []
    for draw in draws:
        chosen = np.repeat(np.arange(12), draw)
        pair = [scores(sum(f[i] for i in chosen), ("a", "b", "c")).miou for f in (first, second)]
        differences.append(pair[0] - pair[1])
    interval = paired_bootstrap(first, second, resamples=300, seed=7)
    assert interval[1:] == pytest.approx(np.percentile(differences, (2.5, 97.5)), abs=1e-12)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Two equal predictors: 0 lies within 95 % of the intervals, up to chance."""
    covered = sum(
        low <= 0 <= high
        for _, low, high in (
            paired_bootstrap(frames_of(0.6, 2 * i), frames_of(0.6, 2 * i + 1), resamples=200)
            for i in range(60)
        )
    )
    assert 50 <= covered < 60


def test_bootstrap_refuses_other_frames_and_no_labels() -> None:
    frames = frames_of(0.5, 0, count=3)
    with pytest.raises(ShapeError, match="same frames"):
        paired_bootstrap(frames, frames[:2])
    with pytest.raises(DataError, match="no labelled pixel"):
        paired_bootstrap(np.zeros_like(frames), np.zeros_like(frames))


# ---- pseudo-labels ----------------------------------------------------------------------------


def pseudo(label: object) -> PseudoLabels:
    tensor = torch.tensor(label)
    return PseudoLabels(tensor, (tensor != IGNORE).float())


def test_precision_and_coverage_by_hand() -> None:
    tally = PseudoLabelTally(3)
    tally.update(
        pseudo([[[0, 0, 1, IGNORE], [1, IGNORE, 0, 1]]]),
        torch.tensor([[[0, 1, 1, 1], [1, 0, IGNORE, IGNORE]]]),
    )
    assert tally.scores().plain() == {
        "precision": 3 / 4,
        "coverage": 4 / 6,
        "per_class": {"precision": [1 / 2, 1.0, None], "coverage": [1 / 2, 3 / 4, None]},
    }


def test_without_truth_there_is_coverage_alone() -> None:
    tally = PseudoLabelTally(2)
    tally.update(pseudo([[[0, 1, IGNORE, 1]]]))
    assert tally.scores().plain() == {
        "precision": None,
        "coverage": 3 / 4,
        "per_class": {"precision": [None, None], "coverage": [None, None]},
    }
    json.dumps(tally.scores().plain(), allow_nan=False)


def test_an_empty_tally_has_coverage_0() -> None:
    assert PseudoLabelTally(2).scores().coverage == 0.0


def test_tallies_add_up_over_processes() -> None:
    tally = PseudoLabelTally(2)
    tally.update(pseudo([[[0, 1]]]), torch.tensor([[[0, 0]]]))
    tally.update(pseudo([[[0, IGNORE, IGNORE, IGNORE]]]))
    twice = tally.reduced(lambda counts: counts * 2)
    assert twice.scores() == tally.scores()
    assert tally.scores().coverage == 3 / 6


def test_pseudo_labels_and_truth_of_other_images_are_refused() -> None:
    with pytest.raises(ShapeError):
        PseudoLabelTally(2).update(pseudo([[[0]]]), torch.zeros(2, 1, 1, dtype=torch.long))
    with pytest.raises(ShapeError):
        PseudoLabelTally(2).update(pseudo([[[0]]]), torch.zeros(1, 4, 4, dtype=torch.long))
