"""Geometry of line charts: values in, SVG paths and axis ticks out.

A chart is drawn in a square of SIZE × SIZE units that the page stretches to any width, with strokes
that do not scale and labels that are HTML beside it: text keeps its size on a phone, and colours
follow the page's theme.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from cag_uda.report.words import compact

SIZE = 1000.0
MOST_POINTS = 180
"""A line longer than this is averaged over neighbours before it is drawn."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in percent from the left or the bottom, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One series: a clear path, the faint unsmoothed one behind it, and values for the pointer."""

    name: str
    colour: int
    """Index of the page's series colours."""
    path: str
    faint: str = ""
    dots: str = ""
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Band:
    """A stretch of the x axis that belongs together, in percent."""

    name: str
    left: float
    width: float


@dataclass(frozen=True)
class Axis:
    """From values to percent of the plot."""

    low: float
    high: float
    parts: int = 4
    """About how many stretches the ticks divide it into."""
    logarithmic: bool = False
    interval: float | None = None
    """Between ticks, where the ends were rounded to it."""

    def percent(self, value: float) -> float:
        """Find the place of a value on the axis, 0 to 100."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        return min(100.0, max(0.0, 100 * (value - low) / (high - low)))

    @property
    def ticks(self) -> list[Tick]:
        """Ticks at round values."""
        if self.logarithmic:
            decades = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
            apart = math.ceil(len(decades) / (self.parts + 1))
            values = [10.0**decade for decade in decades[::apart]]
        else:
            interval = self.interval or _round_interval(self.high - self.low, self.parts)
            first = math.ceil(self.low / interval - 1e-9)
            last = math.floor(self.high / interval + 1e-9)
            values = [index * interval for index in range(first, last + 1)]
        return [Tick(round(self.percent(value), 2), compact(value)) for value in values]


@dataclass(frozen=True)
class Chart:
    """A line chart, ready for the page."""

    title: str
    lines: list[Line]
    x_axis: Axis
    y_axis: Axis
    y_label: str
    x_label: str = ""
    """"" for an x axis of named bands, which has no ticks."""
    bands: list[Band] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    x_unit: str = ""

    @property
    def readings(self) -> list[dict[str, object]]:
        """The values behind the lines, for the page's pointer."""
        return [{"name": line.name, "x": line.x, "y": line.y} for line in self.lines]


@dataclass(frozen=True)
class Scale:
    """A row of bars: its right end as a share, and the ticks below it, in percent."""

    end: float
    ticks: list[Tick]


def bar_scale(shares: Sequence[float]) -> Scale:
    """Scale bars of `shares` in [0, 1] from 0 to a round number above the largest."""
    axis = _rounded_axis([0.0, *(100 * share for share in shares)])
    return Scale(axis.high / 100, replace(axis, parts=5).ticks)


def loss_chart(
    title: str, losses: Mapping[str, Points], colours: Mapping[str, int], notes: list[str]
) -> Chart:
    """Draw the losses of one stage over its steps: name → (step, value) points, finite, by step.

    The axis is logarithmic where the losses differ by orders of magnitude; a name has the same
    colour in every stage; the notes stand below the chart.
    """
    smooth = {name: _smoothed(points) for name, points in losses.items() if points}
    values = [value for points in smooth.values() for _, value in points]
    last = max((step for points in losses.values() for step, _ in points), default=1)
    x_axis = Axis(0, max(last, 1))
    y_axis = _loss_axis(values)
    lines = []
    for name, points in smooth.items():
        line = _line(name, colours[name], points, x_axis, y_axis, _alone(points))
        faint = _path(_thinned(losses[name], 3 * MOST_POINTS), x_axis, y_axis)
        lines.append(replace(line, faint=faint))
    scale = "loss, logarithmic" if y_axis.logarithmic else "loss"
    return Chart(title, lines, x_axis, y_axis, y_label=scale, x_label="step", notes=notes)


def score_chart(title: str, stages: Sequence[tuple[str, int, Points]]) -> Chart:
    """Draw the mIoU of all stages, one after another, in percent over the steps of the run.

    Each stage is a band of the x axis; it has a name, a number of steps, and (step, mIoU in [0, 1])
    points.
    """
    *starts, total = accumulate((steps for _, steps, _ in stages), initial=0)
    x_axis = Axis(0, max(total, 1), parts=5)
    y_axis = _rounded_axis([100 * value for _, _, points in stages for _, value in points])
    lines, bands = [], []
    for (name, steps, points), start in zip(stages, starts, strict=True):
        shifted = [(start + step, 100 * value) for step, value in points]
        if shifted:
            lines.append(_line(name, 0, shifted, x_axis, y_axis, dotted=shifted))
        bands.append(Band(name, x_axis.percent(start), 100 * steps / x_axis.high))
    return Chart(
        title, lines, x_axis, y_axis, y_label="mIoU, %", x_label="step of the run", bands=bands
    )


def category_chart(
    title: str,
    y_label: str,
    categories: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
) -> Chart:
    """Draw shares over named places, such as stages: in percent, each at the middle of its band.

    A series has one share in [0, 1] per category, None where there is none.
    """
    count = max(len(categories), 1)
    x_axis = Axis(0, count)
    placed = {
        name: [(index + 0.5, 100 * value) for index, value in enumerate(row) if value is not None]
        for name, row in series.items()
    }
    y_axis = _rounded_axis([value for places in placed.values() for _, value in places])
    lines = [
        _line(name, colour, places, x_axis, y_axis, dotted=places)
        for colour, (name, places) in enumerate(placed.items())
        if places
    ]
    bands = [Band(name, 100 * index / count, 100 / count) for index, name in enumerate(categories)]
    return Chart(title, lines, x_axis, y_axis, y_label, bands=bands)


def curve_charts(
    curves: Mapping[str, Mapping[str, Points]],
    marks: Mapping[str, Mapping[str, tuple[float, float]]],
    colours: Mapping[str, int],
) -> list[Chart]:
    """Draw precision against coverage, all charts on one scale so that they can be compared.

    Args:
        curves: title → name → (coverage, precision) points, both in [0, 1], by coverage.
        marks: title → name → point of the curve that gets a dot.
        colours: name → series colour, the same in every chart.
    """
    points = [point for lines in curves.values() for line in lines.values() for point in line]
    points += [point for dots in marks.values() for point in dots.values()]
    x_axis = Axis(0, 100, parts=5)
    y_axis = _rounded_axis([100 * precision for _, precision in points])
    charts = []
    for title, shares in curves.items():
        drawn = []
        for name, line in shares.items():
            mark = marks.get(title, {}).get(name)
            points = _in_percent(line)
            dotted = _in_percent([mark]) if mark else _alone(points)
            curve = _line(name, colours[name], points, x_axis, y_axis, dotted)
            x, y = [_short(x) for x, _ in points], [round(y, 1) for _, y in points]
            drawn.append(replace(curve, x=x, y=y))
        charts.append(
            Chart(title, drawn, x_axis, y_axis, "precision, %", x_label="coverage", x_unit="%")
        )
    return charts


def _in_percent(points: Points) -> list[tuple[float, float]]:
    return [(100 * x, 100 * y) for x, y in points]


def _alone(points: Points) -> Points:
    """Choose the points to dot: a single one, which has no line."""
    return points if len(points) == 1 else []


def _line(
    name: str, colour: int, points: Points, x_axis: Axis, y_axis: Axis, dotted: Points
) -> Line:
    return Line(
        name=name,
        colour=colour,
        path=_path(points, x_axis, y_axis),
        # Strokes of no length: with round caps that do not scale they are round at any width.
        dots="".join(f"M{_place(x, y, x_axis, y_axis)}h0" for x, y in dotted),
        x=[x for x, _ in points],
        y=[_short(y) for _, y in points],
    )


def _path(points: Points, x_axis: Axis, y_axis: Axis) -> str:
    return "M" + "L".join(_place(x, y, x_axis, y_axis) for x, y in points)


def _place(x: float, y: float, x_axis: Axis, y_axis: Axis) -> str:
    return f"{x_axis.percent(x) * SIZE / 100:.1f} {SIZE - y_axis.percent(y) * SIZE / 100:.1f}"


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _thinned(points: Points, most: int) -> list[tuple[float, float]]:
    """Average runs of neighbours until at most `most` points are left."""
    run = math.ceil(len(points) / most)
    groups = [points[start : start + run] for start in range(0, len(points), run)]
    return [(group[-1][0], math.fsum(value for _, value in group) / len(group)) for group in groups]


def _smoothed(points: Points) -> list[tuple[float, float]]:
    """Average around each point, over a fifteenth of the line, so that a trend shows."""
    thin = _thinned(points, MOST_POINTS)
    reach = round(len(thin) / 30)
    smooth = []
    for index, (step, _) in enumerate(thin):
        # The same reach on both sides, so that the ends are not drawn towards the middle.
        near = min(reach, index, len(thin) - 1 - index)
        window = thin[index - near : index + near + 1]
        smooth.append((step, math.fsum(value for _, value in window) / len(window)))
    return smooth


def _loss_axis(values: list[float]) -> Axis:
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(positive) > 50 * min(positive):
        low = 10 ** math.floor(math.log10(min(positive)))
        return Axis(low, 10 ** math.ceil(math.log10(max(positive) * 1.001)), logarithmic=True)
    return Axis(min(0.0, *values, 0.0), max(0.0, *values, 0.0) * 1.08 or 1.0)


def _rounded_axis(values: list[float]) -> Axis:
    """Make an axis of percent around values, with round ends; it begins at 0 if that is near."""
    if not values:
        return Axis(0, 100)
    low, high = min(values), max(values)
    interval = _round_interval(max(high - low, 4.0), 4)
    low = 0.0 if low < 2 * interval else math.floor(low / interval - 0.1) * interval
    high = min(100.0, math.ceil(high / interval + 0.1) * interval)
    return Axis(low, high, interval=interval)


def _round_interval(extent: float, count: int) -> float:
    """Find the 1, 2 or 5 × 10ⁿ that divides `extent` into about `count` parts."""
    rough = extent / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
