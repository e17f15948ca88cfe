"""Caveats of a verdict, in sentences: one seed, frames of one drive, networks of little use."""

from collections.abc import Sequence

from cag_uda.report.evidence import read_frame_keys
from cag_uda.report.run_folder import RunRecord
from cag_uda.report.words import counted, percent

HARDLY_LEARNED = 0.10
"""mIoU below which a network has hardly learned its task, and a gain over it says little."""
OF_USE = 0.25
"""mIoU below which a network is of little use as it is."""


def which_hardly_learned(miou: float | None) -> str:
    """Write what follows a baseline's name if it has hardly learned; else nothing."""
    if miou is None or miou >= HARDLY_LEARNED:
        return ""
    return f", which hardly learned ({percent(miou)})"


def caveats(run: RunRecord, folder: str, miou: float) -> str:
    """Say what a stage's score was measured on, and what it is worth; `miou` is in [0, 1]."""
    told = []
    if miou < OF_USE:
        told.append(f"Below {percent(OF_USE, 0)} mIoU a network is of little use as it is.")
    keys = read_frame_keys(run.path / "stages" / folder)
    seed = "one seed" if run.seed is None else f"one seed ({run.seed})"
    on = f" on {counted(len(keys), 'frame')}{_of_one_recording(keys)}" if keys else ""
    told.append(f"Measured with {seed}{on}: another seed may differ by more than the interval.")
    if run.begins_from is not None:
        told.append(f"The network began from {run.begins_from}.")
    if run.few_labels is not None:
        told.append(f"Labels of a few images of the target were trained on ({run.few_labels}).")
    return " ".join(told)


def _of_one_recording(keys: Sequence[str]) -> str:
    """Say that frames are of one drive, most likely: names that differ by a number alone.

    Names that are nothing but a number say nothing: many data sets count their images so.
    """
    stems = {key.rstrip("0123456789") for key in keys}
    if len(keys) < 2 or len(stems) > 1 or not stems.pop().rpartition("/")[2]:
        return ""
    return ", which by their names are of one drive or series, where neighbours resemble each other"
