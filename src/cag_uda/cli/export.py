"""`cag-uda export`: a network as one file that runs without this package."""

from pathlib import Path
from typing import Annotated

import typer

from cag_uda.cli.console import begin
from cag_uda.cli.options import Model, height_and_width


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
    console = begin(f"reading {model}")
    from cag_uda.prediction.export import check_exporter, export
    from cag_uda.prediction.opening import open_model

    size_px = None if size is None else height_and_width("--size", size)
    check_exporter(file)
    segmenter = open_model(model, "cpu")
    found = export(segmenter, file, half=half, size_px=size_px, progress=begin)
    elsewhere = (
        "; elsewhere the network itself prefers its label by a probability of "
        f"{found.largest_gap:.4f} at most"
        if found.agreement < 1
        else ""
    )
    sides = "H, W" if size_px is None else f"{size_px[0]}, {size_px[1]}"
    console.print(
        f"{file}: {file.stat().st_size / 2**20:.1f} MiB; takes uint8 RGB (B, {sides}, 3), "
        f"gives train ids (B, {sides})\n"
        f"labels equal on {100 * found.agreement:.3f} % of pixels{elsewhere}",
        soft_wrap=True,
    )
