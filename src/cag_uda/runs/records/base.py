"""Reading and writing of records, and the types of their values. Knows no particular file."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cag_uda.errors import RunError
from cag_uda.files import SUMS, is_sound, write_json

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""An IoU, a precision or a coverage, in [0, 1]."""
Ratio = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A ratio of two scatters or two distances, 0 or more."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
ColourLevel = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[ColourLevel, ColourLevel, ColourLevel]
"""8-bit RGB."""
FolderName = Annotated[str, Field(pattern=r"^[^/\\\x00]*[^/\\.\x00][^/\\\x00]*$")]
"""Name of a folder inside another: without separators, so that it cannot lead out of it."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or {"\\", "\0", ":"} & set(path):
        raise ValueError("wanted a path inside the folder of this file")
    return path


PathInside = Annotated[str, AfterValidator(_inside)]
"""A path relative to the folder of its file, and inside it."""


class Record(BaseModel):
    """A JSON object of a run."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_empty(cls, value: Any) -> Any:
        """Take null, where a list or a table is wanted, for an empty one."""
        if not isinstance(value, dict):
            return value
        made = {name for name, field in cls.model_fields.items() if field.default_factory}
        return {name: each for name, each in value.items() if each is not None or name not in made}

    def plain(self) -> dict[str, Any]:
        """List the values that were set; see `plain`."""
        return plain(self)

    def with_changes(self, **changes: Any) -> Self:
        """Copy the record with other values, checked."""
        return type(self).model_validate({**self.plain(), **changes})


def plain(record: BaseModel) -> dict[str, Any]:
    """List the values of a record that were set, for JSON, in the order of the fields."""
    return record.model_dump(exclude_unset=True, by_alias=True)


AnyRecord = TypeVar("AnyRecord", bound=BaseModel)


def write_record(path: Path, record: BaseModel) -> None:
    """Write and seal a record of a run. Raises RunError as `files.write_json` does."""
    write_json(path, plain(record), sealed=True)


def read_record(model: type[AnyRecord], path: Path, mend: str) -> AnyRecord:
    """Read a JSON file, after its checksum if it has one.

    Raises RunError, naming the file, what is wrong in it and what to do: the advice `mend`.
    """
    if path.exists() and is_sound(path) is False:
        raise RunError(
            f"{path} is damaged: it is not as it was written; {mend}; or, if you edited it "
            f"yourself, delete its line in {SUMS}"
        )
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = "damaged, or not written by this version of cag-uda"
        raise RunError(
            [*(f"{path}: {each}" for each in _problems(error)), f"{path} is {reason}: {mend}"]
        ) from error
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; check its path") from error


def read_if_there(model: type[AnyRecord], path: Path, mend: str) -> AnyRecord | None:
    """Read a JSON file as `read_record` does; None where there is none."""
    return read_record(model, path, mend) if path.is_file() else None


def parse_line(model: type[AnyRecord], line: str) -> AnyRecord | None:
    """Read one line of a log; None for one that was cut short or is something else."""
    try:
        return model.model_validate_json(line)
    except ValidationError:
        return None


def line_of(record: BaseModel) -> str:
    """Give a record as one line of a log."""
    return json.dumps(plain(record)) + "\n"


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False)[:5]:
        place = ".".join(str(part)[:80] for part in problem["loc"])
        yield f"{place or 'the file'}: {problem['msg'][:300]}"
