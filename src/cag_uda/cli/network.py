"""Commands that put a finished network to use: predict, pseudo-label, export."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cag_uda.cli.options import (
    Accelerator,
    AlignCorners,
    DataRoot,
    Domain,
    ExactPrecision,
    Flip,
    Model,
    Scales,
    Split,
    Window,
)


def predict(
    model: Model,
    inputs: Annotated[
        list[str],
        typer.Argument(help="Images, videos, folders, globs; - takes a list on standard input."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the predictions.")],
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            help="overlay, color, train-ids, label-ids, confidence; several by commas or repeated. "
            "[default: overlay]",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict anew what is done already.")
    ] = False,
    flip: Flip = False,
    scale: Scales = None,
    window: Window = None,
    align_corners: AlignCorners = False,
    accelerator: Accelerator = "auto",
    precision: ExactPrecision = "32",
) -> None:
    """Segment images, folders of images and videos; done ones are skipped."""
    from cag_uda.cli.predict import predict_files
    from cag_uda.prediction.opening import views_of

    predict_files(
        Console(),
        model,
        inputs,
        out,
        [kind.strip() for each in kinds or ["overlay"] for kind in each.split(",")],
        overwrite=overwrite,
        views=views_of(flip, scale, window, align_corners),
        accelerator=accelerator,
        precision=precision,
    )


def pseudo_label(
    model: Model,
    domain: Domain,
    out: Annotated[Path, typer.Option(help="New folder for the labels.")],
    split: Split = "train",
    source: Annotated[
        str | None,
        typer.Option(
            help="Labelled domain to make anchors of; default: the model's, or its run's."
        ),
    ] = None,
    source_split: Annotated[str, typer.Option(help="Which split of the source.")] = "train",
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace labels that are in --out already.")
    ] = False,
    data_root: DataRoot = None,
    accelerator: Accelerator = "auto",
    precision: ExactPrecision = "32",
) -> None:
    """Label a split by anchors and by confidence: PNGs of train ids, with coverage by class."""
    from cag_uda.cli.pseudo_label import Asked, pseudo_label_split

    asked = Asked(
        source=source,
        source_split=source_split,
        margin=margin,
        confidence=confidence,
        score=score,
        overwrite=overwrite,
        data_root=data_root,
        accelerator=accelerator,
        precision=precision,
    )
    pseudo_label_split(Console(), model, out, domain, split, asked)


def export(
    model: Model,
    file: Annotated[Path, typer.Argument(help="FILE.onnx, or FILE.pt2 for torch.export.")],
    half: Annotated[
        bool, typer.Option("--half", help="Compute in float16, for GPUs; half the size.")
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(help="HEIGHTxWIDTH in pixels that all images have; default: any size."),
    ] = None,
) -> None:
    """Write a network as one file: 8-bit RGB images in, train ids out."""
    from cag_uda.cli.export import export_model

    export_model(Console(), model, file, half, size)
