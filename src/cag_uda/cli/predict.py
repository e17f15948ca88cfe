"""`cag-uda predict`: label maps of images, folders of images, and videos."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cag_uda.cli import options
from cag_uda.cli.console import OnConsole, begin


def predict(
    model: options.Model,
    inputs: Annotated[
        list[str],
        typer.Argument(help="Images, videos, folders, globs; - takes a list on standard input."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the predictions.")] = Path("predictions"),
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            help="overlay, overlay-legend, color, train-ids, label-ids, confidence; for "
            "annotation tools coco, yolo, labelme, cvat, label-studio; several by commas or "
            "repeated. [default: overlay]",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict anew what is done already.")
    ] = False,
    flip: options.Flip = False,
    scale: options.Scales = None,
    window: options.Window = None,
    align_corners: options.AlignCorners = False,
    accelerator: options.Accelerator = "auto",
    precision: options.ExactPrecision = "32",
) -> None:
    """Segment images, folders of images and videos; done ones are skipped."""
    console = begin(f"reading {model}")
    from cag_uda.prediction.jobs import FROM_STDIN, split_list
    from cag_uda.prediction.predict import predict_files

    given = [each for each in inputs if each != FROM_STDIN]
    given += split_list(sys.stdin.read()) if len(given) < len(inputs) else []
    predict_files(
        model,
        given,
        out,
        [kind for each in kinds or ["overlay"] for kind in options.names_in(each)],
        overwrite=overwrite,
        views=options.views_of(flip, scale, window, align_corners),
        accelerator=accelerator,
        precision=precision,
        progress=OnConsole(console),
    )
