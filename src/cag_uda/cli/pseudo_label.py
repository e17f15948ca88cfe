"""`cag-uda pseudo-label`: both kinds of pseudo-label of a split as PNGs, with their coverage."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cag_uda.cli import options
from cag_uda.cli.console import OnConsole, begin
from cag_uda.errors import DataError

if TYPE_CHECKING:
    from cag_uda.runs.records.prediction import Coverage


def pseudo_label(
    model: options.Model,
    domain: options.Domain,
    out: Annotated[Path, typer.Option(help="New folder for the labels.")],
    split: Annotated[str, typer.Option(help="Split of the domain.")] = "train",
    source: Annotated[
        str | None,
        typer.Option(
            help="Labelled domain to make anchors of; default: the model's, or its run's."
        ),
    ] = None,
    source_split: Annotated[str, typer.Option(help="Split of the source.")] = "train",
    margin: Annotated[
        str | None,
        typer.Option(help="KIND:VALUE, as in recipes, e.g. clearest:0.5; default: the run's."),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Least probability; default: the run's, or 0.95.")
    ] = None,
    score: Annotated[
        bool, typer.Option("--score", help="Read the split's labels too, for precision.")
    ] = False,
    forms: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            help="For annotation tools, beside the PNGs: coco, yolo, labelme, cvat, label-studio.",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    data_root: options.DataRoot = None,
    accelerator: options.Accelerator = "auto",
    precision: options.ExactPrecision = "32",
) -> None:
    """Label a split by anchors and by confidence: PNGs of train ids, with coverage by class."""
    console = begin(f"reading {model}")
    from cag_uda.prediction.pseudo_labels import Asked, pseudo_label_split

    asked = Asked(
        source=source,
        source_split=source_split,
        margin=margin,
        confidence=confidence,
        score=score,
        forms=tuple(name for each in forms or () for name in options.names_in(each)),
        overwrite=overwrite,
        data_root=data_root,
        accelerator=accelerator,
        precision=precision,
    )
    made, broken = pseudo_label_split(model, out, domain, split, asked, OnConsole(console))
    console.print(_table(made))
    console.print(f"{made.images} labels of each kind in {out}", soft_wrap=True)
    if broken:
        raise DataError([*broken, "the labels of all other images are written"])


def _table(made: "Coverage") -> Table:
    """Make one row a class: for each kind its share of the pixels, its coverage, its precision."""
    from cag_uda.report.words import number

    title = f"pseudo-labels of {made.domain}/{made.split}, in per cent"
    table = Table("class", title=title, box=None)
    columns: list[list[float | None]] = []
    for kind, found in made.kinds.items():
        shares = found.per_class
        for what, of_all, by_class in (
            ("pixels", found.coverage, shares.pixels),
            ("coverage", found.coverage, shares.coverage),
            ("precision", found.precision, shares.precision),
        ):
            if by_class:
                # Over the first of its columns alone: the table shall fit 80 characters.
                heading = kind if what == "pixels" else ""
                table.add_column(f"{heading}\n{what}", justify="right")
                columns.append([*by_class, of_all])
    for index, name in enumerate(made.classes):
        table.add_row(name, *(number(column[index]) for column in columns))
    table.add_section()
    table.add_row("all", *(number(column[-1]) for column in columns))
    return table
