"""Reads a run folder into plain values.

Knows the files of a run and what may be missing from it; knows nothing of figures or HTML. A run
that was interrupted, or whose target has no labels, is a good run with less to show: what cannot
be read is named in `RunRecord.remarks`. Only a folder that is no run is refused.
"""

import json
import math
import statistics
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cag_uda.errors import RunError

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""An IoU, a precision or a coverage, in [0, 1]."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
ColourLevel = Annotated[int, Field(ge=0, le=255)]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class _Record(BaseModel):
    """A JSON object of the run folder; keys that a later version adds are no error."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Gain(_Record):
    """How far a stage is above another one, in mIoU points, with a bootstrap interval."""

    over: str
    points: Finite
    low: Finite | None = None
    high: Finite | None = None


class StageScores(_Record):
    """One stage as scores.json lists it. Scores are None where the target has no labels."""

    # No separators: the name is joined to the run folder, and must not lead out of it.
    folder: str = Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")
    name: str
    method: str
    start: str | None = None
    steps: int | None = None
    elapsed_s: Finite | None = None
    miou: Share | None = None
    iou: list[Share | None] | None = None
    gain: Gain | None = None


class Scores(_Record):
    """scores.json: the two domains, the classes, and what every finished stage scores."""

    recipe: str
    source: str | None = None
    target: str | None = None
    classes: list[str]
    palette: list[tuple[ColourLevel, ColourLevel, ColourLevel]] = []
    stages: list[StageScores] = []

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        count = len(self.classes)
        if self.palette and len(self.palette) < count:
            raise ValueError(f"palette has {len(self.palette)} colours for {count} classes")
        for stage in self.stages:
            if stage.iou is not None and len(stage.iou) != count:
                raise ValueError(
                    f"stage {stage.name!r} has {len(stage.iou)} IoUs for {count} classes"
                )
        return self


class PerClass(_Record):
    """Precision and coverage of one kind of pseudo-label, class by class (K,)."""

    precision: list[Share | None] = []
    coverage: list[Share | None] = []


class PseudoLabelScores(_Record):
    """One kind of pseudo-label over the target: how much is labelled, how much of that is right."""

    precision: Share | None = None
    coverage: Share | None = None
    per_class: PerClass = PerClass()


@dataclass
class Metrics:
    """metrics.jsonl: what training wrote down. Series are (step, value), in order of step."""

    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    miou: list[tuple[int, float]] = field(default_factory=list)
    images_per_s: float | None = None
    last_step: int = 0
    not_finite: dict[str, int] = field(default_factory=dict)
    """Loss name → first logged step at which it was not a number."""


@dataclass(frozen=True)
class StageRecord:
    """One stage: its scores and what lies in its folder."""

    scores: StageScores
    finished: bool
    metrics: Metrics
    pseudo_labels: dict[str, PseudoLabelScores]

    def per_class_kinds(self, count: int) -> dict[str, PseudoLabelScores]:
        """The kinds of pseudo-label that are told class by class, for `count` classes."""
        return {
            kind: scores
            for kind, scores in self.pseudo_labels.items()
            if {len(scores.per_class.precision), len(scores.per_class.coverage)} <= {0, count}
            and (scores.per_class.precision or scores.per_class.coverage)
        }


@dataclass(frozen=True)
class Sample:
    """One target image with the pictures made of it."""

    name: str
    image: Path | None
    truth: Path | None
    predictions: dict[str, Path]
    """Stage folder → the coloured prediction of that stage's network."""


@dataclass(frozen=True)
class RunRecord:
    """Everything the page shows."""

    path: Path
    scores: Scores
    stages: list[StageRecord]
    awaited: list[str]
    """Names of the recipe's stages that have not finished."""
    samples: list[Sample]
    recipe: str | None
    environment: dict[str, Any]
    remarks: list[str]
    """What is missing or cannot be read, in words for the page."""


def read_run(path: Path) -> RunRecord:
    """Read a run folder.

    Args:
        path: RUN, as `cag-uda adapt` writes it.

    Returns:
        What is there; what is not is named in its remarks.

    Raises:
        RunError: if `path` is no run folder, or its scores.json cannot be understood.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise RunError(
            f"{path} {what}; wanted a run folder: give the one that `cag-uda adapt` wrote"
        )
    if not any((path / name).is_file() for name in ("scores.json", "recipe.toml")):
        raise RunError(
            f"{path} is no run folder: it holds neither scores.json nor recipe.toml; "
            "give the folder that `cag-uda adapt` wrote"
        )
    remarks: list[str] = []
    scores = _read_scores(path, remarks)
    recipe = _read_text(path / "recipe.toml", remarks)
    planned = _planned_stages(recipe)
    listed = _with_unfinished_folders(path, scores, planned)
    finished = {stage.name for stage in scores.stages}
    stages = [
        StageRecord(
            scores=stage,
            finished=stage.name in finished,
            metrics=_read_metrics(path / "stages" / stage.folder / "metrics.jsonl", remarks),
            pseudo_labels=_read_pseudo_labels(path / "stages" / stage.folder, remarks),
        )
        for stage in listed
    ]
    return RunRecord(
        path=path,
        scores=scores,
        stages=stages,
        awaited=[name for name in planned if name not in finished],
        samples=_find_samples(path, [stage.folder for stage in listed]),
        recipe=recipe,
        environment=_read_environment(path / "environment.json", remarks),
        remarks=remarks,
    )


def _read_scores(path: Path, remarks: list[str]) -> Scores:
    file = path / "scores.json"
    if not file.is_file():
        remarks.append("scores.json is not there yet: no stage has been scored.")
        return Scores(recipe=path.resolve().name, classes=[])
    return _parse(Scores, file)


Model = TypeVar("Model", bound=BaseModel)


def _parse(model: type[Model], file: Path) -> Model:
    """Read one JSON file into `model`; RunError names the file and all that is wrong in it."""
    try:
        return model.model_validate_json(file.read_bytes())
    except ValidationError as error:
        problems = [
            f"{file}: {'.'.join(str(part) for part in problem['loc']) or 'the file'}: "
            f"{problem['msg']}"
            for problem in error.errors(include_url=False)[:5]
        ]
        advice = "not written by this version of cag-uda, or damaged: run the last stage again"
        raise RunError([*problems, f"{file} is {advice} with --resume"]) from error
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}; check its permissions") from error


def _read_text(file: Path, remarks: list[str]) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        remarks.append(f"{file.name} is missing.")
    except (OSError, UnicodeDecodeError) as error:
        remarks.append(f"{file.name} cannot be read: {error}.")
    return None


def _read_environment(file: Path, remarks: list[str]) -> dict[str, Any]:
    text = _read_text(file, remarks)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        remarks.append(f"{file.name} cannot be read: {error}.")
        return {}
    return value if isinstance(value, dict) else {"environment": value}


def _planned_stages(recipe: str | None) -> list[str]:
    """Names of the recipe's stages; empty where there is no recipe to be understood."""
    try:
        stages = tomllib.loads(recipe or "").get("stages", [])
    except tomllib.TOMLDecodeError:
        return []
    if not isinstance(stages, list):
        return []
    return [str(stage["name"]) for stage in stages if isinstance(stage, dict) and "name" in stage]


def _with_unfinished_folders(path: Path, scores: Scores, planned: list[str]) -> list[StageScores]:
    """Add the stages under way, which have a folder but no line in scores.json yet."""
    known = {stage.folder for stage in scores.stages}
    listed = list(scores.stages)
    root = path / "stages"
    folders = sorted(root.iterdir(), key=_numeric_order) if root.is_dir() else []
    for folder in folders:
        if not folder.is_dir() or folder.name in known or folder.name.startswith("."):
            continue
        name = folder.name.split("-", 1)[-1]
        if not planned or name in planned:
            listed.append(StageScores(folder=folder.name, name=name, method="unfinished"))
    return listed


def _read_metrics(file: Path, remarks: list[str]) -> Metrics:
    """Read the log of one stage; a line that an interruption cut short is passed over."""
    metrics = Metrics()
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return metrics
    except OSError as error:
        remarks.append(f"{file.parent.name}/{file.name} cannot be read: {error.strerror}.")
        return metrics
    # A resumed stage logs the steps after its checkpoint again: the last word on a step holds.
    losses: dict[str, dict[int, float]] = {}
    miou: dict[int, float] = {}
    speeds: list[float] = []
    for line in lines:
        entry = _json_object(line)
        step = entry.get("step")
        if not isinstance(step, int):
            continue
        metrics.last_step = max(metrics.last_step, step)
        for name, value in _numbers(entry.get("losses")).items():
            if math.isfinite(value):
                losses.setdefault(name, {})[step] = value
            else:
                metrics.not_finite.setdefault(name, step)
        score = _numbers(entry.get("scores")).get("miou", math.nan)
        if math.isfinite(score):
            miou[step] = score
        speeds += list(_numbers({"speed": entry.get("images_per_s")}).values())
    metrics.losses = {name: sorted(values.items()) for name, values in losses.items()}
    metrics.miou = sorted(miou.items())
    metrics.images_per_s = statistics.median(speeds) if speeds else None
    return metrics


def _json_object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _numbers(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    return {
        str(name): float(number)
        for name, number in value.items()
        if isinstance(number, int | float) and not isinstance(number, bool)
    }


def _read_pseudo_labels(folder: Path, remarks: list[str]) -> dict[str, PseudoLabelScores]:
    file = folder / "pseudo_labels.json"
    if not file.is_file():
        return {}
    try:
        return {
            str(kind): PseudoLabelScores.model_validate(value)
            for kind, value in json.loads(file.read_text(encoding="utf-8")).items()
            if isinstance(value, dict)
        }
    except (OSError, ValueError, AttributeError):
        remarks.append(f"{folder.name}/{file.name} cannot be understood and is left out.")
        return {}


def _find_samples(path: Path, stage_folders: list[str]) -> list[Sample]:
    root = path / "samples"
    folders = [folder for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
    samples = []
    for folder in sorted(folders, key=_numeric_order):
        found = {
            stage: _picture(path / "stages" / stage / "samples", folder.name)
            for stage in stage_folders
        }
        sample = Sample(
            name=folder.name,
            image=_picture(folder, "image"),
            truth=_picture(folder, "truth"),
            predictions={stage: file for stage, file in found.items() if file is not None},
        )
        if sample.image or sample.truth or sample.predictions:
            samples.append(sample)
    return samples


def _picture(folder: Path, stem: str) -> Path | None:
    files = (folder / f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def _numeric_order(folder: Path) -> tuple[int, str]:
    """Order 2 before 10, and "2-stage-1" before "10-stage-9"; names without a number last."""
    head = folder.name.split("-", 1)[0]
    return (int(head) if head.isdecimal() else 1 << 30, folder.name)
