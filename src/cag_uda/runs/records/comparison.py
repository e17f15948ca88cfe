"""comparison.json (and ablation.json): what `cag-uda compare` writes and the comparison page shows.

One pair of domains and one budget, several methods, several seeds; a cell is one run. All shares
are in [0, 1]. A comparison that is under way is a good one with cells missing.

```json
{
  "name": "camvid-day-dusk",
  "source": "camvid-day/train",
  "target": "camvid-dusk/test",
  "classes": ["sky", "road"],
  "palette": [[128, 128, 128], [128, 64, 128]],
  "floor": "source-only",
  "oracle": "oracle",
  "seeds": [0, 1, 2],
  "methods": [
    {
      "name": "cag",
      "description": "anchors and pseudo-labels in three stages",
      "cells": [
        {
          "seed": 0,
          "miou": 0.483,
          "iou": [0.9, null],
          "gap_share": 0.62,
          "time_s": 812.0,
          "peak_memory_mib": 1460.0,
          "run": "cag-0"
        }
      ]
    }
  ]
}
```

`name` and `methods` must be there, and of a method its name, of a cell its seed; all else may be
left out or null. `classes` and `iou` are in the order of train ids; an IoU is null for a class in
neither truth nor prediction. `floor` and `oracle` name the methods that the share of the gap is
measured between. `gap_share` is (miou - floor) / (oracle - floor) with the floor and the oracle of
the same seed, may lie outside [0, 1], and is null where either was not run. `run` is the cell's run
folder, a name beside this file: the page takes pictures from it, of the stage that the method names
as `scored` (else of the last), and links to its report. `note` says in words why a cell has no
score.

A method may also have a `question`, under which it is grouped, a `summary` over its seeds, and the
`stages` up to the scored one. A summary's `gap_share` is of the means over seeds, `gain` over the
floor and `lead` over the method that all are held against; intervals are 95 % over frames, of the
mean over the seeds that both have; `deviation` is the sample standard deviation over seeds.

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

At the top, `kind` is "methods" or "ablation", `budget` a table of what every method was given, and
`notes` a list of what is to be known about the figures.

An ablation's file, ablation.json, may also have `answers` to the paper's research questions, by run
and stage, each a mean over seeds:

```json
{
  "cag": {
    "stage-1": {
      "miou": 0.45,
      "separation": {"source": 1.9, "target": 1.2, "centroid_shift": 0.4},
      "precision_at": {"anchor": {"0.1": 0.97, "0.25": 0.94}, "confidence": {"0.1": null}},
      "label_error": {"anchor": {"error": 0.27, "coverage": 0.4}}
    }
  }
}
```

`separation` is between-class over within-class scatter, `centroid_shift` a distance over the mean
distance of two classes; neither has a unit. `precision_at` goes from coverage to precision, by kind
of pseudo-label. What was not measured is left out or null. Of the runs the first beside the floor
is the one that the others vary; its curves are read from its run folders (`label_curves`).
"""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from cag_uda.runs.records.base import (
    Colour,
    Finite,
    FolderName,
    Ratio,
    Record,
    Share,
    read_record,
)
from cag_uda.runs.records.run import Gain


class Cell(Record):
    """One method with one seed."""

    seed: int
    miou: Share | None = None
    iou: list[Share | None] | None = None
    gap_share: Finite | None = None
    time_s: Finite | None = None
    peak_memory_mib: Finite | None = None
    run: FolderName | None = None
    note: str | None = None


class OverSeeds(Record):
    """Results of a method over all its seeds."""

    seeds: int | None = None
    """Number of seeds."""
    miou: Share | None = None
    deviation: Finite | None = None
    iou: list[Share | None] | None = None
    gap_share: Finite | None = None
    gain: Gain | None = None
    lead: Gain | None = None
    time_s: Finite | None = None
    peak_memory_mib: Finite | None = None


class ComparedStage(Record):
    """One stage of a method over the seeds that have it."""

    name: str
    steps: int | None = None
    """Steps that its network has taken in all stages so far."""
    miou: Share | None = None
    deviation: Finite | None = None
    gap_share: Finite | None = None


class ComparedMethod(Record):
    """One method with its runs."""

    name: str
    description: str = ""
    question: str = ""
    scored: str | None = None
    steps: int | None = None
    cells: list[Cell] = Field(default_factory=list)
    summary: OverSeeds | None = None
    """Summary over the seeds; None where no run has finished."""
    stages: list[ComparedStage] = Field(default_factory=list)


class SeparationAnswer(Record):
    """RQ1 of one stage's network: more of both separations is better, less of the shift."""

    source: Ratio | None = None
    target: Ratio | None = None
    source_by_pixels: Ratio | None = None
    target_by_pixels: Ratio | None = None
    centroid_shift: Ratio | None = None


class LabelError(Record):
    """RQ3 of one kind of pseudo-label: the wrong part of the labels, and how much is labelled."""

    error: Share | None = None
    coverage: Share | None = None


class StageAnswers(Record):
    """Measurements of one stage of one run; None where there are none."""

    miou: Share | None = None
    separation: SeparationAnswer | None = None
    precision_at: dict[str, dict[Share, Share | None]] | None = None
    """Kind of pseudo-label → coverage → precision."""
    label_error: dict[str, LabelError] | None = None


class ComparisonRecord(Record):
    """The whole file."""

    name: str
    kind: str | None = None
    source: str | None = None
    target: str | None = None
    classes: list[str] = Field(default_factory=list)
    palette: list[Colour] = Field(default_factory=list)
    floor: str | None = None
    oracle: str | None = None
    seeds: list[int] = Field(default_factory=list)
    budget: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    methods: list[ComparedMethod] = Field(min_length=1)
    answers: dict[str, dict[str, StageAnswers]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        count = len(self.classes)
        if self.palette and len(self.palette) < count:
            raise ValueError(f"palette has {len(self.palette)} colours for {count} classes")
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            raise ValueError("two methods have one name")
        for method in self.methods:
            for cell in method.cells:
                if cell.iou is not None and len(cell.iou) != count:
                    raise ValueError(
                        f"{method.name!r}, seed {cell.seed}: {len(cell.iou)} IoUs for {count} "
                        "classes"
                    )
        return self


def read_comparison(file: Path) -> ComparisonRecord:
    """Read comparison.json.

    Raises:
        RunError: if it is missing or cannot be understood, with all that is wrong in it.
    """
    return read_record(ComparisonRecord, file, "make the comparison again")
