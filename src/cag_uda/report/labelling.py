"""Both kinds of pseudo-label: how precise, how many, and what they look like on an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cag_uda.report.charts import Chart, category_chart
from cag_uda.report.evidence import pseudo_label_pictures
from cag_uda.report.gallery import Sample, right_share
from cag_uda.report.pictures import NO_CLASS, Colours, at_cells
from cag_uda.report.run_folder import StageRecord
from cag_uda.runs.records.stage import PseudoLabelScores

_KIND_NAMES = {
    "anchor": "by anchor",
    "adapted": "by adapted anchors",
    "corrected": "by teacher and anchors",  # of CAG-plus in 0.1
    "confidence": "by confidence",
    "intersection": "where both agree",
}


def kind_name(kind: str) -> str:
    """Give the name of a kind of pseudo-label on the page."""
    return _KIND_NAMES.get(kind, kind)


@dataclass(frozen=True)
class Labelling:
    """Content of the section of pseudo-labels."""

    stages: list[StageRecord]
    charts: list[Chart]
    kinds: list[str]
    """Kinds of pseudo-label of which there are pictures."""
    pictures: list[dict[str, Any]]
    """Per stage: "name", and "kinds": kind → sample → {"uri", "precision", "coverage"}."""

    @property
    def samples(self) -> list[str]:
        """Names of the samples that have pictures, in order."""
        names = (
            sample
            for stage in self.pictures
            for drawn in stage["kinds"].values()
            for sample in drawn
        )
        return list(dict.fromkeys(names))


def make_labelling(
    stages: Sequence[StageRecord],
    samples: Sequence[Sample],
    palette: Sequence[tuple[int, int, int]],
    *,
    align_corners: bool = False,
) -> Labelling:
    """Gather the pseudo-labels of all stages, compared with the truths of the samples.

    Without a palette (K, 3) there are no pictures. With `align_corners` the network has its cells
    on the pixels' corners, not on their centres.
    """
    pictures = []
    if palette:
        colours = Colours(palette)
        truths = {
            sample.name: colours.ids(sample.truth) for sample in samples if sample.truth is not None
        }
        for stage in stages:
            kinds = {
                kind: {
                    sample: picture
                    for sample, file in files.items()
                    if (picture := _picture(file, colours, truths.get(sample), align_corners))
                }
                for kind, files in pseudo_label_pictures(stage.folder).items()
            }
            if any(kinds.values()):
                pictures.append({"name": stage.scores.name, "kinds": kinds})
    labelling = [stage for stage in stages if stage.pseudo_labels]
    kinds_drawn = (kind for stage in pictures for kind in stage["kinds"])
    return Labelling(labelling, _charts(labelling), list(dict.fromkeys(kinds_drawn)), pictures)


def _picture(file: Any, colours: Colours, truth: Any, corners: bool) -> dict[str, Any] | None:
    """Make a picture on the feature grid, with its own precision and coverage."""
    ids = colours.ids(file)
    if ids is None:
        return None
    cells = (ids.shape[0], ids.shape[1])
    on_grid = None if truth is None else at_cells(truth, cells, align_corners=corners)
    return {
        "uri": colours.data_uri(ids),
        "precision": right_share(ids, on_grid),
        "coverage": float((ids != NO_CLASS).mean()),
    }


def _charts(stages: list[StageRecord]) -> list[Chart]:
    """Draw precision and coverage by stage, a line for each kind; nothing for a single stage."""
    if len(stages) < 2:
        return []
    kinds = list(dict.fromkeys(kind for stage in stages for kind in stage.pseudo_labels))
    names = [stage.scores.name for stage in stages]
    missing = PseudoLabelScores()
    charts = []
    for title, y_label, key in (
        ("Precision", "% of the labelled pixels that are right", "precision"),
        ("Coverage", "% of all pixels that are labelled", "coverage"),
    ):
        series = {
            kind_name(kind): [
                getattr(stage.pseudo_labels.get(kind, missing), key) for stage in stages
            ]
            for kind in kinds
        }
        if any(value is not None for row in series.values() for value in row):
            charts.append(category_chart(title, y_label, names, series))
    return charts
