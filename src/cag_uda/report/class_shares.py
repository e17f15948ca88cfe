"""Class shares of both domains, side by side. Knows no other part of the page."""

from dataclasses import dataclass

from cag_uda.report.charts import Scale, bar_scale
from cag_uda.runs.records.run import ClassShares


@dataclass(frozen=True)
class ShareRow:
    """One class: its shares of the source and of the target, each in [0, 1]."""

    index: int
    name: str
    source: float
    target: float

    @property
    def points(self) -> float:
        """The target's share less the source's, in percentage points."""
        return 100 * (self.target - self.source)


@dataclass(frozen=True)
class SharesTable:
    """All classes, those that differ most first."""

    rows: list[ShareRow]
    scale: Scale
    total_variation: float
    target_images: int
    differ: bool
    """True if the domains show the classes in clearly different shares."""
    swallowing: str | None
    """The class that nearly all of the target is labelled as, unlike the source; None: none."""


def make_shares(found: ClassShares | None) -> SharesTable | None:
    """Lay out the shares of a run; None where it has none."""
    if found is None:
        return None
    both = zip(found.classes, found.source, found.target, strict=True)
    rows = [ShareRow(index, *each) for index, each in enumerate(both)]
    return SharesTable(
        rows=sorted(rows, key=lambda row: -abs(row.points)),
        scale=bar_scale([*found.source, *found.target]),
        total_variation=found.total_variation,
        target_images=found.target_images,
        differ=found.differ,
        swallowing=found.swallowing,
    )
