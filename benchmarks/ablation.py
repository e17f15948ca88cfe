"""Ablations of one recipe's method on several pairs of domains, side by side, as Markdown.

Usage: python benchmarks/ablation.py FOLDER [FOLDER …] [--figure FILE]

Each FOLDER is the `--out` of a `cag-uda compare RECIPE --ablation`. With --figure, its curves are
drawn too: precision against coverage of both kinds of pseudo-label by stage, and mIoU over the
steps by number of stages.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

from cag_uda.comparison.pages import per_cent, table_of

Record = dict[str, Any]
COLOURS = {"anchor": "#1b6e8a", "confidence": "#d0661b"}


def read(folder: Path) -> Record:
    """The ablation's table with its answers."""
    table: Record = json.loads((folder / "ablation.json").read_text())
    return table


def rows_table(tables: list[Record]) -> str:
    """Every row on every pair: mIoU, and how far it is from the row that the others vary."""
    pairs = [pair_of(table) for table in tables]
    heads = ["row", "what", *(head for pair in pairs for head in (pair, "over the base"))]
    order = dict.fromkeys(row["name"] for table in tables for row in table["methods"])
    lines = [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for name in order:
        found = [row_of(table, name) for table in tables]
        described = next(row["description"] for row in found if row)
        cells = [cell for row in found for cell in (miou_of(row), lead_of(row))]
        lines.append(f"| {name} | {described} | {' | '.join(cells)} |")
    return "\n".join(lines)


def margins_table(tables: list[Record]) -> str:
    """Tabulate the error and coverage of each margin's labels, stage by stage, and the mIoU."""
    heads = ["margin", *(head for table in tables for head in (pair_of(table), "mIoU"))]
    rows = []
    margins = [row for row in tables[0]["methods"] if row["question"] == "margins"]
    for name in (row["name"] for row in margins):
        cells = []
        for table in tables:
            row = row_of(table, name)
            stages = table.get("answers", {}).get(run_of(row), {}).values()
            given = [stage["label_error"]["anchor"] for stage in stages if stage["label_error"]]
            cells += [", ".join(map(error_of, given)) or "–", miou_of(row)]
        rows.append([name, *cells])
    return table_of(heads, rows) if rows else ""


def error_of(given: dict[str, float]) -> str:
    """Write the error of labels and their coverage of the target, both in per cent."""
    return f"{per_cent(given['error'])} of {per_cent(given['coverage'])}"


def separation_table(tables: list[Record]) -> str:
    """RQ1 at the end of each run that was measured, and of the stages before the base's last."""
    heads = ["run, stage"]
    for table in tables:
        heads += [f"{pair_of(table)}: source", "target", "shift"]
    rows = []
    order = dict.fromkeys(
        (run, stage)
        for table in tables
        for run, stages in table.get("answers", {}).items()
        for stage, record in stages.items()
        if record["separation"] and (run in whole_of(table) or stage == list(stages)[-1])
    )
    for run, stage in order:
        cells = []
        for table in tables:
            record = table.get("answers", {}).get(run, {}).get(stage) or {}
            held = record.get("separation") or {}
            cells += [number(held.get(name)) for name in ("source", "target", "centroid_shift")]
        rows.append([f"{run}, {stage}", *cells])
    return table_of(heads, rows) if rows else ""


def labels_table(tables: list[Record]) -> str:
    """RQ2 and RQ3 of the base: precision at some coverages, and what the stage was trained on."""
    heads: list[str] = []
    rows = []
    for table in tables:
        base = whole_of(table)[-1]
        for stage, record in table.get("answers", {}).get(base, {}).items():
            for kind, points in (record["precision_at"] or {}).items():
                heads = [f"at {100 * float(coverage):.0f} %" for coverage in points]
                given = record["label_error"].get(kind)
                told = error_of(given) if given else "–"
                figures = [*map(per_cent, points.values()), told, per_cent(record["miou"])]
                rows.append([f"{pair_of(table)}, {stage}, {kind}", *figures])
    heads = ["pair, stage, labels", *heads, "given: error of coverage", "mIoU after"]
    return table_of(heads, rows) if rows else ""


def draw(folders: list[Path], tables: list[Record], file: Path) -> None:
    """One row a pair: the base's curves by stage, then mIoU by number of stages."""
    mpl.use("Agg")
    stages = 3
    figure, axes = pyplot.subplots(
        len(tables), stages + 1, figsize=(12, 2.9 * len(tables)), squeeze=False
    )
    for folder, table, row in zip(folders, tables, axes, strict=True):
        first = next(each for each in table["methods"] if each["name"] == whole_of(table)[-1])
        run = folder / first["cells"][0]["run"]
        files = sorted(run.glob("stages/*/label_curves.json"))
        for axis, curves in zip(row, files, strict=False):
            for kind, curve in json.loads(curves.read_text()).items():
                axis.plot(curve["coverage"], curve["precision"], label=kind, color=COLOURS[kind])
            axis.set_title(f"{pair_of(table)}\n{curves.parent.name.partition('-')[2]}", size=9)
            axis.set(xlabel="coverage", ylabel="precision", xlim=(0, 1), ylim=(0.3, 1))
            axis.legend(frameon=False)
        for each in table["methods"]:
            if each["name"].startswith("stages-") and each["summary"]:
                points = [(stage["steps"], 100 * stage["miou"]) for stage in each["stages"]]
                row[-1].plot(*zip(*points, strict=True), marker="o", ms=3, label=each["name"][-1])
        row[-1].set_title(f"{pair_of(table)}\nby number of stages", size=9)
        row[-1].set(xlabel="step", ylabel="mIoU, %")
        row[-1].legend(title="stages", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def whole_of(table: Record) -> list[str]:
    """Runs whose every stage is told: the floor, and the base."""
    base = next(row["name"] for row in table["methods"] if row["name"] != table["floor"])
    return [table["floor"], base]


def row_of(table: Record, name: str) -> Record | None:
    """A row by its name."""
    return next((row for row in table["methods"] if row["name"] == name), None)


def run_of(row: Record | None) -> str:
    """The run of a row's first seed, without the seed; nothing where it has not been run."""
    cells = row["cells"] if row else []
    return str(cells[0]["run"]).rpartition("-")[0] if cells else ""


def pair_of(table: Record) -> str:
    """The two domains, without their splits."""
    return " → ".join(table[side].partition("/")[0] for side in ("source", "target"))


def miou_of(row: Record | None) -> str:
    """Mean over seeds."""
    return per_cent(row["summary"]["miou"]) if row and row["summary"] else "–"


def lead_of(row: Record | None) -> str:
    """Points over the base, with the interval over frames."""
    lead = row and row["summary"] and row["summary"]["lead"]
    return "{points:+.1f} [{low:+.1f}, {high:+.1f}]".format(**lead) if lead else "–"


def number(value: float | None) -> str:
    """Two decimals."""
    return "–" if value is None else f"{value:.2f}"


def main() -> None:
    """Print the tables; draw the figure where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    tables = [read(folder) for folder in asked.folders]
    print(rows_table(tables))
    for table in (margins_table(tables), separation_table(tables), labels_table(tables)):
        if table:
            print(f"\n{table}")
    if asked.figure:
        draw(asked.folders, tables, asked.figure)


if __name__ == "__main__":
    main()
