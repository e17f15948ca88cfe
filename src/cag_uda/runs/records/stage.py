"""The records in a stage's folder: metrics, pseudo-label quality, criteria, research questions."""

from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    RootModel,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from cag_uda.errors import RunError
from cag_uda.runs.records.base import Finite, PathInside, Ratio, Record, Share, read_if_there

METRICS, PSEUDO_LABELS, CRITERIA = "metrics.jsonl", "pseudo_labels.json", "criteria.json"
REACHED = "checkpoint/reached.json"
SEPARATION, LABEL_CURVES = "separation.json", "label_curves.json"


class LeftOut(Record):
    """A step that was skipped because a loss or gradient was not finite."""

    losses: dict[str, str]
    """Losses by name, as text: JSON has no NaN."""
    files: list[str]
    """Images of its batch."""


class MetricsLine(Record):
    """One line of metrics.jsonl: mean losses since the last one, or scores, or a skipped step."""

    step: int
    """Steps taken."""
    losses: dict[str, float] | None = None
    """Mean losses by name; a value may be NaN."""
    learning_rate: float | None = None
    images_per_s: float | None = None
    elapsed_s: float | None = None
    scores: dict[str, float] | None = None
    left_out: LeftOut | None = None
    is_incomplete: bool | None = None
    """True where the stage was resumed and earlier lines of the log were missing or changed."""


class Reached(Record):
    """checkpoint/reached.json: steps of the checkpoint, and a digest of the log up to there.

    The log grows on after it, so that a digest of the whole file would not last.
    """

    step: int
    """Steps taken."""
    log_bytes: int = Field(ge=0)
    log_sha256: str
    """SHA-256 of the first `log_bytes` bytes of metrics.jsonl."""

    @classmethod
    def of(cls, step: int, log: bytes) -> Self:
        """Describe a log as it is at a checkpoint."""
        return cls(step=step, log_bytes=len(log), log_sha256=sha256(log).hexdigest())

    def is_begun_by(self, log: bytes) -> bool:
        """Tell whether a log still begins with all that stood in it at the checkpoint."""
        return Reached.of(self.step, log[: self.log_bytes]) == self


def read_reached(stage_folder: Path) -> Reached | None:
    """Read the state of a stage's checkpoint; None for none. Raises RunError if damaged."""
    mend = "delete it: the log of its stage then counts as it is"
    return read_if_there(Reached, stage_folder / REACHED, mend)


class PerClass(Record):
    """Precision by pseudo-label and coverage by true class, each (K,)."""

    precision: list[Share | None] = Field(default_factory=list)
    coverage: list[Share | None] = Field(default_factory=list)


class PseudoLabelScores(Record):
    """One kind of pseudo-label over the target: how much is labelled, how much of that is right."""

    precision: Share | None = None
    coverage: Share | None = None
    per_class: PerClass = Field(default_factory=PerClass)


class StagePseudoLabels(RootModel[dict[str, PseudoLabelScores]]):
    """pseudo_labels.json: kind of pseudo-label → its scores."""


def read_pseudo_labels(stage_folder: Path) -> dict[str, PseudoLabelScores]:
    """Read the quality of a stage's pseudo-labels; empty for none. Raises RunError if damaged."""
    mend = "restore it, or delete it to go without"
    found = read_if_there(StagePseudoLabels, stage_folder / PSEUDO_LABELS, mend)
    return {} if found is None else found.root


class CriteriaRecord(Record):
    """Label-free criteria of the network after some steps of a stage."""

    step: int
    network: PathInside | None = None
    """Its model folder, relative to the stage's; None where it was not kept."""
    elapsed_s: Finite | None = None
    """Seconds that the measurement took."""
    criteria: dict[str, Finite]
    shares: list[Share] | None = None
    """Share of each class in the network's predictions on the target; None: of version 0.1."""


class StageCriteria(Record):
    """criteria.json: a record for each evaluation; the criteria of the last stand at the top."""

    model_config = ConfigDict(extra="ignore")

    source_validation: Literal["held-out", "train"] | None = None
    source_shares: list[Share] | None = None
    """Share of each class in the labels of the source images; None without a source."""
    records: list[CriteriaRecord]

    @model_serializer(mode="wrap")
    def _last_on_top(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        last = self.records[-1].criteria if self.records else {}
        return {**last, **dump(self)}


def read_criteria(stage_folder: Path) -> list[CriteriaRecord]:
    """Read a stage's criteria in order of steps. Raises RunError if the file is damaged."""
    return read_stage_criteria(stage_folder).records


def read_stage_criteria(stage_folder: Path) -> StageCriteria:
    """Read a stage's criteria with what they are of; without any where none were recorded."""
    found = read_if_there(StageCriteria, stage_folder / CRITERIA, "delete it and select again")
    if found is None:
        return StageCriteria(records=[])
    return found.with_changes(records=sorted(found.records, key=lambda record: record.step))


class DomainSeparation(Record):
    """Between-class over within-class scatter of one domain's features."""

    by_pixels: Ratio | None = None
    """Ratio with each class weighted by its pixels."""
    balanced: Ratio | None = None
    """Ratio with the same weight for each class."""


class Separation(Record):
    """separation.json (RQ1): the separation of the classes, and the shift between the domains."""

    source: DomainSeparation
    target: DomainSeparation
    centroid_shift: Ratio | None = None
    """Mean shift of the classes' centroids, in units of the mean distance of two classes."""
    centroid_shift_per_class: list[Ratio | None] = Field(default_factory=list)
    """Shift of each class's centroid (K,), in the same unit."""


Curve = list[Share | None]
"""Values at T thresholds; None where undefined."""


class CurvesPerClass(Record):
    """Curves by class, each (K, T): precision of labels that name it, coverage of its pixels."""

    precision: list[Curve]
    coverage: list[Curve]


class LabelCurves(Record):
    """Precision and coverage of one kind of pseudo-label at T rising thresholds."""

    thresholds: list[Finite]
    precision: Curve
    coverage: Curve
    per_class: CurvesPerClass

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        count = len(self.thresholds)
        precision, coverage = self.per_class.precision, self.per_class.coverage
        for curve in (self.precision, self.coverage, *precision, *coverage):
            if len(curve) != count:
                raise ValueError(f"a curve has {len(curve)} points for {count} thresholds")
        if len(precision) != len(coverage):
            raise ValueError(f"precision of {len(precision)} classes, coverage of {len(coverage)}")
        return self

    def points(self, class_id: int | None) -> list[tuple[float, float]]:
        """List (coverage, precision) of one class, or over all, by coverage."""
        precision, coverage = self.precision, self.coverage
        if class_id is not None:
            precision = self.per_class.precision[class_id]
            coverage = self.per_class.coverage[class_id]
        return sorted(
            (c, p)
            for c, p in zip(coverage, precision, strict=True)
            if c is not None and p is not None
        )


class StageCurves(RootModel[dict[str, LabelCurves]]):
    """label_curves.json (RQ2): kind of pseudo-label → its curves."""


_MEASURED_ANEW = "remove it and make the comparison again, which measures it anew"


def read_separation(stage_folder: Path) -> Separation | None:
    """Read how far apart a stage's classes lie; None for nothing. Raises RunError if damaged."""
    return read_if_there(Separation, stage_folder / SEPARATION, _MEASURED_ANEW)


def read_curves(stage_folder: Path, num_classes: int) -> dict[str, LabelCurves]:
    """Read the curves of a stage's kinds of pseudo-label; empty where they were not measured.

    Raises RunError if the file is damaged, or is of another number of classes.
    """
    path = stage_folder / LABEL_CURVES
    found = read_if_there(StageCurves, path, _MEASURED_ANEW)
    kinds = {} if found is None else found.root
    for kind, curves in kinds.items():
        if len(curves.per_class.precision) != num_classes:
            raise RunError(
                f"{path}: {kind}: curves of {len(curves.per_class.precision)} classes, but the "
                f"run has {num_classes}: {_MEASURED_ANEW}"
            )
    return kinds
