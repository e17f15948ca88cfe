"""Puts a run on one HTML page that asks nothing of any host.

Knows the page's sections and which figures go into each; the look is in page.html, page.css and
page.js beside it, which are written into the page.
"""

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from cag_uda.files import write_text
from cag_uda.report import words
from cag_uda.report.charts import Chart, Scale, bar_scale, category_chart, loss_chart, score_chart
from cag_uda.report.pictures import embed_all
from cag_uda.report.run_folder import (
    PseudoLabelScores,
    RunRecord,
    Sample,
    StageRecord,
    StageScores,
    read_run,
)
from cag_uda.report.summary import Summary, summarise

PICTURE_BUDGET_BYTES = 4_000_000
"""Leaves a page below 5 MB, which a mail server and a phone still take."""
ROWS_AT_ONCE = 3
"""Samples that are shown unasked; the others open on demand."""
WIDEST_ROW = 6
"""Pictures side by side on a wide screen."""
SERIES_COLOURS = 8
"""How many line colours page.css has."""
KIND_NAMES = {
    "anchor": "by anchor",
    "confidence": "by confidence",
    "intersection": "where both agree",
}


def write_report(run: Path) -> Path:
    """Write RUN/report.html: one page with all that a run has to show.

    Args:
        run: a run folder, finished or not.

    Returns:
        Path of the page. It holds its images, styles and script, and loads nothing.

    Raises:
        RunError: if `run` is no run folder, its scores cannot be understood, or the page cannot be
            written.
    """
    path = run / "report.html"
    write_text(path, render(read_run(run)))
    return path


def render(run: RunRecord) -> str:
    """Render the page of a run as HTML."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for word in (words.percent, words.number, words.signed, words.duration, words.counted):
        environment.filters[word.__name__] = word
    environment.filters["css_colour"] = _css_colour
    environment.filters["kind_name"] = _kind_name
    script = _packaged("page.js")
    summary = summarise(run)
    rows, left_out = _sample_rows(run, summary)
    remarks = list(run.remarks)
    if left_out:
        pictures = words.counted(left_out, "picture")
        remarks.append(f"{pictures} left out: not readable, or the page would grow too large.")
    return environment.from_string(_packaged("page.html")).render(
        run=run,
        scores=run.scores,
        summary=summary,
        climb=_climb_scale(summary),
        classes=_class_table(run, summary),
        rows=rows,
        rows_at_once=ROWS_AT_ONCE,
        remarks=remarks,
        pseudo_labels=[stage for stage in run.stages if stage.pseudo_labels],
        pseudo_label_charts=_pseudo_label_charts(run.stages),
        loss_charts=_loss_charts(run.stages),
        score_chart=_score_chart(run.stages),
        total_s=_total_s(run.scores.stages),
        environment={key: _plain(value) for key, value in run.environment.items()},
        style=_packaged("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _packaged(name: str) -> str:
    return resources.files("cag_uda.report").joinpath(name).read_text(encoding="utf-8")


def _css_colour(levels: tuple[int, int, int]) -> str:
    return f"rgb({levels[0]} {levels[1]} {levels[2]})"


def _kind_name(kind: str) -> str:
    return KIND_NAMES.get(kind, kind)


def _plain(value: object) -> str:
    """Write a value of environment.json for people: no braces, quotes or nulls."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return " ".join(_plain(entry) for entry in value)
    return words.UNDEFINED if value is None else str(value)


def _total_s(stages: list[StageScores]) -> float | None:
    times = [stage.elapsed_s for stage in stages if stage.elapsed_s is not None]
    return sum(times) if times else None


def _climb_scale(summary: Summary) -> Scale:
    """Room for every mIoU and for the upper end of every interval that is drawn."""
    ends = [step.miou for step in summary.steps]
    ends += [
        summary.baseline_miou + step.gain.high / 100
        for step in summary.steps
        if summary.baseline_miou is not None and step.gain and step.gain.high is not None
    ]
    return bar_scale(ends)


@dataclass(frozen=True)
class ClassRow:
    """IoU of one class by stage, each in [0, 1], and its change over the baseline in points."""

    name: str
    colour: tuple[int, int, int] | None
    iou: list[float | None]
    best: float | None
    change: float | None


@dataclass(frozen=True)
class ClassTable:
    """IoU of every class by stage."""

    stages: list[StageScores]
    rows: list[ClassRow]


def _class_table(run: RunRecord, summary: Summary) -> ClassTable:
    changes = dict(summary.changed_classes)
    stages = [stage for stage in run.scores.stages if stage.iou is not None]
    columns = [stage.iou for stage in stages if stage.iou is not None]
    rows = []
    for index, name in enumerate(run.scores.classes):
        iou = [column[index] for column in columns]
        rows.append(
            ClassRow(
                name=name,
                colour=run.scores.palette[index] if run.scores.palette else None,
                iou=iou,
                best=max((value for value in iou if value is not None), default=None),
                change=changes.get(name),
            )
        )
    return ClassTable(stages, rows if stages else [])


@dataclass(frozen=True)
class Panel:
    """One picture of a row."""

    caption: str
    detail: str
    uri: str
    is_label: bool


@dataclass(frozen=True)
class SampleRow:
    """One target image and what each network makes of it."""

    name: str
    panels: list[Panel]
    columns: int


def _sample_rows(run: RunRecord, summary: Summary) -> tuple[list[SampleRow], int]:
    """The rows of pictures, and how many pictures had to be left out."""
    # Sample by sample, so that a page that grows too large loses whole samples, the last first.
    uris = embed_all(
        [file for sample in run.samples for file in _files_of(sample)], PICTURE_BUDGET_BYTES
    )
    rows = []
    left_out = 0
    for sample in run.samples:
        panels = [
            Panel(caption, detail, uris[file], is_label)
            for caption, detail, file, is_label in _captioned(sample, run, summary)
            if file in uris
        ]
        left_out += len(_files_of(sample)) - len(panels)
        if panels:
            # Even lines: 8 pictures as 4 + 4, not 6 + 2.
            lines = -(-len(panels) // WIDEST_ROW)
            rows.append(SampleRow(sample.name, panels, -(-len(panels) // lines)))
    return rows, left_out


def _files_of(sample: Sample) -> list[Path]:
    files = [sample.image, *sample.predictions.values(), sample.truth]
    return [file for file in files if file is not None]


def _captioned(
    sample: Sample, run: RunRecord, summary: Summary
) -> list[tuple[str, str, Path, bool]]:
    """Caption, detail, file and whether it shows labels, in the order in which they are shown."""
    delivered = None if summary.delivered is None else summary.delivered.stage.folder
    shown: list[tuple[str, str, Path, bool]] = []
    if sample.image is not None:
        shown.append(("image", "target", sample.image, False))
    for stage in run.stages:
        file = sample.predictions.get(stage.scores.folder)
        if file is not None:
            miou = stage.scores.miou
            detail = "" if miou is None else f"{words.percent(miou)} mIoU"
            if stage.scores.folder == delivered:
                detail = f"{detail}, {'latest' if run.awaited else 'delivered'}"
            shown.append((stage.scores.name, detail, file, True))
    if sample.truth is not None:
        shown.append(("truth", "drawn by people", sample.truth, True))
    return shown


def _pseudo_label_charts(stages: list[StageRecord]) -> list[Chart]:
    """Precision and coverage by stage, a line for each kind; a single stage has no course."""
    labelling = [stage for stage in stages if stage.pseudo_labels]
    if len(labelling) < 2:
        return []
    kinds = list(dict.fromkeys(kind for stage in labelling for kind in stage.pseudo_labels))
    names = [stage.scores.name for stage in labelling]
    missing = PseudoLabelScores()
    charts = []
    for title, y_label, key in (
        ("Precision", "% of the labelled pixels that are right", "precision"),
        ("Coverage", "% of all pixels that are labelled", "coverage"),
    ):
        series = {
            _kind_name(kind): [
                getattr(stage.pseudo_labels.get(kind, missing), key) for stage in labelling
            ]
            for kind in kinds
        }
        if any(value is not None for row in series.values() for value in row):
            charts.append(category_chart(title, y_label, names, series))
    return charts


def _loss_charts(stages: list[StageRecord]) -> list[Chart]:
    names = list(dict.fromkeys(name for stage in stages for name in stage.metrics.losses))
    colours = {name: index % SERIES_COLOURS for index, name in enumerate(names)}
    return [
        loss_chart(stage.scores.name, stage.metrics.losses, colours, _training_notes(stage))
        for stage in stages
        if stage.metrics.losses
    ]


def _training_notes(stage: StageRecord) -> list[str]:
    notes = [
        f"{name} was not a number at step {step}."
        for name, step in stage.metrics.not_finite.items()
    ]
    if not stage.finished:
        notes.append(f"Not finished: last logged at step {stage.metrics.last_step}.")
    if stage.metrics.images_per_s is not None:
        notes.append(f"{stage.metrics.images_per_s:.3g} images/s (median)")
    return notes


def _score_chart(stages: list[StageRecord]) -> Chart | None:
    """MIoU over the steps of the run, where it was measured while training."""
    if not any(stage.metrics.miou for stage in stages):
        return None
    measured: list[tuple[str, int, list[tuple[int, float]]]] = []
    for stage in stages:
        steps = stage.scores.steps or stage.metrics.last_step
        points = dict(stage.metrics.miou)
        if stage.scores.miou is not None:
            points[steps] = stage.scores.miou
        measured.append((stage.scores.name, steps, sorted(points.items())))
    return score_chart("mIoU over the run", measured)
