"""Records beside the pictures of predictions and pseudo-labels."""

from typing import Any

from pydantic import Field

from cag_uda.runs.records.base import Record, Share

PREDICTIONS, COVERAGE = "predictions.jsonl", "coverage.json"


class PredictionSettings(Record):
    """First line of predictions.jsonl: the settings that the predictions depend on."""

    format: int = 1
    model: str | None = None
    """Fingerprint of the network's weights."""
    kinds: list[str] = Field(default_factory=list, validation_alias="as", serialization_alias="as")
    precision: str | None = None
    views: dict[str, Any] = Field(default_factory=dict)


class Predicted(Record):
    """Any other line: one input whose outputs are written, with the state of its file."""

    place: str
    """Path of the outputs below the folder, without ending."""
    input: str
    bytes: int | None = None
    modified_ns: int | None = None


class CoverageByClass(Record):
    """Shares (K,) of one kind of pseudo-label."""

    pixels: list[Share | None] = Field(default_factory=list)
    """Share of all pixels that are labelled as the class."""
    coverage: list[Share | None] = Field(default_factory=list)
    """Share that is labelled, of the pixels that would get the class without a threshold."""
    precision: list[Share | None] | None = None
    """Share of the class's labels that are right; None where no ground truth was read."""


class KindCoverage(Record):
    """One kind of pseudo-label over a split."""

    coverage: Share | None = None
    precision: Share | None = None
    per_class: CoverageByClass = Field(default_factory=CoverageByClass)


class Coverage(Record):
    """coverage.json, beside pseudo-labels that were written as pictures."""

    model: str
    domain: str
    split: str
    images: int
    anchors: str | None = None
    """Origin of the anchors, in words."""
    margin: dict[str, Any] = Field(default_factory=dict)
    confidence: float | None = None
    classes: list[str]
    kinds: dict[str, KindCoverage]
