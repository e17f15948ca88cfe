"""comparison.json (and ablation.json): what `cag-uda compare` writes and the comparison page shows.

One pair of domains and one budget, several methods, several seeds; a cell is one run. All shares
are in [0, 1]. A comparison that is under way is a good one with cells missing.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from cag_uda.runs.records.base import Colour, Finite, FolderName, Ratio, Record, Share, read_record
from cag_uda.runs.records.run import Gain


class Cell(Record):
    """One method with one seed."""

    seed: int
    miou: Share | None = None
    iou: list[Share | None] | None = None
    """IoU (K,); None for a class in neither ground truth nor prediction."""
    gap_share: Finite | None = None
    """(miou − floor) / (oracle − floor) of the same seed, which may lie outside [0, 1]."""
    time_s: Finite | None = None
    peak_memory_mib: Finite | None = None
    run: FolderName | None = None
    """Run folder beside this file: the page shows its pictures and links to its report."""
    note: str | None = None
    """Why there is no score, in words."""


class OverSeeds(Record):
    """Results of a method over all its seeds.

    Intervals are 95 % over frames, of the mean over the seeds that both methods have.
    """

    seeds: int | None = None
    """Number of seeds."""
    miou: Share | None = None
    deviation: Finite | None = None
    """Sample standard deviation over seeds."""
    iou: list[Share | None] | None = None
    gap_share: Finite | None = None
    """That of the means over seeds."""
    gain: Gain | None = None
    """Gain over the floor."""
    lead: Gain | None = None
    """Gain over the method that all are held against."""
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
    """Question under which it is grouped."""
    scored: str | None = None
    """Stage that is scored, and of which the page shows pictures; None: the last."""
    steps: int | None = None
    cells: list[Cell] = Field(default_factory=list)
    summary: OverSeeds | None = None
    """Summary over the seeds; None where no run has finished."""
    stages: list[ComparedStage] = Field(default_factory=list)
    """Stages up to the scored one."""


class SeparationAnswer(Record):
    """RQ1 of one stage's network: more of both separations is better, less of the shift.

    Separation is between-class over within-class scatter; the shift is in mean distances of two
    classes.
    """

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
    """"methods" or "ablation"."""
    source: str | None = None
    target: str | None = None
    classes: list[str] = Field(default_factory=list)
    palette: list[Colour] = Field(default_factory=list)
    floor: str | None = None
    """Method from which the share of the gap is measured."""
    oracle: str | None = None
    """Method up to which it is."""
    seeds: list[int] = Field(default_factory=list)
    budget: dict[str, Any] = Field(default_factory=dict)
    """What every method was given."""
    notes: list[str] = Field(default_factory=list)
    """What is to be known about the figures."""
    methods: list[ComparedMethod] = Field(min_length=1)
    answers: dict[str, dict[str, StageAnswers]] = Field(default_factory=dict)
    """Answers of an ablation to the paper's research questions, by run and stage, means over seeds.
    Of the runs the first beside the floor is the one that the others vary; its curves are in its
    run folders."""

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
    """Read comparison.json. Raises RunError with all that is wrong if it is missing or damaged."""
    return read_record(ComparisonRecord, file, "make the comparison again")
