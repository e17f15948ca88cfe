"""Puts a comparison of methods on one page: which is best, by how much, at what cost."""

import statistics
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from cag_uda.files import write_text
from cag_uda.report.answers import make_answers
from cag_uda.report.charts import bar_scale
from cag_uda.report.gallery import Gallery, Look, Sample, make_gallery
from cag_uda.report.run_folder import find_samples, numeric_order
from cag_uda.report.summary import Tone, Verdict
from cag_uda.report.templates import render_page
from cag_uda.report.words import NO_BREAK, counted, percent, plain, signed
from cag_uda.runs.records.comparison import (
    ComparedMethod,
    ComparisonRecord,
    OverSeeds,
    read_comparison,
)


class Row(OverSeeds):
    """One method over its seeds."""

    of: ComparedMethod
    role: str
    """"floor", "oracle" or "method"."""
    reports: dict[int, str]
    """Seed → relative address of the run's report."""


def write_comparison(file: Path) -> Path:
    """Write the page beside a comparison.json or ablation.json, of the same name; returns its path.

    Raises:
        RunError: if the file cannot be understood, or the page cannot be written.
    """
    path = file.with_suffix(".html")
    write_text(path, render(read_comparison(file), file))
    return path


def render(comparison: ComparisonRecord, file: Path) -> str:
    """Render the page of a comparison whose runs lie beside the file it was read from."""
    folder = file.parent
    rows = [_row(method, comparison, folder) for method in comparison.methods]
    groups = [(name, list(group)) for name, group in groupby(rows, lambda row: row.of.question)]
    ranked = _ranked(rows)
    best = ranked[0] if ranked else None
    mious = _known(cell.miou for row in rows for cell in row.of.cells)
    return render_page(
        "comparison.html",
        comparison.classes,
        comparison.palette,
        comparison=comparison,
        file=file.name,
        rows=rows,
        groups=groups,
        verdict=_verdict(ranked),
        best=best,
        gains_over=next((row.gain.over for row in rows if row.gain), None),
        floor=_with_role(rows, "floor"),
        oracle=_with_role(rows, "oracle"),
        scale=bar_scale(mious or [1.0]),
        answers=make_answers(comparison, folder),
        gallery=_gallery(comparison, rows, best, folder),
        best_by_class=_best_by_class(comparison, rows),
        missing=_missing(comparison),
        budget={name: plain(value) for name, value in comparison.budget.items()},
    )


def _row(method: ComparedMethod, comparison: ComparisonRecord, folder: Path) -> Row:
    mious = _known(cell.miou for cell in method.cells)
    by_class = [cell.iou for cell in method.cells if cell.iou is not None]
    roles = {comparison.floor: "floor", comparison.oracle: "oracle"}
    gap_share = _mean(cell.gap_share for cell in method.cells)
    over_seeds = method.summary or OverSeeds(gap_share=gap_share)
    return Row(
        of=method,
        role=roles.get(method.name, "method"),
        miou=_mean(mious),
        deviation=statistics.stdev(mious) if len(mious) > 1 else None,
        iou=[_mean(column) for column in zip(*by_class, strict=True)],
        gap_share=over_seeds.gap_share,
        gain=over_seeds.gain,
        lead=over_seeds.lead,
        time_s=_mean(cell.time_s for cell in method.cells),
        peak_memory_mib=max(_known(cell.peak_memory_mib for cell in method.cells), default=None),
        reports={
            cell.seed: f"{quote(cell.run)}/report.html"
            for cell in method.cells
            if cell.run and (folder / cell.run / "report.html").is_file()
        },
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return statistics.mean(known) if known else None


def _with_role(rows: list[Row], role: str) -> Row | None:
    return next((row for row in rows if row.role == role and row.miou is not None), None)


def _ranked(rows: list[Row]) -> list[Row]:
    """Sort the scored methods, best first, without floor and oracle."""
    scored = [row for row in rows if row.role == "method" and row.miou is not None]
    return sorted(scored, key=lambda row: -(row.miou or 0.0))


def _verdict(ranked: list[Row]) -> Verdict:
    if not ranked:
        return Verdict("unknown", "No method has been scored yet.", "Make the page again later.")
    best = ranked[0]
    gap = "" if best.gap_share is None else f", {percent(best.gap_share, 0)} of the gap closed"
    headline = f"{best.of.name} scores highest: {percent(best.miou)}{NO_BREAK}mIoU{gap}."
    said = [_ahead(best, ranked[1])] if len(ranked) > 1 else []
    gain = best.gain
    if gain is None or gain.low is None or gain.high is None:
        return Verdict("unknown", headline, " ".join(said))
    said.append(
        f"It is {signed(gain.points)} points on {gain.over}, 95\u202f% interval over test frames "
        f"{signed(gain.low)} to {signed(gain.high)}."
    )
    tone: Tone = "good" if gain.low > 0 else "bad" if gain.high < 0 else "unsure"
    return Verdict(tone, headline, " ".join(said))


def _ahead(best: Row, second: Row) -> str:
    """Say how surely the first is ahead of the second: on how many of the seeds that both have."""
    theirs = {cell.seed: cell.miou for cell in second.of.cells if cell.miou is not None}
    both = [
        (cell.miou, theirs[cell.seed])
        for cell in best.of.cells
        if cell.miou is not None and cell.seed in theirs
    ]
    next_best = f"The next is {second.of.name} with {percent(second.miou)}"
    if not both:
        return f"{next_best}."
    ahead = sum(mine > other for mine, other in both)
    return f"{next_best}; {best.of.name} is ahead of it on {ahead} of {counted(len(both), 'seed')}."


def _best_by_class(comparison: ComparisonRecord, rows: list[Row]) -> list[float | None]:
    """Find the best IoU of each class among the methods, without floor and oracle."""
    columns = [row.iou for row in rows if row.role == "method" and row.iou]
    return [
        max(_known(column[index] for column in columns), default=None)
        for index in range(len(comparison.classes))
    ]


def _missing(comparison: ComparisonRecord) -> list[str]:
    """List what was not run, or has no score, in words."""
    said = []
    for method in comparison.methods:
        cells = {cell.seed: cell for cell in method.cells}
        for seed in comparison.seeds or sorted(cells):
            cell = cells.get(seed)
            if cell is None or cell.miou is None:
                note = cell.note if cell and cell.note else "not run yet"
                said.append(f"{method.name}, seed {seed}: {note}.")
    return said


def _gallery(
    comparison: ComparisonRecord, rows: list[Row], best: Row | None, folder: Path
) -> Gallery:
    """Show the sample images as each method's first run sees them."""
    merged: dict[str, Sample] = {}
    for method in comparison.methods:
        run = next((cell.run for cell in method.cells if cell.run and cell.miou is not None), None)
        if run is None:
            continue
        stage = _stage_folder(folder / run, method.scored)
        for sample in find_samples(folder / run, [stage] if stage else []):
            known = merged.setdefault(
                sample.name, Sample(sample.name, sample.image, sample.truth, {})
            )
            if stage in sample.predictions:
                known.predictions[method.name] = sample.predictions[stage]
    looks = [
        Look(name, name, "" if row.role in ("method", name) else row.role, row.miou)
        for row in rows
        for name in [row.of.name]
    ]
    return make_gallery(
        list(merged.values()),
        looks,
        comparison.palette,
        comparison.floor,
        best.of.name if best else None,
    )


def _stage_folder(run: Path, name: str | None) -> str | None:
    """Find the folder of a stage by its name; of the last stage if there is no name."""
    folders = sorted(run.glob("stages/[0-9]*"), key=numeric_order)
    named = [each.name for each in folders if name in (None, each.name.split("-", 1)[-1])]
    return named[-1] if named else None
