"""Reads a run folder into plain values.

A run that was interrupted, or whose target has no labels, is a good run with less to show: what
cannot be read is named in `RunRecord.remarks`. Only a folder that is no run is refused.
"""

import filecmp
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cag_uda.errors import RunError
from cag_uda.files import is_sound
from cag_uda.report.gallery import Sample
from cag_uda.report.metrics_log import Metrics, read_metrics
from cag_uda.runs.records.run import (
    CLASS_SHARES,
    DATA,
    ENVIRONMENT,
    VERDICT,
    ClassShares,
    Environment,
    Scores,
    StageScores,
    Verdict,
    read_class_shares,
    read_data_record,
    read_environment,
    read_reason,
    read_scores,
    read_verdict,
)
from cag_uda.runs.records.stage import (
    CRITERIA,
    METRICS,
    PSEUDO_LABELS,
    REACHED,
    CriteriaRecord,
    PseudoLabelScores,
    read_criteria,
    read_pseudo_labels,
    read_reached,
)

BY_VERDICT = "the verdict"
"""Choice of the delivered network by the verdict, which needs no label of the target."""

T = TypeVar("T")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class StageRecord:
    """One stage: its scores and what lies in its folder."""

    scores: StageScores
    finished: bool
    folder: Path
    metrics: Metrics
    pseudo_labels: dict[str, PseudoLabelScores]
    criteria: dict[int, dict[str, float]]
    """Steps taken → label-free criteria of the network as it then was."""

    def per_class_kinds(self, count: int) -> dict[str, PseudoLabelScores]:
        """Choose the kinds of pseudo-label whose scores are by class, for `count` classes."""
        return {
            kind: scores
            for kind, scores in self.pseudo_labels.items()
            if {len(scores.per_class.precision), len(scores.per_class.coverage)} <= {0, count}
            and (scores.per_class.precision or scores.per_class.coverage)
        }


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
    align_corners: bool
    """True if the network's cells lie on the pixels' corners, not on their centres."""
    delivered: str | None
    """Name of the stage whose network was delivered, where that is not just the last."""
    chosen_by: str | None
    """The label-free criterion by which it was chosen."""
    seed: int | None
    begins_from: str | None
    """The network before the first stage, in words."""
    few_labels: str | None
    """Images of the target that were trained on with labels, in words; None without any."""
    verdict: Verdict | None
    """Verdict without labels of the target; None where the run has none."""
    no_verdict: str | None
    """Why there is none, as the end of a sentence; None where that was not recorded."""
    class_shares: ClassShares | None
    """Class shares of both domains; None where the run has not estimated them."""
    environment: Environment
    remarks: list[str]
    """Remarks on what is missing or cannot be read, in words for the page."""


def read_run(path: Path) -> RunRecord:
    """Read what is in a run folder; what is not is named in its remarks.

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
    if recipe is not None and is_sound(path / "recipe.toml") is False:
        remarks.append("recipe.toml was edited or damaged after the run had written it.")
    plan = _parsed(recipe)
    data = _or_left_out(path / DATA, read_data_record, None, remarks)
    if data is not None and data.changed:
        remarks.append(f"The data changed while the run was stopped: {'; '.join(data.changed)}.")
    planned = _planned_stages(plan)
    listed = _with_unfinished_folders(path, scores, planned)
    finished = {stage.name for stage in scores.stages}
    seed = plan.get("seed", 0) if plan else None
    verdict = _or_left_out(path / VERDICT, read_verdict, None, remarks)
    no_verdict = _or_left_out(path / VERDICT, read_reason, None, [])
    criterion = _criterion(plan, verdict)
    delivered = _delivered(path, scores) if criterion else None
    if is_sound(path / "model" / "model.safetensors") is False:
        remarks.append(
            "model/model.safetensors is damaged: the page cannot tell which network was delivered."
        )
    elif criterion and delivered is None and finished >= set(planned):
        damaged = [
            each for each in map(_network_of, scores.stages) if is_sound(path / each) is False
        ]
        remarks += [
            f"{each.as_posix()} is damaged: the page cannot tell whether it was delivered."
            for each in damaged
        ] or [
            f"{criterion} chose a network from within a stage; the page shows the ends of stages."
        ]
    stages = [
        _read_stage(stage, path / "stages" / stage.folder, stage.name in finished, remarks)
        for stage in listed
    ]
    return RunRecord(
        path=path,
        scores=scores,
        stages=stages,
        awaited=[name for name in planned if name not in finished],
        samples=find_samples(path, [stage.folder for stage in listed]),
        recipe=None if recipe is None else _without_folders(recipe),
        align_corners=_table(plan, "segmenter").get("align_corners") is True,
        delivered=delivered,
        chosen_by=criterion,
        seed=seed if isinstance(seed, int) else None,
        begins_from=_begins_from(plan),
        few_labels=_few_labels(plan),
        verdict=verdict,
        no_verdict=no_verdict,
        class_shares=_class_shares(path, scores, remarks),
        environment=_read_environment(path / ENVIRONMENT, remarks),
        remarks=remarks,
    )


def _read_stage(
    scores: StageScores, folder: Path, finished: bool, remarks: list[str]
) -> StageRecord:
    records: list[CriteriaRecord] = _or_left_out(folder / CRITERIA, read_criteria, [], remarks)
    criteria = {record.step: record.criteria for record in records}
    known_step = max(criteria, default=0)
    if finished:
        known_step = max(known_step, scores.steps or 0)
    return StageRecord(
        scores=scores,
        finished=finished,
        folder=folder,
        metrics=_metrics_of(folder, finished, known_step, remarks),
        pseudo_labels=_or_left_out(folder / PSEUDO_LABELS, read_pseudo_labels, {}, remarks),
        criteria=criteria,
    )


def _metrics_of(folder: Path, finished: bool, known_step: int, remarks: list[str]) -> Metrics:
    """Read the log of a stage that has, by its other files, taken at least `known_step` steps."""
    path = folder / METRICS
    name = f"{folder.name}/{METRICS}"
    metrics = read_metrics(path, remarks)
    if finished and path.exists() and is_sound(path) is False:
        remarks.append(f"{name} was changed after its stage had ended: its curves may be wrong.")
    elif not finished and (step := _step_before_change(path, remarks)) is not None:
        remarks.append(
            f"{name} was changed or cut after the checkpoint of step {step}: its curves may be "
            "wrong."
        )
    elif metrics.last_step < known_step:
        remarks.append(
            f"{name} is incomplete: it ends at step {metrics.last_step}, and its stage has taken "
            f"{known_step}."
        )
    if metrics.incomplete_at is not None:
        remarks.append(
            f"{name} is incomplete: it was damaged before its stage was resumed at step "
            f"{metrics.incomplete_at}."
        )
    return metrics


def _step_before_change(log: Path, remarks: list[str]) -> int | None:
    """Find the step of the last checkpoint, if the log up to it has changed since; else None.

    What an unfinished stage has logged since its last checkpoint cannot be checked.
    """
    reached = _or_left_out(log.parent / REACHED, lambda _: read_reached(log.parent), None, remarks)
    if reached is None:
        return None
    try:
        return None if reached.is_begun_by(log.read_bytes()) else reached.step
    except FileNotFoundError:
        return reached.step
    except OSError:
        return None  # Named where the log is read.


def _read_scores(path: Path, remarks: list[str]) -> Scores:
    scores = read_scores(path)
    if scores is None:
        remarks.append("scores.json is not there yet: no stage has been scored.")
        return Scores(recipe=path.resolve().name, classes=[])
    return scores


def _read_text(file: Path, remarks: list[str]) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        remarks.append(f"{file.name} is missing.")
    except (OSError, UnicodeDecodeError) as error:
        remarks.append(f"{file.name} cannot be read: {error}.")
    return None


def _read_environment(file: Path, remarks: list[str]) -> Environment:
    if not file.is_file():
        remarks.append(f"{file.name} is missing.")
        return Environment()
    return _or_left_out(file, read_environment, Environment(), remarks)


def _class_shares(path: Path, scores: Scores, remarks: list[str]) -> ClassShares | None:
    found = _or_left_out(path / CLASS_SHARES, read_class_shares, None, remarks)
    if found is not None and found.classes != scores.classes:
        remarks.append(f"{CLASS_SHARES} is of other classes than scores.json and is left out.")
        return None
    return found


def _or_left_out(file: Path, read: Callable[[Path], T], otherwise: T, remarks: list[str]) -> T:
    """Read a file that the page can do without; one that is damaged is named in the remarks."""
    try:
        return read(file.parent)
    except RunError:
        remarks.append(f"{file.parent.name}/{file.name} cannot be understood and is left out.")
        return otherwise


def _parsed(recipe: str | None) -> dict[str, Any]:
    """Parse a recipe; empty if it is missing or not TOML."""
    try:
        return tomllib.loads(recipe or "")
    except tomllib.TOMLDecodeError:
        return {}


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    """Return one of a recipe's tables; empty if it is missing or no table."""
    table = tables.get(name)
    return table if isinstance(table, dict) else {}


def _planned_stages(plan: dict[str, Any]) -> list[str]:
    stages = plan.get("stages")
    tables = stages if isinstance(stages, list) else []
    return [str(stage["name"]) for stage in tables if isinstance(stage, dict) and "name" in stage]


def _without_folders(recipe: str) -> str:
    """Put names in place of this machine's folders in a recipe, for the page."""
    return re.sub(r'(?m)^(data_root|start) = ".*?([^"/\\\\]*)"$', r'\1 = "\2"', recipe)


def _begins_from(plan: dict[str, Any]) -> str | None:
    segmenter = plan.get("segmenter")
    if not isinstance(segmenter, dict):
        return None
    if "start" in segmenter:
        start = str(segmenter["start"])
        own = start.removeprefix("start/")
        return f"the network in {start}" if own == start else f"the network {own}"
    if "weights" in segmenter:
        return f"pretrained weights ({segmenter['weights']})"
    return "random weights"


def _few_labels(plan: dict[str, Any]) -> str | None:
    labelled = _table(_table(plan, "target"), "labelled")
    if not labelled:
        return None
    return f"{labelled.get('domain', 'the target')}, split {labelled.get('split', 'train')}"


def _criterion(plan: dict[str, Any], verdict: Verdict | None) -> str | None:
    """Name the label-free choice of the delivered network; None: it is the last one."""
    deliver = str(plan.get("deliver", "safe"))
    if deliver == "safe":
        return None if verdict is None else BY_VERDICT
    return None if deliver == "last" else deliver


def _network_of(stage: StageScores) -> Path:
    """Return the path of a stage's network below the run."""
    return Path("stages", stage.folder, "model", "model.safetensors")


def _delivered(path: Path, scores: Scores) -> str | None:
    """Find the stage whose final network is, byte by byte, the delivered one."""
    delivered = path / "model" / "model.safetensors"
    for stage in scores.stages:
        try:
            if filecmp.cmp(delivered, path / _network_of(stage), shallow=False):
                return stage.name
        except OSError:
            continue
    return None


def _with_unfinished_folders(path: Path, scores: Scores, planned: list[str]) -> list[StageScores]:
    """Add the stages under way, which have a folder but no line in scores.json yet."""
    known = {stage.folder for stage in scores.stages}
    listed = list(scores.stages)
    for folder in sorted(path.glob("stages/*"), key=numeric_order):
        if not folder.is_dir() or folder.name in known or folder.name.startswith("."):
            continue
        name = folder.name.split("-", 1)[-1]
        if not planned or name in planned:
            listed.append(StageScores(folder=folder.name, name=name, method="unfinished"))
    return listed


def find_samples(path: Path, stage_folders: list[str]) -> list[Sample]:
    """Find the sample images of a run, with the predictions of some stages, by folder."""
    samples = []
    for folder in sorted(filter(Path.is_dir, path.glob("samples/*")), key=numeric_order):
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


def numeric_order(folder: Path) -> tuple[int, str]:
    """Order 2 before 10, and "2-stage-1" before "10-stage-9"; names without a number last."""
    head = folder.name.split("-", 1)[0]
    return (int(head) if head.isdecimal() else 1 << 30, folder.name)
