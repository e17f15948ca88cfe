"""The log of a stage: `metrics.jsonl`, and the same for those whom the run tells."""

import json
from pathlib import Path
from typing import Any

from cag_uda.files import unwritable, write_text
from cag_uda.training.tracking import Trackers, numbers_of

_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends records of a stage.

    Args:
        folder: of the stage.
        step: steps already taken; records beyond it, which a resumed run repeats, are dropped.
        trackers: told the same.

    Raises:
        RunError: if the disk is full or gone.
    """

    def __init__(self, folder: Path, step: int, trackers: Trackers) -> None:
        self._path = folder / _FILE
        write_text(self._path, "".join(_kept(self._path, step)))
        self._trackers = trackers
        trackers.begin(folder, step)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; its numbers, nested ones by path, go to the trackers too.

        Raises:
            RunError: if the disk is full or gone.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._trackers.numbers(record["step"], numbers_of(record))


def _kept(path: Path, step: int) -> list[str]:
    """Complete records up to a step; a line that a crash cut short is dropped."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    return kept
