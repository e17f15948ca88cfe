"""A comparison as Markdown and as CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]


def to_markdown(table: Record) -> str:
    """The comparison for reading: methods, classes, stages, budget. mIoU in per cent.

    Args:
        table: as `cag_uda.comparison.table.make_table` gives it.
    """
    rows = [row for row in table["methods"] if row["summary"]]
    parts = [
        f"# {table['name']}: {table['source']} → {table['target']}",
        _main_table(rows, table),
        _class_table(rows, table["classes"] or []),
        _stage_table(rows),
        _budget(table),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(table: Record) -> str:
    """The comparison for a spreadsheet: one line a method and seed, shares of 1."""
    text = io.StringIO()
    classes = table["classes"] or []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["method", "seed", "steps", "miou", "gap_share", "time_s", "peak_memory_mib", *classes]
    )
    for row in table["methods"]:
        for cell in row["cells"]:
            figures = [cell[name] for name in ("miou", "gap_share", "time_s", "peak_memory_mib")]
            writer.writerow([row["name"], cell["seed"], row["steps"], *figures, *cell["iou"]])
    return text.getvalue()


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is of words, the others of numbers."""
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def per_cent(value: float | None) -> str:
    """A share of 1 in per cent with one decimal; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def _main_table(rows: Sequence[Record], table: Record) -> str:
    heads = ["method", "mIoU", "seeds", "share of the gap", "over the floor, 95 % over frames"]
    leader = next((row["summary"]["lead"]["over"] for row in rows if row["summary"]["lead"]), "cag")
    heads += [f"over {leader}", "steps", "time", "peak memory"]
    body = []
    for row in rows:
        summary = row["summary"]
        memory = summary["peak_memory_mib"]
        body.append(
            [
                row["name"],
                _with_deviation(summary),
                str(summary["seeds"]),
                _share(summary["gap_share"]),
                _points(summary["gain"]),
                _points(summary["lead"]),
                str(row["steps"]),
                f"{summary['time_s']:.0f} s",
                "–" if memory is None else f"{memory:.0f} MiB",
            ]
        )
    described = [f"- **{row['name']}**: {row['description']}" for row in rows if row["description"]]
    notes = [f"- {note}" for note in table["notes"]]
    missing = [row["name"] for row in table["methods"] if not row["summary"]]
    if missing:
        notes.append(f"- not run yet: {', '.join(missing)}")
    return "\n\n".join([table_of(heads, body), "\n".join([*described, *notes])])


def _class_table(rows: Sequence[Record], classes: Sequence[str]) -> str:
    body = [
        [name, *(per_cent(row["summary"]["iou"][index]) for row in rows)]
        for index, name in enumerate(classes)
    ]
    body.append(["**mean**", *(f"**{per_cent(row['summary']['miou'])}**" for row in rows)])
    return "## By class\n\n" + table_of(["class", *(row["name"] for row in rows)], body)


def _stage_table(rows: Sequence[Record]) -> str:
    body = [
        [row["name"], stage["name"], str(stage["steps"]), _with_deviation(stage), share]
        for row in rows
        if len(row["stages"]) > 1
        for stage in row["stages"]
        for share in [_share(stage["gap_share"])]
    ]
    if not body:
        return ""
    return "## By stage\n\n" + table_of(
        ["method", "stage", "steps", "mIoU", "share of the gap"], body
    )


def _budget(table: Record) -> str:
    lines = [f"- {name.replace('_', ' ')}: {value}" for name, value in table["budget"].items()]
    return "## Budget of every row\n\n" + "\n".join(lines)


def _with_deviation(summary: Record) -> str:
    if summary["deviation"] is None:
        return per_cent(summary["miou"])
    return f"{per_cent(summary['miou'])} ± {per_cent(summary['deviation'])}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _points(difference: Record | None) -> str:
    if difference is None:
        return "–"
    return "{points:+.1f} [{low:+.1f}, {high:+.1f}]".format(**difference)
