"""`cag-uda export`: a network as one file that runs without this package."""

from pathlib import Path

from rich.console import Console

from cag_uda.prediction.export import export
from cag_uda.prediction.opening import height_and_width, open_model


def export_model(console: Console, model: str, path: Path, half: bool, size: str | None) -> None:
    """Write a network as ONNX or as a program of torch.export, and say how far the two agree.

    Raises:
        UserError: for a model that cannot be used, another ending, a size that is none, or a
            missing package.
    """
    size_px = None if size is None else height_and_width("--size", size)
    segmenter = open_model(model, "cpu")
    console.print(f"exporting {model}", highlight=False, soft_wrap=True)
    found = export(segmenter, path, half=half, size_px=size_px)
    elsewhere = (
        "; elsewhere the network itself prefers its label by a probability of "
        f"{found.largest_gap:.4f} at most"
        if found.agreement < 1
        else ""
    )
    sides = "H, W" if size_px is None else f"{size_px[0]}, {size_px[1]}"
    console.print(
        f"{path}: {path.stat().st_size / 2**20:.1f} MiB; takes uint8 RGB (1, {sides}, 3), "
        f"gives train ids (1, {sides})\n"
        f"labels equal on {100 * found.agreement:.3f} % of pixels{elsewhere}",
        highlight=False,
        soft_wrap=True,
    )
