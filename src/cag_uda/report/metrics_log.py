"""Reads metrics.jsonl, the log of one stage. Knows no run."""

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Metrics:
    """metrics.jsonl: what training wrote down. Series are (step, value), in order of step."""

    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    miou: list[tuple[int, float]] = field(default_factory=list)
    images_per_s: float | None = None
    last_step: int = 0
    not_finite: dict[str, int] = field(default_factory=dict)
    """Loss name → first logged step at which it was not a number."""


def read_metrics(file: Path, remarks: list[str]) -> Metrics:
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
        for name, value in numbers_of(entry.get("losses")).items():
            if math.isfinite(value):
                losses.setdefault(name, {})[step] = value
            else:
                metrics.not_finite.setdefault(name, step)
        score = numbers_of(entry.get("scores")).get("miou", math.nan)
        if math.isfinite(score):
            miou[step] = score
        speeds += list(numbers_of({"speed": entry.get("images_per_s")}).values())
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


def numbers_of(value: object) -> dict[str, float]:
    """The entries of a JSON object that are numbers; of anything else, none."""
    if not isinstance(value, dict):
        return {}
    return {
        str(name): float(number)
        for name, number in value.items()
        if isinstance(number, int | float) and not isinstance(number, bool)
    }
