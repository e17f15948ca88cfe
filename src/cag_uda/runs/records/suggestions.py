"""suggestions.json: the images of the target to label next, each with the reasons."""

from pathlib import Path

from pydantic import Field

from cag_uda.runs.records.base import Colour, Finite, PathInside, Record, Share, read_record

SUGGESTIONS = "suggestions.json"


class Suggestion(Record):
    """One image, and the reasons for choosing it."""

    key: str
    """Path of the image below the target's root, without extension."""
    image: str
    """The image on the machine that suggested it."""
    merit: Share
    """Mean of its ranks by the criteria."""
    ranks: dict[str, Share] = Field(default_factory=dict)
    """Criterion → the share of the other images that it exceeds."""
    values: dict[str, Finite] = Field(default_factory=dict)
    """Criterion → measured value."""
    classes: list[str] = Field(default_factory=list)
    """Predicted classes with the largest part in the image's measures, the largest first."""
    apart: Finite | None = None
    """Distance of its features from those of the nearest image that is chosen or labelled."""
    nearest: str | None = None
    """The key of that image; None for a labelled one, and for the first."""
    pictures: dict[str, PathInside] = Field(default_factory=dict)
    """Pictures by what they show, relative to this file."""


class Suggestions(Record):
    """Record of `cag-uda suggest`, the image that would teach most first."""

    run: str
    """The run folder, as it was given."""
    recipe: str
    domain: str
    split: str
    candidates: int
    """Images without labels that were looked at."""
    labelled: int = 0
    """Images that the run was trained on with labels; none is suggested again."""
    criteria: list[str]
    seed: int = 0
    forms: list[str] = Field(default_factory=list)
    """Annotation formats that the network's proposals are written in, each in a folder."""
    classes: list[str]
    palette: list[Colour] = Field(default_factory=list)
    images: list[Suggestion]
    left_out: list[str] = Field(default_factory=list)
    """Messages of images that could not be read."""


def read_suggestions(path: Path) -> Suggestions:
    """Read the file. Raises RunError if it is missing or damaged."""
    return read_record(Suggestions, path, "write it anew by `cag-uda suggest --overwrite`")
