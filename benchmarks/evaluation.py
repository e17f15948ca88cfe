"""Time our confusion matrix against that of the official Cityscapes evaluator.

Both count the same label maps of 2048×1024, held in memory, turn by turn in one process; the
official one by its numpy way, which is what `pip install cityscapesscripts` gives. Only counting is
timed, not PNG decoding. The bar is a ratio of 2, which
tests/evaluation/test_official_evaluator.py holds.

    python benchmarks/evaluation.py
"""

import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

from cag_uda.evaluation.confusion import ConfusionMatrix
from cag_uda.types import IGNORE

CLASSES = 19
HEIGHT_PX, WIDTH_PX = 1024, 2048
ROUNDS = 15

LabelMap = npt.NDArray[np.uint8]


class InMemory:
    """Stands in for an opened PNG, so that the official evaluator reads no file."""

    def __init__(self, pixels: LabelMap) -> None:
        self.pixels = pixels
        self.size = pixels.shape[::-1]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> LabelMap:
        """The pixels, without a copy: that would count against the official evaluator."""
        return self.pixels


def street_like(generator: np.random.Generator) -> tuple[LabelMap, LabelMap]:
    """Patches of one class, and a prediction that is wrong in every fifth pixel."""
    patches = generator.integers(0, CLASSES + 1, (HEIGHT_PX // 32, WIDTH_PX // 32), np.uint8)
    truth = patches.repeat(32, axis=0).repeat(32, axis=1)
    noise = generator.integers(0, CLASSES, truth.shape, np.uint8)
    prediction = np.where((generator.random(truth.shape) < 0.2) | (truth == CLASSES), noise, truth)
    truth[truth == CLASSES] = IGNORE
    return truth, prediction


def noise(generator: np.random.Generator) -> tuple[LabelMap, LabelMap]:
    """Every pixel on its own."""
    truth = generator.integers(0, CLASSES, (HEIGHT_PX, WIDTH_PX), np.uint8)
    return truth, generator.integers(0, CLASSES, truth.shape, np.uint8)


def timed(count: Callable[[], npt.NDArray[Any]]) -> tuple[float, npt.NDArray[Any]]:
    """Seconds that one count takes, and the count."""
    start_s = time.perf_counter()
    counts = count()
    return time.perf_counter() - start_s, counts


def compare(truth: LabelMap, prediction: LabelMap, rounds: int = ROUNDS) -> tuple[float, float]:
    """Median seconds a frame, ours and theirs, after checking that the counts are equal."""
    label_ids = np.array([official.trainId2label[number].id for number in range(CLASSES)])
    to_label_id = np.zeros(256, np.uint8)
    to_label_id[:CLASSES] = label_ids
    pictures = {"truth": InMemory(to_label_id[truth]), "pred": InMemory(to_label_id[prediction])}
    arguments = official.args
    arguments.evalInstLevelScore = False

    def ours() -> npt.NDArray[Any]:
        confusion = ConfusionMatrix(CLASSES)
        confusion.update(truth, prediction)
        return confusion.counts[:, :CLASSES]

    def theirs() -> npt.NDArray[Any]:
        counts = official.generateMatrix(arguments)
        official.evaluatePair("pred", "truth", counts, {}, {}, arguments)
        return np.asarray(counts[np.ix_(label_ids, label_ids)])

    seconds: dict[Callable[[], npt.NDArray[Any]], list[float]] = {ours: [], theirs: []}
    with mock.patch.object(official.Image, "open", pictures.__getitem__):
        for _ in range(rounds):
            (our_s, our_counts), (their_s, their_counts) = timed(ours), timed(theirs)
            if not np.array_equal(our_counts, their_counts):
                raise SystemExit("the counts differ: the timing means nothing")
            seconds[ours].append(our_s)
            seconds[theirs].append(their_s)
    return statistics.median(seconds[ours]), statistics.median(seconds[theirs])


def main() -> None:
    """Print the medians and their ratio for both kinds of label map."""
    generator = np.random.default_rng(0)
    how = "compiled" if official.CSUPPORT else "numpy"
    for pattern in (street_like, noise):
        our_s, their_s = compare(*pattern(generator))
        print(
            f"{pattern.__name__:12} ours {our_s * 1e3:6.1f} ms   "
            f"cityscapesscripts ({how}) {their_s * 1e3:6.1f} ms   ratio {their_s / our_s:5.1f}"
        )


if __name__ == "__main__":
    main()
