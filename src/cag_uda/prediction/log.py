"""Log of a folder of predictions, by which a stopped command is continued.

Its first line of JSON holds the settings of the predictions; each further line holds a finished
input, with the size and the time of change of its file. Knows no image and no network.
"""

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from cag_uda.errors import RunError, UserError
from cag_uda.files import unwritable, write_text
from cag_uda.prediction.jobs import Job
from cag_uda.runs.records.base import line_of, parse_line, plain
from cag_uda.runs.records.prediction import PREDICTIONS, Predicted, PredictionSettings


class PredictionLog:
    """Record of what is done in one output folder. Several threads may add to it.

    Args:
        out: the output folder.
        settings: everything that predictions depend on, except their inputs.
        overwrite: begin anew, whatever the folder holds.

    Raises:
        UserError: if the folder was made with other settings.
        RunError: if the log is damaged or cannot be written.
    """

    def __init__(self, out: Path, settings: PredictionSettings, overwrite: bool) -> None:
        self._path, self._lock = out / PREDICTIONS, threading.Lock()
        self._done: dict[str, Predicted] = {}
        self._is_new = overwrite or not self._path.exists()
        self._is_torn = False
        self._settings = settings
        self._may_overwrite = overwrite
        if not self._is_new:
            self._read()

    def is_done(self, job: Job, outputs: Iterable[str]) -> bool:
        """Tell whether a job's outputs stand there, made of its input as it is now."""
        known = self._done.get(job.place)
        return known is not None and known == _identity(job) and all(map(os.path.exists, outputs))

    def refuse_others(self, outputs: Mapping[Job, list[str]]) -> None:
        """Make sure that only predictions of the same input are replaced.

        Raises UserError if a file stands where another input's prediction, or none, was written.
        """
        if self._may_overwrite:
            return
        for job, paths in outputs.items():
            known = self._done.get(job.place)
            if known is not None and known.input == job.source:
                continue
            # In a folder of ours, a file without a record is what a killed command left.
            standing = [path for path in paths if os.path.exists(path)]
            if standing and (self._is_new or known is not None):
                what = f"is the prediction of {known.input}" if known else "exists already"
                raise UserError(
                    f"{standing[0]} {what} and would be overwritten by that of {job.source}; "
                    "choose another --out, or give --overwrite"
                )

    def begin(self) -> None:
        """Write the first line, if there is no log yet or it shall be overwritten."""
        if self._is_new:
            write_text(self._path, line_of(self._settings))
        elif self._is_torn:
            self._append("\n")

    def add(self, job: Job) -> None:
        """Record that the outputs of a job are written. Raises RunError if this cannot be."""
        self._append(line_of(_identity(job)))

    def _append(self, text: str) -> None:
        try:
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def _read(self) -> None:
        try:
            text = self._path.read_bytes().decode("utf-8", errors="replace")
        except OSError as error:
            raise RunError(
                f"cannot read {self._path}: {error.strerror}; choose another --out"
            ) from error
        first, *lines = text.splitlines() or [""]
        settings = parse_line(PredictionSettings, first)
        if settings is None:
            raise RunError(
                f"{self._path} is damaged, or no record of predictions; choose another --out, or "
                "give --overwrite to predict everything anew"
            )
        # In the types that JSON gives back: a tuple is a list there.
        mine = plain(PredictionSettings.model_validate_json(line_of(self._settings)))
        theirs = plain(settings)
        differing = sorted(key for key in mine if theirs.get(key) != mine[key])
        if differing:
            raise UserError(
                f"{self._path.parent} holds predictions made otherwise (differing: "
                f"{', '.join(differing)}); choose another --out, or give --overwrite"
            )
        self._is_torn = not text.endswith("\n")
        for line in lines:
            # Inputs with a line that was cut short or damaged are predicted again.
            record = parse_line(Predicted, line)
            if record is not None:
                self._done[record.place] = record


def _identity(job: Job) -> Predicted:
    """Describe an input's file as it is now: a changed one is predicted again."""
    place, source = job.place, job.source
    try:
        status = os.stat(source)
    except OSError:
        return Predicted(place=place, input=source)
    return Predicted(
        place=place, input=source, bytes=status.st_size, modified_ns=status.st_mtime_ns
    )
