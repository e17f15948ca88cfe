"""A comparison as Markdown and as CSV, and the answers to the research questions as Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence

from cag_uda.comparison.plan import Entry
from cag_uda.runs.records.comparison import (
    ComparedMethod,
    ComparedStage,
    ComparisonRecord,
    OverSeeds,
    StageAnswers,
)
from cag_uda.runs.records.run import Gain

Rows = Sequence[tuple[ComparedMethod, OverSeeds]]
"""Methods that have run, with what was found of each."""
Lines = Sequence[tuple[str, str, StageAnswers]]
"""Run, stage, and what was measured of it."""


def to_markdown(table: ComparisonRecord) -> str:
    """Write a comparison for reading: methods, classes, stages, budget; mIoU in per cent."""
    rows = [(row, row.summary) for row in table.methods if row.summary is not None]
    parts = [
        f"# {table.name}: {table.source} → {table.target}",
        _main_table(rows, table),
        _class_table(rows, table.classes),
        _stage_table([row for row, _ in rows]),
        _budget(table),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(table: ComparisonRecord) -> str:
    """Write a comparison for a spreadsheet: a line for each method and seed, shares of 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = ["method", "seed", "steps", "miou", "gap_share", "time_s", "peak_memory_mib"]
    writer.writerow([*heads, *table.classes])
    for row in table.methods:
        for cell in row.cells:
            figures = [cell.miou, cell.gap_share, cell.time_s, cell.peak_memory_mib]
            writer.writerow([row.name, cell.seed, row.steps, *figures, *(cell.iou or ())])
    return text.getvalue()


def answers_to_markdown(
    answered: Mapping[str, Mapping[str, StageAnswers]], entries: Sequence[Entry]
) -> str:
    """Write the result of `questions.answers` as a section for each question, by rows."""
    order = [run for run in dict.fromkeys(entry.run for entry in entries) if run in answered]
    lines = [(name, stage, record) for name in order for stage, record in answered[name].items()]
    return "\n".join(["", _separation(lines), "", _precision(lines), "", _errors(lines), ""])


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; the first column has words, the others numbers."""
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def per_cent(value: float | None, digits: int = 1, unit: str = "") -> str:
    """Write a share of 1 in per cent; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}{unit}"


def _main_table(rows: Rows, table: ComparisonRecord) -> str:
    heads = ["method", "mIoU", "seeds", "share of the gap", "over source-only, 95 % over frames"]
    leader = next((summary.lead.over for _, summary in rows if summary.lead), "cag")
    heads += [f"over {leader}", "steps", "time", "peak memory"]
    body = []
    for row, summary in rows:
        memory = summary.peak_memory_mib
        body.append(
            [
                row.name,
                with_deviation(summary),
                str(summary.seeds),
                per_cent(summary.gap_share, digits=0, unit=" %"),
                _points(summary.gain),
                _points(summary.lead),
                str(row.steps),
                f"{summary.time_s or 0:.0f} s",
                "–" if memory is None else f"{memory:.0f} MiB",
            ]
        )
    described = [f"- **{row.name}**: {row.description}" for row, _ in rows if row.description]
    notes = [f"- {note}" for note in table.notes]
    missing = [row.name for row in table.methods if row.summary is None]
    if missing:
        notes.append(f"- not run yet: {', '.join(missing)}")
    return "\n\n".join([table_of(heads, body), "\n".join([*described, *notes])])


def _class_table(rows: Rows, classes: Sequence[str]) -> str:
    columns = [summary.iou or [None] * len(classes) for _, summary in rows]
    body = [
        [name, *(per_cent(column[index]) for column in columns)]
        for index, name in enumerate(classes)
    ]
    body.append(["**mean**", *(f"**{per_cent(summary.miou)}**" for _, summary in rows)])
    return "## By class\n\n" + table_of(["class", *(row.name for row, _ in rows)], body)


def _stage_table(rows: Sequence[ComparedMethod]) -> str:
    body = [
        [row.name, stage.name, str(stage.steps), with_deviation(stage), share]
        for row in rows
        if len(row.stages) > 1
        for stage in row.stages
        for share in [per_cent(stage.gap_share, digits=0, unit=" %")]
    ]
    if not body:
        return ""
    return "## By stage\n\n" + table_of(
        ["method", "stage", "steps", "mIoU", "share of the gap"], body
    )


def _budget(table: ComparisonRecord) -> str:
    lines = [f"- {name.replace('_', ' ')}: {value}" for name, value in table.budget.items()]
    return "## Budget of every row\n\n" + "\n".join(lines)


def with_deviation(summary: OverSeeds | ComparedStage) -> str:
    """Write a mIoU in per cent, with its deviation over seeds where there are several."""
    if summary.deviation is None:
        return per_cent(summary.miou)
    return f"{per_cent(summary.miou)} ± {per_cent(summary.deviation)}"


def _points(difference: Gain | None) -> str:
    return "–" if difference is None else difference.in_points()


def _separation(lines: Lines) -> str:
    rows = [
        [name, stage, *map(_number, (found.source, found.target, found.centroid_shift))]
        for name, stage, record in lines
        if (found := record.separation) is not None
    ]
    text = (
        "## RQ1: are the classes further apart, and the domains nearer?\n\n"
        "Between-class over within-class scatter of the features (each class weighs the same; more "
        "is better), and the distance of a class's centroid in the target from that in the source, "
        "over the mean distance of two classes (less is better).\n\n"
    )
    return text + table_of(
        ["run", "stage", "separation, source", "separation, target", "centroid shift"], rows
    )


def _precision(lines: Lines) -> str:
    rows: list[list[str]] = []
    heads: list[str] = []
    for name, stage, record in lines:
        for kind, points in (record.precision_at or {}).items():
            heads = [f"at {100 * coverage:.0f} %" for coverage in points]
            rows.append([name, stage, kind, *(per_cent(value) for value in points.values())])
    text = (
        "## RQ2: which kind of pseudo-label is the more reliable?\n\n"
        "Precision, in per cent, of the labels that a stage's labeller gives the target's test "
        "frames, where so many of the pixels are labelled; from curves over every threshold "
        "(STAGE/label_curves.json, by class too).\n\n"
    )
    return text + table_of(["run", "stage", "labels", *heads], rows)


def _errors(lines: Lines) -> str:
    rows = []
    for name, stage, record in lines:
        told = ", ".join(
            f"{kind} {per_cent(each.error)} of {per_cent(each.coverage)}"
            for kind, each in (record.label_error or {}).items()
        )
        rows.append([name, stage, per_cent(record.miou), told or "–"])
    text = (
        "## RQ3: do stages shed error or gather it?\n\n"
        "mIoU after each stage, and the error of the labels that it was trained on, with how much "
        "of the target they cover, in per cent.\n\n"
    )
    return text + table_of(["run", "stage", "mIoU", "label error"], rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
