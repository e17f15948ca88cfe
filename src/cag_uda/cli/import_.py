"""`cag-uda import`: a checkpoint of somebody else's code becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cag_uda.cli.console import begin

if TYPE_CHECKING:
    from cag_uda.models.foreign import Foreign

_SHOWN = 8
"""Names that the console shows of those left out for one reason; the record has them all."""


def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="File of CAG-UDA, AdaptSegNet, ADVENT, DACS, DAFormer, SegFormer, DeepLab."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The new model folder.")],
    anchors: Annotated[
        Path | None, typer.Option(help="An anchor file of the released CAG-UDA code.")
    ] = None,
    family: Annotated[
        Literal[
            "auto",
            "cag",
            "adaptsegnet",
            "advent",
            "dacs",
            "segformer",
            "daformer",
            "torchvision",
            "smp",
        ],
        typer.Option(help="Code that saved it."),
    ] = "auto",
    domain: Annotated[
        str | None, typer.Option(help="A domain with its classes; default: as the checkpoint says.")
    ] = None,
) -> None:
    """Make a model folder of a checkpoint of other people's code."""
    console = begin(f"reading {checkpoint}")
    from cag_uda.prediction.importing import RECORD, import_checkpoint
    from cag_uda.runs.anchor_files import ANCHORS

    made = import_checkpoint(checkpoint, out, anchors=anchors, family=family, domain=domain)
    _describe(console, made.foreign)
    where = f"network: {out}; each name in {out / RECORD}"
    console.print(where, soft_wrap=True)
    if made.classes_with_anchors is not None:
        count = f"{made.classes_with_anchors} of {made.foreign.num_classes}"
        console.print(f"anchors of {count} classes in {out / ANCHORS}", soft_wrap=True)


def _describe(console: Console, foreign: Foreign) -> None:
    """Print the number of tensors that were placed, and those left out, by reason."""
    head = f"{foreign.family}: {foreign.config.decoder} on {foreign.config.backbone}"
    console.print(f"{head}, {foreign.num_classes} classes")
    console.print(f"placed: {len(foreign.placed)} tensors")
    reasons: dict[str, list[str]] = {}
    for name, why in foreign.left_out.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        console.print(f"left out: {len(names)} ({why}): {shown}", soft_wrap=True)
    for note in foreign.notes:
        console.print(f"note: {note}", soft_wrap=True)
