"""Options that several commands share, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cag_uda.errors import UserError

if TYPE_CHECKING:
    from cag_uda.models.views import Views
    from cag_uda.recipes import Recipe

RecipeName = Annotated[str, typer.Argument(help="A built-in recipe's name, or a TOML file.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
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
Seed = Annotated[
    int | None, typer.Option(help="Seed of weights, order, augmentation; sets `seed`.")
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Steps of every stage that trains, in place of its own.")
]
Track = Annotated[
    str | None,
    typer.Option(help="tensorboard, wandb, mlflow; several by commas; default: tensorboard."),
]
Accelerator = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to compute on.")]
Precision = Annotated[
    Literal["auto", "32", "bf16", "16"], typer.Option(help="auto measures which is faster.")
]
Domain = Annotated[str, typer.Option(help="A built-in domain's name, or a domain file.")]
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
    Literal["32", "bf16"],
    typer.Option("--precision", help="bf16 is faster on some devices; about 2 % of labels differ."),
]
Out = Annotated[Path | None, typer.Option(help="The file; default: a name of its own here.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
Model = Annotated[str, typer.Argument(help="A model folder, a run, or a hub id.")]


def names_in(text: str) -> list[str]:
    """Split names that an option takes with commas between."""
    return [name.strip() for name in text.split(",")]


def compute_changes(accelerator: str, precision: str) -> list[str]:
    """Give the changes of a recipe that `--accelerator` and `--precision` ask for."""
    changes = [] if accelerator == "auto" else [f"compute.accelerator={accelerator!r}"]
    return changes + ([] if precision == "auto" else [f"compute.precision={precision!r}"])


def recipe_of(
    name: str, changes: list[str], data_root: Path | None, steps: int | None = None
) -> Recipe:
    """Load a recipe with changes; with `steps`, each stage that trains takes so many.

    Raises RecipeError, naming all that is wrong.
    """
    from cag_uda.recipes import load_recipe

    if steps is not None:
        changes = [*changes, f"stages.*.steps={steps}"]
    return load_recipe(name, changes, data_root)


def views_of(
    flip: bool, scales: Sequence[float] | None, window: str | None, align_corners: bool
) -> Views:
    """Make views of `--flip`, `--scale`, `--window` and `--align-corners`.

    Raises UserError for a window that is not HEIGHTxWIDTH, or anything out of range.
    """
    from cag_uda.models.views import Views

    window_px = None if window is None else height_and_width("--window", window)
    return Views(flip, tuple(scales or (1.0,)), window_px, align_corners=align_corners)


def height_and_width(option: str, text: str) -> tuple[int, int]:
    """Read an option that is HEIGHTxWIDTH in pixels. Raises UserError if it is not."""
    sides = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", text)
    if sides is None:
        raise UserError(f"{option} is HEIGHTxWIDTH in pixels, such as 512x1024, got {text!r}")
    return int(sides[1]), int(sides[2])
