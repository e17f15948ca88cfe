"""Puts suggestions on one page: which images of the target to label next, and why each."""

from collections.abc import Iterator
from pathlib import Path

from cag_uda.files import write_text
from cag_uda.report.pictures import embed_all
from cag_uda.report.templates import render_page
from cag_uda.report.words import percent
from cag_uda.runs.records.suggestions import (
    SUGGESTIONS,
    Suggestion,
    Suggestions,
    read_suggestions,
)

_BUDGET_BYTES = 16_000_000
_SAYS = {
    "anchors": "Its features lie farther from all that is known than those of",
    "uncertainty": "The network is less sure of it than of",
    "disagreement": "Classifier and anchors contradict each other more than in",
}
"""Criterion → what its being high means, as in "… 93 % of the others"."""
_HIGH = 0.5
"""Rank from which a criterion is a reason."""


def write_suggestions(folder: Path) -> Path:
    """Write OUT/suggestions.html, why each image was chosen, with pictures; returns its path.

    Raises:
        RunError: if suggestions.json is missing or damaged, or the page cannot be written.
    """
    page = folder / "suggestions.html"
    write_text(page, render(read_suggestions(folder / SUGGESTIONS), folder))
    return page


def render(suggestions: Suggestions, folder: Path) -> str:
    """Render the page as HTML; pictures are looked for in the folder of suggestions.json."""
    files = {
        (each.key, what): folder / place
        for each in suggestions.images
        for what, place in each.pictures.items()
    }
    embedded = embed_all(files.values(), _BUDGET_BYTES)
    reasoned = []
    for each in suggestions.images:
        own = [(what, embedded.get(files[each.key, what])) for what in each.pictures]
        shown = [(what, uri) for what, uri in own if uri is not None]
        reasoned.append((each, list(_reasons(each, suggestions)), shown))
    return render_page(
        "suggestions.html",
        suggestions.classes,
        suggestions.palette,
        suggestions=suggestions,
        images=reasoned,
    )


def _reasons(image: Suggestion, suggestions: Suggestions) -> Iterator[str]:
    """Yield the reasons for choosing an image, in whole sentences, the strongest first."""
    for name, rank in sorted(image.ranks.items(), key=lambda each: -each[1]):
        if name in _SAYS and rank >= _HIGH:
            which = "all others" if rank == 1 else f"{percent(rank, 0)} of the others"
            yield f"{_SAYS[name]} {which}."
    if image.classes:
        yield f"Most of this comes from pixels predicted as {', '.join(image.classes)}."
    if "random" in suggestions.criteria:
        yield f"Drawn at random, seed {suggestions.seed}."
    if image.apart is not None:
        like = "one with labels" if image.nearest is None else image.nearest
        yield f"Of the images chosen before or labelled, {like} is nearest: {image.apart:.2f} away."
    elif "diversity" in suggestions.criteria:
        yield "Chosen first: there was no image before to compare it with."
