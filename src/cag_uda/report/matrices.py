"""Matrices of class by class: how far anchors lie apart, and what is taken for what."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cag_uda.report.evidence import FeatureMap, Floats
from cag_uda.report.run_folder import StageRecord

LARGEST = 40
"""Classes up to which a matrix is shown; of more only its extremes are."""
_EXTREMES = 8


Cell = tuple[str, float | None]
"""One number of a matrix, as text, and how strongly it is shaded, in [0, 1]."""
Pair = tuple[int, int, str]
"""Two classes, row and column of a matrix, and the number between them."""


@dataclass(frozen=True)
class Matrix:
    """A matrix of one stage, ready for the page."""

    name: str
    rows: list[list[Cell]]
    """Empty where there are too many classes."""
    extremes: list[Pair]
    """The nearest anchors, or the most frequent mistakes, strongest first."""


@dataclass(frozen=True)
class Matrices:
    """The matrices of a run's stages."""

    anchors: list[Matrix]
    is_relative: bool
    """True if distances are in units of a class's spread, else in feature units."""
    confusions: list[Matrix]


def make_matrices(
    features: Sequence[tuple[StageRecord, FeatureMap]],
    anchors: Sequence[tuple[StageRecord, Floats]],
    confusions: Sequence[tuple[StageRecord, Floats]],
) -> Matrices:
    """Lay out distances between anchors, and the shares at which classes are taken for others.

    Distances are those of the feature maps, in units of a class's spread; for runs that left none,
    those (K, K) of the anchors that guided each stage, in feature units.
    """
    distances = [(stage.scores.name, one.relative_distances) for stage, one in features]
    if not distances:
        distances = [(f"anchors of {stage.scores.name}", one) for stage, one in anchors]
    return Matrices(
        anchors=[_distance_matrix(name, one) for name, one in distances],
        is_relative=bool(features),
        confusions=[_confusion_matrix(stage.scores.name, one) for stage, one in confusions],
    )


def _distance_matrix(name: str, distances: NDArray[np.floating]) -> Matrix:
    """Shade near anchors: the classes that the margin finds hard to tell apart."""
    apart = np.where(np.eye(len(distances), dtype=bool), np.nan, distances)
    finite = apart[np.isfinite(apart)]
    low, high = (finite.min(), np.quantile(finite, 0.9)) if len(finite) else (0.0, 1.0)
    shades = 1 - (apart - low) / max(high - low, 1e-9)
    upper = np.where(np.triu(np.ones_like(apart, dtype=bool)), apart, np.nan)
    return Matrix(
        name=name,
        rows=_cells(apart, shades, "{:.1f}" if high < 100 else "{:.0f}"),
        extremes=_extremes(upper, -upper, "{:.1f}"),
    )


def _confusion_matrix(name: str, shares: NDArray[np.floating]) -> Matrix:
    wrong = np.where(np.eye(len(shares), dtype=bool), np.nan, 100 * shares)
    return Matrix(
        name=name,
        rows=_cells(100 * shares, shares, "{:.0f}"),
        extremes=_extremes(wrong, wrong, "{:.0f} %"),
    )


def _cells(
    values: NDArray[np.floating], shades: NDArray[np.floating], form: str
) -> list[list[Cell]]:
    if len(values) > LARGEST:
        return []
    return [
        [
            (form.format(value), round(float(np.clip(shade, 0, 1)), 2))
            if np.isfinite(value)
            else ("", None)
            for value, shade in zip(*row, strict=True)
        ]
        for row in zip(values, shades, strict=True)
    ]


def _extremes(
    values: NDArray[np.floating], strength: NDArray[np.floating], form: str
) -> list[Pair]:
    order = np.argsort(-np.where(np.isfinite(strength), strength, -np.inf), axis=None)
    places = [np.unravel_index(place, values.shape) for place in order[:_EXTREMES]]
    return [
        (int(row), int(column), form.format(values[row, column]))
        for row, column in places
        if np.isfinite(values[row, column]) and values[row, column] > 0
    ]
