"""`cag-uda export`: a network as one file that runs without this package."""

from pathlib import Path

from rich.console import Console

from cag_uda.commands.models import open_model
from cag_uda.export import export


def export_model(console: Console, model: str, path: Path, half: bool) -> None:
    """Write a network as ONNX or as a program of torch.export, and say how far the two agree.

    Raises:
        UserError: for a model that cannot be used, another ending, or a missing package.
    """
    segmenter = open_model(model, "cpu")
    console.print(f"exporting {model}", highlight=False, soft_wrap=True)
    found = export(segmenter, path, half=half)
    elsewhere = (
        "; elsewhere the network itself prefers its label by a probability of "
        f"{found.largest_gap:.4f} at most"
        if found.agreement < 1
        else ""
    )
    console.print(
        f"{path}: {path.stat().st_size / 2**20:.1f} MiB; takes uint8 RGB (1, H, W, 3), "
        f"gives train ids (1, H, W)\n"
        f"labels equal on {100 * found.agreement:.3f} % of pixels{elsewhere}",
        highlight=False,
        soft_wrap=True,
    )
