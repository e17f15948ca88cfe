"""Puts a run on one HTML page that asks nothing of any host.

The look is in the templates, styles and scripts beside this file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from cag_uda.files import is_sound, write_text
from cag_uda.report import words
from cag_uda.report.charts import Chart, Scale, bar_scale, loss_chart, score_chart
from cag_uda.report.criteria import make_criteria
from cag_uda.report.evidence import read_anchor_distances, read_confusion, read_features
from cag_uda.report.feature_maps import FeatureMaps, make_feature_maps
from cag_uda.report.gallery import Gallery, Look, make_gallery
from cag_uda.report.labelling import make_labelling
from cag_uda.report.matrices import Matrices, make_matrices
from cag_uda.report.run_folder import RunRecord, StageRecord, read_run
from cag_uda.report.summary import Summary, summarise
from cag_uda.report.templates import render_page
from cag_uda.runs.records.run import ClassShares, StageScores

T = TypeVar("T")
Reader: TypeAlias = Callable[[Path, int, list[str]], T | None]
"""Reads something of a stage's folder, for K classes; adds to the remarks what is damaged."""

SERIES_COLOURS = 8


def write_report(run: Path) -> Path:
    """Write RUN/report.html, one page with all that a run has to show; returns its path.

    The run may be unfinished. The page holds its images, styles and script, and loads nothing.

    Raises:
        RunError: if `run` is no run folder, its scores cannot be understood, or the page cannot be
            written.
    """
    path = run / "report.html"
    write_text(path, render(read_run(run)))
    return path


def render(run: RunRecord) -> str:
    """Render the page of a run as HTML."""
    scores = run.scores
    summary = summarise(run)
    remarks = list(run.remarks)
    gallery = _gallery(run, summary)
    if gallery.left_out:
        pictures = words.counted(gallery.left_out, "picture")
        remarks.append(f"{pictures} left out: not readable, or the page would grow too large.")
    maps, matrices = _evidence(run, summary, remarks)
    for stage in run.stages:
        for file in stage.folder.glob("pseudo_labels/*.png"):
            if is_sound(file) is False:
                place = file.relative_to(stage.folder.parent).as_posix()
                remarks.append(f"{place} cannot be understood and is left out.")
    stages = [stage for stage in scores.stages if stage.iou is not None]
    rows = _class_rows(run, summary, stages)
    changed = [row for row in rows if row.change is not None]
    times = [stage.elapsed_s for stage in scores.stages if stage.elapsed_s is not None]
    return render_page(
        "run.html",
        scores.classes,
        scores.palette,
        run=run,
        scores=scores,
        summary=summary,
        climb=_climb_scale(summary),
        gallery=gallery,
        class_stages=stages,
        class_rows=rows,
        class_changes=sorted(changed, key=lambda row: -(row.change or 0.0)),
        shares=run.class_shares,
        share_order=_most_changed(run.class_shares),
        labelling=make_labelling(
            run.stages, run.samples, scores.palette, align_corners=run.align_corners
        ),
        maps=maps,
        matrices=matrices,
        criteria=make_criteria(run.stages),
        loss_charts=_loss_charts(run.stages),
        score_chart=_score_chart(run.stages),
        total_s=sum(times) if times else None,
        environment={key: words.plain(value) for key, value in run.environment.plain().items()},
        remarks=remarks,
    )


def _gallery(run: RunRecord, summary: Summary) -> Gallery:
    if summary.delivered is not None:
        delivered: str | None = summary.delivered.stage.folder
    else:
        chosen = (each.scores for each in run.stages if each.scores.name == run.delivered)
        delivered = next((each.folder for each in chosen), None)
    looks = []
    for stage in run.stages:
        detail = ""
        if stage.scores.folder == delivered:
            detail = "latest" if run.awaited else "delivered"
        looks.append(Look(stage.scores.folder, stage.scores.in_words, detail, stage.scores.miou))
    baseline = None if summary.baseline is None else summary.baseline.folder
    return make_gallery(run.samples, looks, run.scores.palette, baseline, delivered)


def _evidence(run: RunRecord, summary: Summary, remarks: list[str]) -> tuple[FeatureMaps, Matrices]:
    """Make feature maps of all stages, and the matrices before and after adaptation."""
    pair = _before_and_after(run.stages, summary)

    def read_all(stages: list[StageRecord], read: Reader[T]) -> list[tuple[StageRecord, T]]:
        found = [(each, read(each.folder, len(run.scores.classes), remarks)) for each in stages]
        return [(stage, held) for stage, held in found if held is not None]

    features = read_all(run.stages, read_features)
    anchors = read_all(run.stages, read_anchor_distances)
    confusions = read_all(pair, read_confusion)
    matrices = make_matrices(
        [each for each in features if each[0] in pair] or features[-1:],
        [*anchors[:1], *anchors[1:][-1:]],
        confusions,
    )
    return make_feature_maps(features), matrices


def _before_and_after(stages: Sequence[StageRecord], summary: Summary) -> list[StageRecord]:
    """Choose baseline and delivered stage; first and last where those are not known."""
    names = [stage.scores.name for stage in stages]
    after = summary.delivered.stage.name if summary.delivered else "".join(names[-1:])
    before = summary.baseline.name if summary.baseline else "".join(names[:1])
    return [stage for stage in stages if stage.scores.name in (before, after)]


def _climb_scale(summary: Summary) -> Scale:
    """Scale the bars to every mIoU and to the upper end of every interval."""
    ends = [step.miou for step in summary.steps]
    ends += [
        summary.baseline_miou + step.gain.high / 100
        for step in summary.steps
        if summary.baseline_miou is not None and step.gain and step.gain.high is not None
    ]
    return bar_scale(ends)


def _most_changed(shares: ClassShares | None) -> list[int]:
    """Order the classes, those first whose shares of source and target differ most."""
    if shares is None:
        return []
    pairs = zip(shares.source, shares.target, strict=True)
    points = [100 * (target - source) for source, target in pairs]
    return sorted(range(len(points)), key=lambda index: -abs(points[index]))


@dataclass(frozen=True)
class ClassRow:
    """IoU of one class by stage, each in [0, 1], and its change over the baseline in points."""

    index: int
    name: str
    iou: list[float | None]
    before: float | None
    after: float | None
    change: float | None


def _class_rows(run: RunRecord, summary: Summary, stages: list[StageScores]) -> list[ClassRow]:
    """Hold the IoUs of stages against each other; no rows where no stage has any."""
    changes = dict(summary.changed_classes)
    columns = {stage.name: stage.iou for stage in stages if stage.iou is not None}
    nothing: list[float | None] = [None] * len(run.scores.classes)
    before = columns.get(summary.baseline.name, nothing) if summary.baseline else nothing
    after = columns.get(summary.delivered.stage.name, nothing) if summary.delivered else nothing
    return [
        ClassRow(
            index=index,
            name=name,
            iou=[column[index] for column in columns.values()],
            before=before[index],
            after=after[index],
            change=changes.get(name),
        )
        for index, name in enumerate(run.scores.classes)
        if stages
    ]


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
    """Draw mIoU over the steps of the run, if it was measured during training."""
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
