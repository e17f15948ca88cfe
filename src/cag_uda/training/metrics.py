"""The log of a stage: `metrics.jsonl`, and the same for TensorBoard."""

import json
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.tensorboard import TensorBoardLogger

from cag_uda.files import unwritable, write_text

_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends records of a stage.

    Args:
        folder: of the stage.
        step: steps already taken; records beyond it, which a resumed run repeats, are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / _FILE
        write_text(self._path, "".join(_kept(self._path, step)))
        self._board = TensorBoardLogger(folder, name="", version="tensorboard")

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; its numbers, nested ones by path, go to TensorBoard too.

        Raises:
            RunError: if the disk is full or gone.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._board.log_metrics(_numbers(record), step=record["step"])

    def close(self) -> None:
        """Flush what is pending."""
        self._board.finalize("success")


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


def _numbers(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "step":
            found[f"{prefix}{key}"] = float(value)
    return found
