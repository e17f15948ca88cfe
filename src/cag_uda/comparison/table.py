"""What the runs of a comparison hold, put together: `comparison.json`.

The file is as `cag_uda.report.comparison_file` describes it, and for each method also holds

```json
{
  "question": "RQ2",
  "steps": 1200,
  "scored": "stage-3",
  "summary": {
    "seeds": 3, "miou": 0.31, "deviation": 0.01, "iou": [0.9, null], "gap_share": 0.62,
    "gain": {"over": "source-only", "points": 9.1, "low": 8.0, "high": 10.3},
    "lead": {"over": "cag", "points": -1.2, "low": -2.0, "high": -0.3},
    "time_s": 240.0, "peak_memory_mib": 900.0
  },
  "stages": [{"name": "warmup", "steps": 600, "miou": 0.24, "deviation": 0.01, "gap_share": 0.4}]
}
```

A summary's `gap_share` is of the means over seeds; intervals are 95 % over frames, of the mean over
the seeds that both have; `deviation` is the sample standard deviation over seeds. At the top,
`kind` is "methods" or "ablation", `budget` what every row was given, and `notes` what is to be
known about the figures.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cag_uda.comparison.plan import Entry
from cag_uda.comparison.settings import ABLATIONS, FLOOR, ORACLE
from cag_uda.evaluation.bootstrap import bootstrap_of_means
from cag_uda.evaluation.evaluate import load_frames
from cag_uda.runs.folder import RunFolder

Record = dict[str, Any]


class Finished:
    """The stages that the runs of a comparison have finished.

    Args:
        entries: its rows.
        seeds: of its runs.
        out: the folder of its runs.
    """

    def __init__(self, entries: Sequence[Entry], seeds: Sequence[int], out: Path) -> None:
        self.entries, self.seeds, self.out = entries, seeds, out
        self._scores = {
            (run, seed): RunFolder(out / f"{run}-{seed}").read_scores() or {}
            for run in {entry.run for entry in entries}
            for seed in seeds
        }

    @property
    def about(self) -> Record:
        """What any of the runs tells of the domains and classes; empty where there is none."""
        found = [scores for scores in self._scores.values() if scores]
        about = found[0] if found else {}
        return {name: about.get(name) for name in ("target", "classes", "palette")}

    def stages(self, entry: Entry, seed: int) -> dict[str, Record]:
        """Scores of the finished stages of a row's run, by name, in order."""
        scores = self._scores[entry.run, seed]
        return {stage["name"]: stage for stage in scores.get("stages", [])}

    def scored(self, entry: Entry) -> str:
        """The stage that a row's figures are of: of several the best in the mean over seeds."""

        def mean(name: str) -> float:
            found = [
                stages[name]["miou"]
                for seed in self.seeds
                if name in (stages := self.stages(entry, seed))
            ]
            return statistics.mean(found) if found else -1.0

        return max(entry.scored, key=mean)

    def frames(self, entry: Entry, seed: int) -> Any:
        """Confusion matrices (N, K, K + 1) of the scored stage's frames, in the order of keys."""
        stage = self.stages(entry, seed)[self.scored(entry)]
        path = self.out / f"{entry.run}-{seed}" / "stages" / stage["folder"] / "frames.npz"
        evaluation = load_frames(path)
        order = sorted(range(len(evaluation.keys)), key=evaluation.keys.__getitem__)
        return evaluation.confusions[order]

    def seeds_of(self, entry: Entry) -> list[int]:
        """The seeds for which a row is scored."""
        name = self.scored(entry)
        return [seed for seed in self.seeds if name in self.stages(entry, seed)]


def make_table(
    finished: Finished, *, name: str, kind: str, source: str, budget: Record, notes: Sequence[str]
) -> Record:
    """Everything that the table and the page show.

    Args:
        finished: what the runs hold.
        name: of the recipe.
        kind: "methods" or "ablation".
        source: what is trained on, in words.
        budget: what every row was given.
        notes: what is to be known about the figures.
    """
    by_name = {entry.name: entry for entry in finished.entries}
    return {
        "name": name,
        "kind": kind,
        "source": source,
        **finished.about,
        "floor": FLOOR,
        "oracle": ORACLE if ORACLE in by_name else None,
        "seeds": list(finished.seeds),
        "budget": budget,
        "notes": list(notes),
        "methods": [_row(entry, by_name, finished) for entry in finished.entries],
    }


def _row(entry: Entry, by_name: Mapping[str, Entry], finished: Finished) -> Record:
    scored = finished.scored(entry)
    cells = [_cell(entry, seed, by_name, finished) for seed in finished.seeds_of(entry)]
    return {
        "name": entry.name,
        "description": entry.description,
        "question": entry.question,
        "scored": scored,
        "steps": _steps(entry, scored),
        "cells": cells,
        "summary": _summary(entry, cells, by_name, finished),
        "stages": _stages(entry, by_name, finished),
    }


def _cell(entry: Entry, seed: int, by_name: Mapping[str, Entry], finished: Finished) -> Record:
    """One method with one seed."""
    stages = finished.stages(entry, seed)
    scored = finished.scored(entry)
    until = list(stages.values())[: list(stages).index(scored) + 1]
    peaks = [stage["peak_memory_mib"] for stage in until if stage.get("peak_memory_mib")]
    miou = stages[scored]["miou"]
    return {
        "seed": seed,
        "miou": miou,
        "iou": stages[scored]["iou"],
        "gap_share": _share(
            miou, *(_mean_of(name, [seed], by_name, finished) for name in (FLOOR, ORACLE))
        ),
        "time_s": sum(stage["elapsed_s"] for stage in until),
        "peak_memory_mib": max(peaks, default=None),
        "run": f"{entry.run}-{seed}",
    }


def _summary(
    entry: Entry, cells: Sequence[Record], by_name: Mapping[str, Entry], finished: Finished
) -> Record | None:
    """One method over its seeds; None where none has finished."""
    if not cells:
        return None
    mious = [cell["miou"] for cell in cells]
    seeds = [cell["seed"] for cell in cells]
    memory = [cell["peak_memory_mib"] for cell in cells if cell["peak_memory_mib"] is not None]
    bounds = [_mean_of(name, seeds, by_name, finished) for name in (FLOOR, ORACLE)]
    return {
        "seeds": len(cells),
        "miou": statistics.mean(mious),
        "deviation": _deviation(mious),
        "iou": [_mean(values) for values in zip(*(cell["iou"] for cell in cells), strict=True)],
        "gap_share": _share(statistics.mean(mious), *bounds),
        "gain": _difference(entry, by_name.get(FLOOR), finished),
        "lead": _difference(entry, _leader(by_name), finished),
        "time_s": statistics.mean(cell["time_s"] for cell in cells),
        "peak_memory_mib": max(memory, default=None),
    }


def _leader(by_name: Mapping[str, Entry]) -> Entry | None:
    """The row that the others are held against: CAG, or the one that an ablation varies."""
    return next((by_name[name] for name in ABLATIONS if name in by_name), None)


def _stages(entry: Entry, by_name: Mapping[str, Entry], finished: Finished) -> list[Record]:
    """The stages of a row's run up to the scored one, each over the seeds that have it."""
    found = []
    names = [stage.name for stage in entry.recipe.stages]
    for name in names[: names.index(finished.scored(entry)) + 1]:
        seeds = [seed for seed in finished.seeds if name in finished.stages(entry, seed)]
        mious = [finished.stages(entry, seed)[name]["miou"] for seed in seeds]
        if mious:
            bounds = [_mean_of(each, seeds, by_name, finished) for each in (FLOOR, ORACLE)]
            found.append(
                {
                    "name": name,
                    "steps": _steps(entry, name),
                    "miou": statistics.mean(mious),
                    "deviation": _deviation(mious),
                    "gap_share": _share(statistics.mean(mious), *bounds),
                }
            )
    return found


def _steps(entry: Entry, stage: str) -> int:
    """Steps that the network of a stage has taken in all."""
    names = [each.name for each in entry.recipe.stages]
    return sum(each.steps for each in entry.recipe.stages[: names.index(stage) + 1])


def _mean_of(
    name: str, seeds: Iterable[int], by_name: Mapping[str, Entry], finished: Finished
) -> float | None:
    """Mean mIoU of a row over those of the seeds that it has; None where it has not all."""
    entry = by_name.get(name)
    if entry is None or not set(seeds) <= set(finished.seeds_of(entry)):
        return None
    scored = finished.scored(entry)
    return float(statistics.mean(finished.stages(entry, seed)[scored]["miou"] for seed in seeds))


def _share(miou: float, floor: float | None, ceiling: float | None) -> float | None:
    if floor is None or ceiling is None or ceiling == floor:
        return None
    return (miou - floor) / (ceiling - floor)


def _difference(entry: Entry, other: Entry | None, finished: Finished) -> Record | None:
    """Points of mIoU above another row over the seeds that both have, with its interval."""
    if other is None or other.name == entry.name:
        return None
    seeds = [seed for seed in finished.seeds_of(entry) if seed in finished.seeds_of(other)]
    if not seeds:
        return None
    mine, theirs = ([finished.frames(each, seed) for seed in seeds] for each in (entry, other))
    interval = bootstrap_of_means(mine, theirs)
    points = [100 * value for value in interval]
    return {"over": other.name, **dict(zip(("points", "low", "high"), points, strict=True))}


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None
