"""The answers to the research questions as Markdown."""

from collections.abc import Mapping, Sequence

from cag_uda.comparison.pages import per_cent, table_of
from cag_uda.comparison.plan import Entry
from cag_uda.runs.records.comparison import StageAnswers

Lines = Sequence[tuple[str, str, StageAnswers]]
"""Run, stage, and what was measured of it."""


def answers_to_markdown(
    answered: Mapping[str, Mapping[str, StageAnswers]], entries: Sequence[Entry]
) -> str:
    """Three sections, one for each question.

    Args:
        answered: as `cag_uda.comparison.questions.answers` gives it.
        entries: the rows, whose runs are told in their order.
    """
    order = [run for run in dict.fromkeys(entry.run for entry in entries) if run in answered]
    lines = [(name, stage, record) for name in order for stage, record in answered[name].items()]
    return "\n".join(["", _separation(lines), "", _precision(lines), "", _errors(lines), ""])


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
