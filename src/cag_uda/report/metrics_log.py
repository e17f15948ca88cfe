"""Reads metrics.jsonl, the log of one stage."""

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from pydantic_core import from_json

from cag_uda.report.words import counted
from cag_uda.runs.records.base import parse_line
from cag_uda.runs.records.stage import MetricsLine


@dataclass
class Metrics:
    """metrics.jsonl: what training wrote down. Series are (step, value), in order of step."""

    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    miou: list[tuple[int, float]] = field(default_factory=list)
    images_per_s: float | None = None
    last_step: int = 0
    not_finite: dict[str, int] = field(default_factory=dict)
    """Loss name → first logged step at which it was not a number."""
    incomplete_at: int | None = None
    """The last step at which the stage was resumed with a log that had lost something."""


def read_metrics(file: Path, remarks: list[str]) -> Metrics:
    """Read the log of one stage, if it is there; what is wrong with it is added to the remarks.

    A last line that an interruption cut short is passed over.
    """
    metrics = Metrics()
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return metrics
    except OSError as error:
        remarks.append(f"{file.parent.name}/{file.name} cannot be read: {error.strerror}.")
        return metrics
    parsed = [parse_line(MetricsLine, line) for line in text.splitlines()]
    if parsed and parsed[-1] is None and _is_beginning(text.rpartition("\n")[2]):
        del parsed[-1]
    lines = [line for line in parsed if line is not None]
    if len(lines) < len(parsed):
        lost = counted(len(parsed) - len(lines), "line")
        remarks.append(f"{lost} of {file.parent.name}/{file.name} damaged and left out.")
    # A resumed stage logs the steps after its checkpoint again: the last word on a step holds.
    losses: dict[str, dict[int, float]] = {}
    miou: dict[int, float] = {}
    for line in lines:
        metrics.last_step = max(metrics.last_step, line.step)
        for name, value in (line.losses or {}).items():
            if math.isfinite(value):
                losses.setdefault(name, {})[line.step] = value
            else:
                metrics.not_finite.setdefault(name, line.step)
        if line.is_incomplete:
            metrics.incomplete_at = line.step
        score = (line.scores or {}).get("miou", math.nan)
        if math.isfinite(score):
            miou[line.step] = score
    speeds = [line.images_per_s for line in lines if line.images_per_s is not None]
    metrics.losses = {name: sorted(values.items()) for name, values in losses.items()}
    metrics.miou = sorted(miou.items())
    metrics.images_per_s = statistics.median(speeds) if speeds else None
    return metrics


def _is_beginning(text: str) -> bool:
    """Tell whether a line of the log may go on from a text, as one that was being written does."""
    first = '{"step": '
    if not text or not (text.startswith(first) or first.startswith(text)):
        return False
    try:
        json.JSONDecoder().raw_decode(text)
    except RecursionError:
        return False
    except ValueError:
        pass
    else:
        return False  # The line is whole, and more stands behind it, or it is none of a log.
    try:
        return isinstance(from_json(text, allow_partial=True), dict)
    except ValueError:
        return False
