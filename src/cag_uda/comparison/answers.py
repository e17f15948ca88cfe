"""The answers to the research questions as Markdown."""

from collections.abc import Sequence
from typing import Any

from cag_uda.comparison.pages import per_cent, table_of
from cag_uda.comparison.plan import Entry

Record = dict[str, Any]


def answers_to_markdown(answered: Record, entries: Sequence[Entry]) -> str:
    """Three sections, one for each question.

    Args:
        answered: as `cag_uda.comparison.questions.answers` gives it.
        entries: the rows, whose runs are told in their order.
    """
    order = [run for run in dict.fromkeys(entry.run for entry in entries) if run in answered]
    lines = [(name, stage, record) for name in order for stage, record in answered[name].items()]
    return "\n".join(["", _separation(lines), "", _precision(lines), "", _errors(lines), ""])


def _separation(lines: Sequence[tuple[str, str, Record]]) -> str:
    rows = [
        [name, stage, *(_number(record["separation"][key]) for key in _SEPARATIONS)]
        for name, stage, record in lines
        if record["separation"]
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


_SEPARATIONS = ("source", "target", "centroid_shift")


def _precision(lines: Sequence[tuple[str, str, Record]]) -> str:
    rows: list[list[str]] = []
    heads: list[str] = []
    for name, stage, record in lines:
        for kind, points in (record["precision_at"] or {}).items():
            heads = [f"at {100 * float(coverage):.0f} %" for coverage in points]
            rows.append([name, stage, kind, *(per_cent(value) for value in points.values())])
    text = (
        "## RQ2: which kind of pseudo-label is the more reliable?\n\n"
        "Precision, in per cent, of the labels that a stage's labeller gives the target's test "
        "frames, where so many of the pixels are labelled; from curves over every threshold "
        "(STAGE/label_curves.json, by class too).\n\n"
    )
    return text + table_of(["run", "stage", "labels", *heads], rows)


def _errors(lines: Sequence[tuple[str, str, Record]]) -> str:
    rows = []
    for name, stage, record in lines:
        errors = record["label_error"] or {}
        told = ", ".join(
            f"{kind} {per_cent(each['error'])} of {per_cent(each['coverage'])}"
            for kind, each in errors.items()
        )
        rows.append([name, stage, per_cent(record["miou"]), told or "–"])
    text = (
        "## RQ3: do stages shed error or gather it?\n\n"
        "mIoU after each stage, and the error of the labels that it was trained on, with how much "
        "of the target they cover, in per cent.\n\n"
    )
    return text + table_of(["run", "stage", "mIoU", "label error"], rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
