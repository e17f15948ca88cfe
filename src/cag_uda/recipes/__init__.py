"""Recipes: the built-in TOML files, and how one is found, changed, checked and written."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from pydantic import ValidationError

from cag_uda.data.domains.schema_errors import did_you_mean, problems_of
from cag_uda.data.files.toml import parse_toml, text_of
from cag_uda.errors import DataError, RecipeError

if TYPE_CHECKING:
    from cag_uda.recipes.schema import Recipe as Recipe


_NOT_OF_A_PACK = {"weights", "start", "images", "tuning", "lora_rank"}
"""Settings that are no form of the network: its start, its reading of photographs, its tuning."""


def __getattr__(name: str) -> Any:
    """Load the schema, and torch with it, when it is first used (PEP 562)."""
    if name != "Recipe":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cag_uda.recipes.schema import Recipe

    return Recipe


def builtin_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = Path(str(files("cag_uda.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(
    name_or_path: str | Path, changes: Sequence[str] = (), data_root: Path | None = None
) -> "Recipe":
    """Read a recipe.

    Args:
        name_or_path: a built-in recipe's name, or the path of a TOML file; domain files that it
            names are looked for beside it.
        changes: `KEY=VALUE` each, applied in order: KEY is a dotted path in which a stage goes by
            its name, its number, or `*` for all (`stages.*.steps`: for all that take steps); VALUE
            is TOML, or text where it is not. A stage that is repeated goes by its name
            (`stages.stage.steps`, for all repetitions), each repetition by its own
            (`stages.stage-2.steps`).
        data_root: folder below which built-in domains lie, in place of the recipe's.

    Raises:
        RecipeError: with every problem of the file at once.
        ModelError: if its pack is no pack.
    """
    from cag_uda.recipes.schema import repeated_names, written_out

    path = find_recipe(name_or_path)
    table = read_recipe_file(path)
    # What concerns a repeated stage as a whole comes first: others may name its repetitions.
    repeated = tuple(f"stages.{name}." for name in repeated_names(table.get("stages")))
    for change in changes:
        if change.strip().startswith(repeated):
            _apply(table, change)
    if "stages" in table:
        table["stages"] = written_out(table["stages"])
    for change in changes:
        if not change.strip().startswith(repeated):
            _apply(table, change)
    if data_root is not None:
        table["data_root"] = str(data_root.absolute())
    return completed(_with_absolute_paths(checked(table, f"{path}: "), path.parent))


def checked(table: Mapping[str, Any], place: str = "") -> "Recipe":
    """Make a recipe of its tables. Raises RecipeError, each problem after its `place`."""
    from cag_uda.recipes.schema import Recipe

    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise RecipeError([place + line for line in problems_of(error, Recipe)]) from error


def completed(recipe: "Recipe") -> "Recipe":
    """Take from a recipe's pack, if its file is there, what it does not say of the network.

    Raises UserError if the file is no pack, or the rest of the recipe does not suit its network.
    """
    from cag_uda.models.config import SegmenterConfig
    from cag_uda.models.pack import read_pack_header

    if recipe.pack is None or not Path(recipe.pack).is_file():
        return recipe
    theirs = read_pack_header(Path(recipe.pack)).config
    given, loading = recipe.segmenter.model_fields_set, recipe.loading
    wanted = set(SegmenterConfig.model_fields) - given - _NOT_OF_A_PACK
    segmenter = recipe.segmenter.model_copy(update={each: getattr(theirs, each) for each in wanted})
    if "width_px" not in loading.model_fields_set:
        loading = loading.model_copy(update={"width_px": theirs.input_width_px})
    made = recipe.model_copy(update={"segmenter": segmenter, "loading": loading})
    return checked(made.model_dump())


def read_recipe_file(path: Path) -> dict[str, Any]:
    """Read the tables of a recipe, unchecked. Raises RecipeError if the file is no recipe."""
    try:
        table = parse_toml(text_of(path, "recipe"), str(path))
    except DataError as error:
        raise RecipeError(error.problems) from error
    if "splits" in table and "stages" not in table:
        raise RecipeError(
            f"{path} is a domain file; want a recipe that names it as its source or target: "
            "`cag-uda recipes new SOURCE TARGET` writes one"
        )
    return table


def changed(recipe: "Recipe", changes: Sequence[str]) -> "Recipe":
    """Change a recipe as `load_recipe` does, and check it, which `model_copy` does not."""
    if not changes:
        # As it was given: what is left out may be filled in from a pack.
        checked(recipe.model_dump(exclude_unset=True))
        return recipe
    table = tomllib.loads(dump_recipe(recipe))
    for change in changes:
        _apply(table, change)
    return checked(table)


def as_toml(value: object) -> str:
    """Write a value as a change of a recipe holds it. Raises RecipeError if TOML has none such."""
    try:
        return tomli_w.dumps({"value": value}, multiline_strings=False).partition("=")[2].strip()
    except TypeError as error:
        raise RecipeError(f"a setting cannot be {value!r}: {error}") from error


def dump_recipe(recipe: "Recipe") -> str:
    """Write a recipe as TOML, complete: reading it gives the recipe back."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def find_recipe(name_or_path: str | Path) -> Path:
    """Find the file of a recipe. Raises RecipeError if there is none of that name or path."""
    path = Path(name_or_path)
    known = builtin_recipes()
    if str(name_or_path) not in known and (path / "recipe.toml").is_file():
        raise RecipeError(
            f"{path} is a run folder: give its recipe, {path / 'recipe.toml'}, or go on with the "
            "run by `cag-uda adapt RUN --resume`"
        )
    if path.suffix == ".toml" or len(path.parts) > 1:
        if not path.is_file():
            raise RecipeError(
                f"no recipe file at {path}; `cag-uda recipes` lists the built-in ones"
            )
        return path
    if str(name_or_path) not in known:
        hint = did_you_mean(str(name_or_path), known)
        raise RecipeError(
            f"no built-in recipe {str(name_or_path)!r}{hint}; there are {', '.join(known)}; "
            "a file of your own ends in .toml"
        )
    return known[str(name_or_path)]


def _apply(table: dict[str, Any], change: str) -> None:
    key, separator, text = change.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"--set wants KEY=VALUE, got {change!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    *parents, last = key.strip().split(".")
    holders: list[Any] = [table]
    for part in parents:
        holders = [child for holder in holders for child in _children(holder, part, change)]
    if (parents, last) == (["stages", "*"], "steps"):  # Others take none, and may not.
        holders = [stage for stage in holders if isinstance(stage, dict) and stage.get("steps")]
    for holder in holders:
        if not isinstance(holder, dict):
            raise RecipeError(f"--set {change}: {key!r} leads to no table")
        holder[last] = value


def _children(holder: Any, part: str, change: str) -> list[Any]:
    """Find what one part of a dotted key means inside a table or a list of tables."""
    if isinstance(holder, dict):
        return [holder.setdefault(part, {})]
    if isinstance(holder, list):
        if part == "*":
            return holder
        for index, child in enumerate(holder):
            if part in (str(index), isinstance(child, dict) and child.get("name")):
                return [child]
    known = [str(child.get("name")) for child in holder] if isinstance(holder, list) else []
    raise RecipeError(f"--set {change}: nothing called {part!r} there; there are {known}")


def _with_absolute_paths(recipe: "Recipe", folder: Path) -> "Recipe":
    """Make files that are named relative to the recipe absolute: a copy still works."""

    def absolute(name: str) -> str:
        is_path = name.endswith((".toml", ".safetensors")) or "/" in name
        return str((folder / name).resolve()) if is_path else name

    recipe, start = recipe.with_files(absolute), recipe.segmenter.start
    # What lies nowhere beside the recipe may be on the hub.
    if start is not None and (folder / start).exists():
        recipe = recipe.with_start(str((folder / start).resolve()))
    return recipe
