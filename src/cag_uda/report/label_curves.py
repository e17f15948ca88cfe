"""STAGE/label_curves.json: how precise pseudo-labels are at every coverage, over all thresholds.

```json
{
  "anchor": {
    "thresholds": [0.0, 0.5],
    "precision": [0.7, 0.9],
    "coverage": [1.0, 0.4],
    "per_class": {"precision": [[0.7, null]], "coverage": [[1.0, 0.3]]}
  }
}
```

For each kind of pseudo-label T thresholds, rising, and at each of them precision and coverage over
all classes (T,) and by class (K, T). Of a class, precision is of the labels that name it, coverage
of its own pixels. Null where undefined.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import RootModel, model_validator

from cag_uda.errors import RunError
from cag_uda.report.charts import Points
from cag_uda.report.records import Finite, Record, Share, parse

FILE = "label_curves.json"
_ADVICE = "remove it and make the comparison again, which measures it anew"
Curve = list[Share | None]


class CurvesPerClass(Record):
    """Curves by class, each (K, T)."""

    precision: list[Curve]
    coverage: list[Curve]


class LabelCurves(Record):
    """The curves of one kind of pseudo-label."""

    thresholds: list[Finite]
    precision: Curve
    coverage: Curve
    per_class: CurvesPerClass

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        count = len(self.thresholds)
        by_class = self.per_class
        for curve in (self.precision, self.coverage, *by_class.precision, *by_class.coverage):
            if len(curve) != count:
                raise ValueError(f"a curve has {len(curve)} points for {count} thresholds")
        if len(by_class.precision) != len(by_class.coverage):
            raise ValueError(
                f"precision of {len(by_class.precision)} classes, coverage of "
                f"{len(by_class.coverage)}"
            )
        return self

    def of(self, class_id: int | None) -> tuple[Curve, Curve]:
        """Precision and coverage (T,) of one class, or over all."""
        if class_id is None:
            return self.precision, self.coverage
        return self.per_class.precision[class_id], self.per_class.coverage[class_id]


class StageCurves(RootModel[dict[str, LabelCurves]]):
    """The whole file: kind of pseudo-label → its curves."""


def read_curves(stage_folder: Path, num_classes: int) -> dict[str, LabelCurves]:
    """Read the curves of a stage.

    Args:
        stage_folder: RUN/stages/N-STAGE.
        num_classes: K.

    Returns:
        Kind of pseudo-label → its curves; empty where they were not measured.

    Raises:
        RunError: if the file cannot be understood, or is of another number of classes.
    """
    file = stage_folder / FILE
    if not file.is_file():
        return {}
    kinds = parse(StageCurves, file, _ADVICE).root
    for kind, curves in kinds.items():
        if len(curves.per_class.precision) != num_classes:
            raise RunError(
                f"{file}: {kind}: curves of {len(curves.per_class.precision)} classes, but the "
                f"comparison has {num_classes}: {_ADVICE}"
            )
    return kinds


def mean_curve(seeds: Sequence[tuple[Curve, Curve]], intervals: int) -> Points:
    """Mean precision of several curves at evenly spaced coverages, between their points linearly.

    Args:
        seeds: precision and coverage (T,) of each; T may differ.
        intervals: into how many parts the coverages from 0 to 1 are cut.

    Returns:
        (coverage, precision) points, by coverage, where every one of the curves reaches.
    """
    grid = np.arange(1, intervals + 1) / intervals
    read = [_precision_at(grid, precision, coverage) for precision, coverage in seeds]
    if not read:
        return []
    mean = np.mean(read, axis=0)
    return [(float(x), float(y)) for x, y in zip(grid, mean, strict=True) if not np.isnan(y)]


def _precision_at(
    grid: NDArray[np.float64], precision: Curve, coverage: Curve
) -> NDArray[np.float64]:
    """Precision (G,) at coverages (G,); NaN where the curve does not reach."""
    points = sorted(
        (c, p) for c, p in zip(coverage, precision, strict=True) if c is not None and p is not None
    )
    if not points:
        return np.full(len(grid), np.nan)
    x, y = np.array(points).T
    found: NDArray[np.float64] = np.interp(grid, x, y, left=np.nan, right=np.nan)
    return found
