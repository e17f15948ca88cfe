"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder below which built-in domains lie (or CAG_UDA_DATA; default: data)."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="KEY=VALUE changes the recipe, e.g. stages.warmup.steps=500 or seed=1."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Of weights, order, augmentation; sets `seed`.")]
Track = Annotated[
    str | None,
    typer.Option(help="Of tensorboard, wandb, mlflow, with commas; default: tensorboard."),
]
Accelerator = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[
    str, typer.Option(help="auto, 32, bf16 or 16; auto measures which is faster.")
]
Domain = Annotated[str, typer.Option(help="A built-in domain's name, or a domain file.")]
Split = Annotated[str, typer.Option(help="Which split of the domain.")]
Flip = Annotated[bool, typer.Option("--flip", help="Average over the mirrored image.")]
Scales = Annotated[
    list[float] | None, typer.Option(help="Average over this size of the image; may be repeated.")
]
Window = Annotated[
    str | None, typer.Option(help="HEIGHTxWIDTH in pixels: look piece by piece, overlapping.")
]
AlignCorners = Annotated[
    bool, typer.Option("--align-corners", help="Enlarge logits as the released CAG-UDA code does.")
]
ExactPrecision = Annotated[
    str, typer.Option("--precision", help="32 or bf16 (about 2 % of labels differ).")
]
Model = Annotated[str, typer.Argument(help="A model folder, a run, or a hub id.")]
