"""`cag-uda suggest`: which images of the target to label next."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cag_uda.cli.console import OnConsole, begin, printable
from cag_uda.cli.options import Accelerator, DataRoot, ExactPrecision, Overwrite, names_in
from cag_uda.errors import DataError

if TYPE_CHECKING:
    from cag_uda.runs.records.suggestions import Suggestions

_WIDE = 110
"""Columns of a terminal that has room for the classes; the page names them too."""


def suggest(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    images: Annotated[int, typer.Option(min=1, help="Number of images to suggest.")] = 20,
    criteria: Annotated[
        str,
        typer.Option(
            help="anchors, uncertainty, disagreement, diversity, random; several by commas."
        ),
    ] = "disagreement,diversity",
    forms: Annotated[
        str,
        typer.Option("--as", help="Formats of proposals: coco, yolo, labelme, cvat, label-studio."),
    ] = "cvat",
    out: Annotated[Path | None, typer.Option(help="New folder; default: RUN/suggestions.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the criterion random.")] = 0,
    overwrite: Overwrite = False,
    data_root: DataRoot = None,
    accelerator: Accelerator = "auto",
    precision: ExactPrecision = "32",
) -> None:
    """Rank the target's images by what a label of each would teach, with proposals to correct."""
    console = begin(f"reading {run}")
    from cag_uda.prediction.suggest import Asked, suggest
    from cag_uda.report import write_suggestions

    asked = Asked(
        images=images,
        criteria=tuple(names_in(criteria)),
        forms=tuple(names_in(forms)),
        seed=seed,
        overwrite=overwrite,
        data_root=data_root,
        accelerator=accelerator,
        precision=precision,
    )
    folder = out or run / "suggestions"
    made = suggest(str(run), folder, asked, OnConsole(console))
    page = write_suggestions(folder)
    console.print(_table(made, console.width >= _WIDE))
    written = ", ".join(quote(str(folder / form)) for form in made.forms)
    console.print(
        f"why each: {page}; images to label: {folder / 'images'}; proposals: {written}",
        soft_wrap=True,
    )
    if made.left_out:
        raise DataError([*made.left_out, "all other images were looked at"])


def _table(made: Suggestions, is_wide: bool) -> Table:
    """Make one row an image: its ranks by the criteria; given room, its weightiest classes."""
    title = f"{len(made.images)} of {made.candidates} images of {made.domain}/{made.split} to label"
    named = [name for name in made.criteria if name in made.images[0].ranks]
    table = Table("", "image", title=title, caption="% of the others that it exceeds", box=None)
    table.columns[1].overflow = "fold"
    for name in named:
        table.add_column(name, justify="right", no_wrap=True)
    if is_wide:
        table.add_column("most in pixels predicted as")
    for number, each in enumerate(made.images, start=1):
        shares = [f"{100 * each.ranks[name]:.0f}" for name in named]
        classes = [", ".join(each.classes)] if is_wide else []
        table.add_row(str(number), printable(each.key), *shares, *classes)
    return table
