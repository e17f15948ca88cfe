"""Rows of a comparison, as data: `methods.toml`, `ablation.toml`, or a file of one's own."""

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from cag_uda.data.domains.schema_errors import did_you_mean
from cag_uda.data.files.toml import parse_toml, text_of
from cag_uda.errors import RecipeError
from cag_uda.recipes.schema import AnyMethod
from cag_uda.types import Config

FLOOR, ORACLE, BASE = "source-only", "oracle", "cag"
"""Rows between which the share of the gap is measured, and the one that variants change."""
ABLATIONS = {BASE: "ablation.toml", "cag-plus": "ablation-plus.toml"}
"""Rows that variants can change, and the package's file of variants for each."""


class PlannedStage(Config):
    """One stage of a method, in shares of the comparison's steps."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    method: AnyMethod
    share: float = Field(default=0.0, ge=0, le=1)
    """Share of all steps that the stage takes; 0 for a method that does not train."""
    rounds: int = Field(default=1, ge=1)
    """Number of times that the method prepares within the stage."""
    optimiser_of: Literal["first", "last"] | None = None
    """Stage of the recipe whose optimiser is used; None: the recipe's first one for the first
    stage, the last one that trains for all others."""


class Contender(Config):
    """One row of the comparison. `methods.toml` says what each setting means."""

    description: str = ""
    stages: tuple[PlannedStage, ...] | Literal["recipe"] | None = None
    run: str | None = None
    scored: tuple[str, ...] = ()
    loading: dict[str, Any] = Field(default_factory=dict)
    reads_target_labels: bool = False

    @model_validator(mode="before")
    @classmethod
    def _one_scored_stage_is_a_list(cls, table: Any) -> Any:
        if isinstance(table, dict) and isinstance(table.get("scored"), str):
            return {**table, "scored": [table["scored"]]}
        return table

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.stages is None) == (self.run is None):
            raise ValueError("a row has either `stages` of its own or the `run` of another row")
        if self.run is not None and not self.scored:
            raise ValueError("a row of another's run names the stage that is `scored`")
        if isinstance(self.stages, tuple):
            total = sum(stage.share for stage in self.stages)
            if abs(total - 1) > 1e-9:
                raise ValueError(f"the shares of its stages add up to {total:g}; wanted 1")
        return self


class Variant(Config):
    """One row of the ablation. `ablation.toml` says what each setting means."""

    question: str = ""
    description: str = ""
    method: dict[str, Any] = Field(default_factory=dict)
    loading: dict[str, Any] = Field(default_factory=dict)
    stages: int | None = Field(default=None, ge=1)
    rounds: int | None = Field(default=None, ge=1)
    warmup: bool = False
    scored: Literal["first", "trained"] | None = None


Row = TypeVar("Row", Contender, Variant)


def read_contenders(path: Path | None = None) -> dict[str, Contender]:
    """Read the methods by name, in the order of the file; None reads the package's.

    Raises:
        UserError: with all that is wrong with the file.
    """
    contenders = _read("methods.toml", path, Contender)
    problems = [f"no row {name!r}" for name in (FLOOR, ORACLE) if name not in contenders]
    problems += [
        f"{name}: no row {each.run!r} to take the run of"
        for name, each in contenders.items()
        if each.run is not None and contenders.get(each.run, each).stages is None
    ]
    if problems:
        raise RecipeError([f"{path or 'methods.toml'}: {problem}" for problem in problems])
    return contenders


def read_variants(path: Path | None = None, base: str = BASE) -> dict[str, Variant]:
    """Read a row's variants by name, in the order of the file; None reads the package's.

    Raises:
        UserError: with all that is wrong with the file.
    """
    return _read(ABLATIONS[base], path, Variant)


def choose(rows: dict[str, Row], wanted: list[str] | None) -> dict[str, Row]:
    """Choose rows by name, in the order of the file; all if none are named.

    Raises:
        RecipeError: for a name that is not there.
    """
    unknown = [name for name in wanted or () if name not in rows]
    if unknown:
        hint = did_you_mean(unknown[0], tuple(rows))
        raise RecipeError(f"no {', '.join(map(repr, unknown))}{hint}; there are {', '.join(rows)}")
    return {name: row for name, row in rows.items() if not wanted or name in wanted}


def _read(builtin: str, path: Path | None, row: type[Row]) -> dict[str, Row]:
    place = path or Path(str(files("cag_uda.comparison"))) / builtin
    if not place.is_file():
        raise RecipeError(f"no settings at {place}; check its path")
    tables = parse_toml(text_of(place, "settings"), str(place))
    try:
        return TypeAdapter(dict[str, row]).validate_python(tables)  # type: ignore[valid-type] # a type at run time
    except ValidationError as error:
        raise RecipeError(
            [
                f"{place}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors(include_url=False)
            ]
        ) from error
