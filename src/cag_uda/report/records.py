"""JSON files read into checked values. Knows no particular file."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cag_uda.errors import RunError

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""An IoU, a precision or a coverage, in [0, 1]."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
ColourLevel = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[ColourLevel, ColourLevel, ColourLevel]
"""8-bit RGB."""


FolderName = Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")]
"""Of a folder inside another: without separators, so that it cannot lead out of it."""


class Record(BaseModel):
    """A JSON object; keys that a later version adds are no error."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Gain(Record):
    """How far one network is above another, in mIoU points, with a bootstrap interval."""

    over: str
    points: Finite
    low: Finite | None = None
    high: Finite | None = None


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], file: Path, advice: str) -> Model:
    """Read one JSON file.

    Args:
        model: what it holds.
        file: where it is.
        advice: what to do if it cannot be understood, in words.

    Raises:
        RunError: naming the file and what is wrong in it.
    """
    try:
        return model.model_validate_json(file.read_bytes())
    except ValidationError as error:
        problems = [
            f"{file}: {'.'.join(str(part) for part in problem['loc']) or 'the file'}: "
            f"{problem['msg']}"
            for problem in error.errors(include_url=False)[:5]
        ]
        reason = "not written by this version of cag-uda, or damaged"
        raise RunError([*problems, f"{file} is {reason}: {advice}"]) from error
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}; check its path") from error
