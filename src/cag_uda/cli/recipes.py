"""`cag-uda recipes`: what is built in, and a recipe for two domains of one's own."""

import os
import tomllib
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from cag_uda.cli.schemas import schema_line
from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.schema_errors import problems_of
from cag_uda.errors import RecipeError, UserError
from cag_uda.files import write_text
from cag_uda.recipes import builtin_recipes, dump_recipe, load_recipe
from cag_uda.recipes.schema import Recipe

Machine: TypeAlias = Literal["small", "gpu"]
MACHINES: dict[str, Machine] = {"small": "small", "gpu": "gpu"}
LAST_METHODS = ("cag-plus", "cag")
"""With which a new recipe may end."""

_SIZES_LOOKED_AT = 8
# Widths that images are brought to, and crops: what trains in an hour on two cores, and what the
# field uses on a GPU of 12 GB and more.
_WIDTH_PX: dict[Machine, int] = {"small": 256, "gpu": 1280}
_MOST_CROP_PX: dict[Machine, tuple[int, int]] = {"small": (160, 192), "gpu": (512, 896)}
_CROP_SHARE: dict[Machine, float] = {"small": 0.67, "gpu": 0.8}


def list_recipes(console: Console) -> None:
    """Print a line for each built-in recipe."""
    table = Table("recipe", "what it does", box=None)
    for each in builtin_recipes():
        table.add_row(each, load_recipe(each).description)
    console.print(table)


def recipe_source(name: str, complete: bool) -> str:
    """A recipe as its file has it, or complete with every default.

    Args:
        name: a built-in recipe, or a file.
        complete: whether to name every setting.

    Raises:
        RecipeError: if there is no such recipe, or it is not right.
    """
    recipe = load_recipe(name)
    if complete:
        return dump_recipe(recipe)
    path = builtin_recipes().get(name, Path(name))
    return path.read_text(encoding="utf-8")


def new_recipe(
    console: Console,
    source: str,
    target: str,
    out: Path | None,
    machine: str,
    method: str,
    data_root: Path | None,
    overwrite: bool,
) -> None:
    """Write a whole recipe for two domains, commented, and the schema for editors beside it.

    Args:
        console: where to say what comes next.
        source: the labelled domain, built-in or a file.
        target: the domain to adapt to.
        out: the file; None: SOURCE-to-TARGET.toml in the current folder.
        machine: "small" for two cores, "gpu" for one GPU.
        method: with which it ends, "cag-plus" or, in the paper's stages, "cag".
        data_root: folder below which built-in domains lie.
        overwrite: whether the file may be there already.

    Raises:
        UserError: if the domains do not fit each other, or the file is there already.
    """
    if machine not in MACHINES:
        raise UserError(f"--machine is {' or '.join(MACHINES)}, got {machine!r}")
    if method not in LAST_METHODS:
        raise UserError(
            f"--method is {' or '.join(LAST_METHODS)}, got {method!r}; for the others, compare "
            "with `cag-uda compare`"
        )
    domains = Domain.open(source, data_root), Domain.open(target, data_root)
    out = out or Path(f"{domains[0].name}-to-{domains[1].name}.toml")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already; choose another --out, or give --overwrite")
    text = recipe_text(*domains, source, target, out.parent, MACHINES[machine], method)
    try:
        Recipe.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise RecipeError(problems_of(error, Recipe)) from error
    write_text(out, f"{schema_line('recipe', out.parent)}\n{text}")
    console.print(
        f"{out} is written: read it, then run cag-uda check {out} and cag-uda adapt {out}",
        highlight=False,
        soft_wrap=True,
    )


def recipe_text(
    source: Domain,
    target: Domain,
    source_name: str,
    target_name: str,
    folder: Path,
    machine: Machine,
    method: str,
) -> str:
    """The TOML of a recipe.

    Args:
        source: the labelled domain.
        target: the one to adapt to.
        source_name: as the user named it.
        target_name: as the user named it.
        folder: that the recipe will lie in.
        machine: what it shall run on.
        method: of LAST_METHODS.

    Raises:
        UserError: if the source has no labels, or the two have different classes.
    """
    _refuse_unequal_classes(source, target)
    labelled = [split for split in source.splits if source.is_labelled(split)]
    if not labelled:
        raise UserError(
            f"domain {source.name!r} has no labelled split; the source must have labels: give the "
            "labelled domain first"
        )
    scored = [split for split in ("test", "val") if split in target.splits]
    source_split = "train" if "train" in labelled else labelled[0]
    target_split = "train" if "train" in target.splits else target.splits[0]
    width_px, crop_px = _sizes(source, source_split, target, target_split, machine)
    templates = Environment(
        loader=PackageLoader("cag_uda", "recipes"),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(f"new-{machine}.toml.jinja").render(
        name=f"{source.name}-to-{target.name}",
        source=_named(source_name, folder),
        source_split=source_split,
        target=_named(target_name, folder),
        target_split=target_split,
        method=method,
        test=next((split for split in scored if target.is_labelled(split)), None),
        width_px=width_px,
        crop_px=list(crop_px),
    )


def _refuse_unequal_classes(source: Domain, target: Domain) -> None:
    spaces = source.label_space, target.label_space
    if spaces[0] is None or spaces[1] is None or spaces[0].names == spaces[1].names:
        return
    listed = [", ".join(space.names) for space in spaces if space is not None]
    raise UserError(
        f"domain {source.name!r} has the classes {listed[0]}; {target.name!r} has {listed[1]}: "
        "give both the same classes in the same order"
    )


def _sizes(
    source: Domain, source_split: str, target: Domain, target_split: str, machine: Machine
) -> tuple[int | None, tuple[int, int]]:
    """Width to bring images to, None for their own, and (height, width) of crops, in pixels."""
    shapes = []
    for domain, split in ((source, source_split), (target, target_split)):
        items = domain.items(split, with_labels=False)
        step = max(1, len(items) // _SIZES_LOOKED_AT)
        shapes.append([domain.read_image(item).shape[:2] for item in items[::step]])
    widest = max(int(np.median([width for _, width in each])) for each in shapes)
    height, width = np.median(shapes[1], axis=0)
    width_px = min(widest, _WIDTH_PX[machine])
    resized = (height * width_px / width, width_px)
    crop_px = tuple(
        max(32, min(most, round(_CROP_SHARE[machine] * side / 16) * 16))
        for side, most in zip(resized, _MOST_CROP_PX[machine], strict=True)
    )
    are_alike = all(shape == shapes[0][0] for each in shapes for shape in each)
    is_own_width = are_alike and widest <= _WIDTH_PX[machine]
    return None if is_own_width else width_px, (crop_px[0], crop_px[1])


def _named(domain: str, folder: Path) -> str:
    """A domain as a recipe in `folder` names it: files relative to it."""
    if not (domain.endswith(".toml") or "/" in domain or os.sep in domain):
        return domain
    path = Path(os.path.relpath(os.path.realpath(domain), os.path.realpath(folder))).as_posix()
    return path if path.endswith(".toml") or "/" in path else f"./{path}"
