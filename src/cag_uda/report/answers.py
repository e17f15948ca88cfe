"""The answers to the paper's research questions, for the page of an ablation.

They are those of ablation.json, and the curves in the run folders beside it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cag_uda.report.charts import Chart, Points, category_chart, curve_charts
from cag_uda.report.labelling import kind_name
from cag_uda.runs.records.comparison import ComparisonRecord, LabelError, StageAnswers
from cag_uda.runs.records.stage import LabelCurves, read_curves

_INTERVALS, _INTERVALS_BY_CLASS = 100, 40
"""Points of a line at most: the curves on disk are longer than can be seen."""

Runs = dict[str, dict[str, StageAnswers]]
"""Run → stage → what was measured of it."""


@dataclass(frozen=True)
class CurveCharts:
    """RQ2 as lines: the curves of the run that the others vary, means over its seeds."""

    seeds: int
    """The most that a stage has curves of."""
    by_stage: list[Chart]
    last: str
    """The stage whose curves are told class by class."""
    by_class: list[Chart]
    without: list[str]
    has_marks: bool


@dataclass(frozen=True)
class Answers:
    """Content of the section. Runs are in the order of the file, the floor first."""

    base: str
    """The run that the others vary."""
    first: list[str]
    """The runs that are told before the others: the floor, where there is one, and the base."""
    separations: Runs
    separation_end: float
    """The largest, by which the figures are scaled."""
    shift_end: float
    curves: CurveCharts | None
    coverages: list[float]
    """Shares of the target's pixels at which the kinds of pseudo-label are compared."""
    precisions: Runs
    errors: Runs
    error_kinds: list[str]
    course: list[Chart]
    """RQ3 as lines: mIoU and label error of the base by stage."""


def make_answers(comparison: ComparisonRecord, folder: Path) -> Answers | None:
    """Gather the answers of an ablation whose run folders lie in a folder; None: nothing measured.

    Raises:
        RunError: if the curves of a run cannot be understood.
    """
    measured = [name for name, stages in comparison.answers.items() if stages]
    if not measured:
        return None
    # The sort is stable: all but the floor stay in their order.
    order = sorted(measured, key=lambda name: name != comparison.floor)
    runs = {name: comparison.answers[name] for name in order}
    base = next((name for name in order if name != comparison.floor), order[0])
    stages = [of for run in runs.values() for of in run.values()]
    separations = [of.separation for of in stages if of.separation]
    error_kinds = list(dict.fromkeys(kind for of in stages for kind in of.label_error or ()))
    return Answers(
        base=base,
        first=order[: order.index(base) + 1],
        separations=_those(runs, lambda of: of.separation is not None),
        separation_end=_largest(
            value for each in separations for value in (each.source, each.target)
        ),
        shift_end=_largest(each.centroid_shift for each in separations),
        curves=_curve_charts(comparison, base, error_kinds, folder),
        coverages=sorted(
            {at for of in stages for points in (of.precision_at or {}).values() for at in points}
        ),
        precisions=_those(runs, lambda of: bool(of.precision_at)),
        errors=_those(runs, lambda of: of.miou is not None or bool(of.label_error)),
        error_kinds=error_kinds,
        course=_course(base, runs[base], error_kinds),
    )


def _those(runs: Runs, wanted: Callable[[StageAnswers], bool]) -> Runs:
    """Choose the stages that have something to show, and the runs that have such stages."""
    chosen = {
        name: {stage: of for stage, of in stages.items() if wanted(of)}
        for name, stages in runs.items()
    }
    return {name: stages for name, stages in chosen.items() if stages}


def _largest(values: Iterable[float | None]) -> float:
    """Find the largest value, to divide by: 1 where there is none."""
    return max((value for value in values if value is not None), default=0.0) or 1.0


def _curve_charts(
    comparison: ComparisonRecord, base: str, first_kinds: Sequence[str], folder: Path
) -> CurveCharts | None:
    """Draw RQ2 of the base: every stage over all classes, the last one class by class."""
    held = _curves_of(comparison, base, folder)
    by_stage = _drawn({stage: _lines(seeds, None, _INTERVALS) for stage, seeds in held.items()})
    if not by_stage:
        return None
    kinds = dict.fromkeys((*first_kinds, *(kind for seeds in held.values() for kind in seeds)))
    colours = {kind_name(kind): place for place, kind in enumerate(kinds)}
    last = list(by_stage)[-1]
    by_class = {
        name: _lines(held[last], index, _INTERVALS_BY_CLASS)
        for index, name in enumerate(comparison.classes)
    }
    marks = {
        stage: _marks(comparison.answers[base][stage], lines) for stage, lines in by_stage.items()
    }
    return CurveCharts(
        seeds=max(len(curves) for seeds in held.values() for curves in seeds.values()),
        by_stage=curve_charts(by_stage, marks, colours),
        last=last,
        by_class=curve_charts(_drawn(by_class), {}, colours),
        without=[name for name, lines in by_class.items() if not lines],
        has_marks=any(marks.values()),
    )


def _curves_of(
    comparison: ComparisonRecord, base: str, folder: Path
) -> dict[str, dict[str, list[LabelCurves]]]:
    """Read the curves of every seed: stage → kind of pseudo-label → curves."""
    held: dict[str, dict[str, list[LabelCurves]]] = {}
    cells = next((method.cells for method in comparison.methods if method.name == base), [])
    for cell in cells:
        root = folder / cell.run / "stages" if cell.run else None
        if root is None or not root.is_dir():
            continue
        folders = {path.name.partition("-")[2]: path for path in root.iterdir()}
        for stage in comparison.answers[base]:
            if stage in folders:
                curves = read_curves(folders[stage], len(comparison.classes))
                for kind, of in curves.items():
                    held.setdefault(stage, {}).setdefault(kind, []).append(of)
    return {stage: held[stage] for stage in comparison.answers[base] if stage in held}


def _lines(
    seeds: Mapping[str, Sequence[LabelCurves]], class_id: int | None, intervals: int
) -> dict[str, Points]:
    """Map the name of each kind to the mean of its curves over seeds, where there is one."""
    means = {
        kind_name(kind): mean_curve([curves.points(class_id) for curves in each], intervals)
        for kind, each in seeds.items()
    }
    return {name: points for name, points in means.items() if points}


def mean_curve(seeds: Sequence[Points], intervals: int) -> Points:
    """Average curves, between their points linearly, at evenly spaced coverages from 0 to 1.

    Points are (coverage, precision), by coverage; the mean has those that every curve reaches.
    """
    if not seeds or not all(seeds):
        return []
    grid = np.arange(1, intervals + 1) / intervals
    read = [
        np.interp(grid, coverage, precision, left=np.nan, right=np.nan)
        for coverage, precision in (np.array(points).T for points in seeds)
    ]
    mean = np.mean(read, axis=0)
    return [(float(x), float(y)) for x, y in zip(grid, mean, strict=True) if not np.isnan(y)]


def _drawn(charts: Mapping[str, Mapping[str, Points]]) -> dict[str, Mapping[str, Points]]:
    return {title: lines for title, lines in charts.items() if lines}


def _marks(of: StageAnswers, lines: Collection[str]) -> dict[str, tuple[float, float]]:
    """Give coverage and precision of a stage's labels, by kind that has a line."""
    return {
        kind_name(kind): (labels.coverage, 1 - labels.error)
        for kind, labels in (of.label_error or {}).items()
        if labels.coverage is not None and labels.error is not None and kind_name(kind) in lines
    }


def _course(base: str, stages: Mapping[str, StageAnswers], kinds: Sequence[str]) -> list[Chart]:
    """Draw mIoU and label error by stage; nothing for a single stage."""
    if len(stages) < 2:
        return []
    miou = {base: [of.miou for of in stages.values()]}
    errors = {
        kind_name(kind): [
            (of.label_error or {}).get(kind, LabelError()).error for of in stages.values()
        ]
        for kind in kinds
    }
    charts = [
        category_chart(f"mIoU of {base}", "mIoU, %", list(stages), miou),
        category_chart(
            f"Label error of {base}",
            "% of the labelled pixels that are wrong",
            list(stages),
            errors,
        ),
    ]
    return [chart for chart in charts if chart.lines]
