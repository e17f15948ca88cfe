"""Scores equal to those of cityscapesscripts, to the last digit."""

import math
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cag_uda.evaluation.confusion import ConfusionMatrix
from cag_uda.evaluation.protocols import PROTOCOLS
from cag_uda.evaluation.scores import scores
from cag_uda.types import IGNORE
from tests.support.places import REPOSITORY

LabelMap = npt.NDArray[np.uint8]

CITYSCAPES = PROTOCOLS["cityscapes-19"].truth


def patches(seed: int, shape: tuple[int, int], patch_px: int, classes: int) -> LabelMap:
    """Square patches of one class; ids 0 … classes - 1."""
    height, width = (-(-side // patch_px) for side in shape)
    coarse = np.random.default_rng(seed).integers(0, classes, (height, width), np.uint8)
    return coarse.repeat(patch_px, 0).repeat(patch_px, 1)[: shape[0], : shape[1]]


def assert_equals_official(pairs: list[tuple[LabelMap, LabelMap]], folder: Path) -> None:
    """Score (truth, prediction) maps of Cityscapes label ids both ways; compare exactly."""
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    files: tuple[list[str], list[str]] = ([], [])
    train_id_of = np.full(256, IGNORE, np.uint8)
    for label in official.labels:
        if label.id >= 0 and not label.ignoreInEval:
            train_id_of[label.id] = label.trainId
    confusion = ConfusionMatrix(len(CITYSCAPES))
    for index, (truth, prediction) in enumerate(pairs):
        confusion.update(train_id_of[truth], train_id_of[prediction])
        for which, label_map in enumerate((prediction, truth)):
            path = folder / f"{index}-{which}.png"
            Image.fromarray(label_map).save(path, compress_level=1)
            files[which].append(str(path))
    arguments = official.args
    arguments.evalInstLevelScore = arguments.JSONOutput = False
    arguments.quiet = True
    theirs = official.evaluateImgLists(*files, arguments)
    ours = scores(confusion, CITYSCAPES, "cityscapes-19")
    ids = [official.trainId2label[number].id for number in range(len(CITYSCAPES))]
    counted = np.array(theirs["confMatrix"])[ids]
    np.testing.assert_array_equal(confusion.counts[:, :-1], counted[:, ids])
    np.testing.assert_array_equal(confusion.counts.sum(1), counted.sum(1))
    np.testing.assert_array_equal(ours.iou, [theirs["classScores"][name] for name in CITYSCAPES])
    assert ours.miou == theirs["averageScoreClasses"]
    assert not math.isnan(ours.miou)


LABEL_IDS = 34


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_official_evaluator_on_noise_of_all_ids(seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, LABEL_IDS, (3, 2, 40, 50), np.uint8)
    assert_equals_official([(truth, prediction) for truth, prediction in noise], tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_official_evaluator_on_patches(seed: int, tmp_path: Path) -> None:
    """Few classes each, so that some are undefined, absent, or never predicted."""
    shape = (60, 90)
    pairs = []
    for frame in range(3):
        truth = patches(10 * seed + frame, shape, 17, LABEL_IDS)
        other = patches(99 - seed + frame, shape, 5, LABEL_IDS)
        pairs.append((truth, np.where(patches(seed, shape, 3, 4) == 0, other, truth)))
    pairs = [(truth // 3 * 2, prediction // 3 * 2) for truth, prediction in pairs]
    assert_equals_official(pairs, tmp_path)


FULL_SIZE = (1024, 2048)


def structured_and_wrong() -> list[tuple[LabelMap, LabelMap]]:
    truth = patches(0, FULL_SIZE, 37, LABEL_IDS)
    noise = np.random.default_rng(0).integers(0, LABEL_IDS, FULL_SIZE, np.uint8)
    wrong = np.random.default_rng(1).random(FULL_SIZE) < 0.3
    return [(truth, np.where(wrong, noise, truth)), (truth[::-1].copy(), truth)]


def random() -> list[tuple[LabelMap, LabelMap]]:
    truth, prediction = np.random.default_rng(2).integers(0, LABEL_IDS, (2, *FULL_SIZE), np.uint8)
    return [(truth, prediction)]


def classes_absent() -> list[tuple[LabelMap, LabelMap]]:
    """Car is never true, road never predicted, train neither; a quarter of the truth is void."""
    truth = patches(3, FULL_SIZE, 64, LABEL_IDS)
    prediction = np.where(patches(4, FULL_SIZE, 50, 3) == 0, patches(5, FULL_SIZE, 20, 34), truth)
    road, building, car, train = 7, 11, 26, 31
    truth[(truth == car) | (truth == train)] = building
    truth[:256] = 0
    prediction[(prediction == road) | (prediction == train)] = building
    assert (prediction[256:] == car).any()
    assert (truth[256:] == road).any()
    return [(truth, prediction)]


@pytest.mark.parametrize("maps", [structured_and_wrong, random, classes_absent])
def test_equals_the_official_evaluator_at_full_size(
    maps: Callable[[], list[tuple[LabelMap, LabelMap]]], tmp_path: Path
) -> None:
    assert_equals_official(maps(), tmp_path)


@pytest.mark.slow
@pytest.mark.quiet
def test_counting_is_faster_than_the_official_evaluator() -> None:
    """Over maps of 2048×1024 in memory, turn by turn in one process: 1.4 to 11 times by machine."""
    pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    path = REPOSITORY / "benchmarks" / "evaluation.py"
    spec = spec_from_file_location("benchmark_of_evaluation", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    for pattern in (benchmark.street_like, benchmark.noise):
        our_s, their_s = benchmark.compare(*pattern(np.random.default_rng(0)), rounds=3)
        assert their_s / our_s > 1
