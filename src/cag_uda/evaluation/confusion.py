"""Exact counts of which class was predicted for which."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cag_uda.errors import DataError, ShapeError
from cag_uda.types import IGNORE

_PIXELS_AT_ONCE = 1 << 24
"""Counting takes 10 bytes for each of them."""

Labels: TypeAlias = npt.NDArray[Any] | Tensor
"""Integer train ids of any shape, a numpy array or a tensor on any device."""


class ConfusionMatrix:
    """Pixels by true class and predicted class.

    A pixel whose truth is IGNORE is left out. A pixel whose prediction is no class (an id outside
    0 … K-1, for example 255) misses its true class and is a false alarm of none, as in the official
    evaluator.

    Args:
        num_classes: K.
        counts: (K, K + 1) to start from; None starts from zero.

    Raises:
        DataError: if K does not fit labels of 8 bits, of which 255 is IGNORE.

    Source: cityscapesscripts, evaluation/evalPixelLevelSemanticLabeling.py, `getIouScoreForLabel`.
    """

    counts: npt.NDArray[np.int64]
    """(K, K + 1): rows are true classes, columns predicted ones, the last one "no class"."""

    def __init__(self, num_classes: int, counts: npt.NDArray[np.int64] | None = None) -> None:
        if not 1 <= num_classes <= IGNORE:
            raise DataError(f"got {num_classes} classes; labels of 8 bits hold 1 to {IGNORE}")
        shape = (num_classes, num_classes + 1)
        self.counts = np.zeros(shape, np.int64) if counts is None else counts.astype(np.int64)
        if self.counts.shape != shape:
            raise ShapeError(f"counts should be {shape}, got {self.counts.shape}")

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.counts)

    def update(self, truth: Labels, prediction: Labels) -> None:
        """Count the pixels of one or more label maps.

        Args:
            truth: (…,) integer train ids, IGNORE where unlabelled; uint8 is the quick way.
            prediction: (…,) integer train ids of the same shape.

        Raises:
            ShapeError: if the shapes differ or the ids are not integers.
            DataError: if the truth holds an id that is neither a class nor IGNORE.
        """
        true_ids, predicted_ids = _as_array(truth), _as_array(prediction)
        if true_ids.shape != predicted_ids.shape:
            raise ShapeError(
                f"truth is {true_ids.shape} but prediction is {predicted_ids.shape}: "
                "compare them at one resolution"
            )
        is_wide = true_ids.dtype != np.uint8 and true_ids.size > 0
        if is_wide and (true_ids.min() < 0 or true_ids.max() > IGNORE):
            self._refuse(np.unique(true_ids[(true_ids < 0) | (true_ids > IGNORE)]))
        # Both bytes as one 16-bit number: one pass over the pixels with no mask, and a truth that
        # is no class shows up in a table of 256 × 256 instead of costing a pass of its own.
        table = np.zeros((256, 256), np.int64)
        true_ids, predicted_ids = true_ids.reshape(-1), predicted_ids.reshape(-1)
        for start in range(0, true_ids.size, _PIXELS_AT_ONCE):
            part = slice(start, start + _PIXELS_AT_ONCE)
            code = true_ids[part].astype(np.uint16)
            code <<= 8
            code |= _as_bytes(predicted_ids[part])
            table += np.bincount(code, minlength=1 << 16).reshape(256, 256)
        classes = self.num_classes
        unknown = table[classes:IGNORE].any(axis=1)
        if unknown.any():
            self._refuse(classes + np.flatnonzero(unknown))
        self.counts[:, :classes] += table[:classes, :classes]
        self.counts[:, classes] += table[:classes, classes:].sum(axis=1)

    def reduced(self, add_up: Callable[[Tensor], Tensor]) -> "ConfusionMatrix":
        """Sum over all processes, on every process; `add_up` all-reduces an int64 tensor."""
        total = add_up(torch.from_numpy(self.counts.copy()))
        return ConfusionMatrix(self.num_classes, total.cpu().numpy())

    def _refuse(self, ids: npt.NDArray[Any]) -> None:
        listed = ", ".join(str(number) for number in ids[:5]) + (", …" if len(ids) > 5 else "")
        raise DataError(
            f"the truth holds ids that are no train id: {listed}; wanted 0 to "
            f"{self.num_classes - 1}, or {IGNORE} where unlabelled: correct the domain's label map"
        )


def _as_array(labels: Labels) -> npt.NDArray[Any]:
    array = labels if isinstance(labels, np.ndarray) else labels.detach().cpu().numpy()
    if not np.issubdtype(array.dtype, np.integer):
        raise ShapeError(f"label maps are integers, got {array.dtype}")
    return array


def _as_bytes(prediction: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Give ids that a byte cannot hold the value 255, which is never a class."""
    if prediction.dtype == np.uint8:
        return prediction
    fits = (prediction >= 0) & (prediction < IGNORE)
    return np.where(fits, prediction, IGNORE).astype(np.uint8)
