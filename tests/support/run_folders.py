"""What a run leaves behind, without what may differ between two runs of one recipe: times."""

import hashlib
import json
from pathlib import Path
from typing import Any

_OF_THIS_RUN_ALONE = {"environment.json", "recipe.toml", "report.html", "SHA256SUMS", "data.json"}
_TIMES = {"elapsed_s", "images_per_s", "peak_memory_mib"}


def contents(run: Path) -> dict[str, Any]:
    """Every lasting file of a run by its path: JSON without times, a digest of all others."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_dir() or {name, path.name} & _OF_THIS_RUN_ALONE or "/tensorboard/" in name:
            continue
        if "/checkpoint/" in name:
            continue  # It holds times; its weights are those of the model folder.
        if path.suffix == ".json":
            found[name] = _without_times(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = [_without_times(json.loads(line)) for line in path.open()]
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def assert_same(run: Path, other: Path) -> None:
    """Two runs left the same: weights, anchors, scores, pictures and metrics, to the last bit."""
    first, second = contents(run), contents(other)
    assert first.keys() == second.keys()
    differing = [name for name in first if first[name] != second[name]]
    assert not differing


def metrics(run: Path) -> list[dict[str, Any]]:
    """The losses of all stages, record by record."""
    return [
        json.loads(line)["losses"]
        for path in sorted(run.glob("stages/*/metrics.jsonl"))
        for line in path.open()
        if "losses" in line
    ]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in _TIMES}
    if isinstance(value, list):
        return [_without_times(each) for each in value]
    return value
