"""Pictures of a prediction: overlay, colours, ids, confidence; as PNG or as video."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from cag_uda.errors import RunError
from cag_uda.files import whole_file
from cag_uda.models.segmentation import Picture, Segmentation, as_opencv, legend_of
from cag_uda.types import IGNORE

Painter: TypeAlias = Callable[[Segmentation], Picture]


def _label_ids(segmentation: Segmentation) -> Picture:
    table = np.zeros(IGNORE + 1, np.uint8)
    table[: len(segmentation.classes.names)] = segmentation.classes.label_ids or ()
    return table[segmentation.label]


def _overlay_with_legend(segmentation: Segmentation) -> Picture:
    """Put the overlay above a legend of all classes: all frames of a video are of one size."""
    overlay, classes = segmentation.overlay(), segmentation.classes
    legend = legend_of(classes, list(range(len(classes.names))), overlay.shape[1])
    return np.concatenate([overlay, legend])


PAINTERS: dict[str, Painter] = {
    "overlay": Segmentation.overlay,
    "overlay-legend": _overlay_with_legend,
    "color": Segmentation.colors,
    "train-ids": lambda segmentation: segmentation.label,
    "label-ids": _label_ids,
    "confidence": Segmentation.confidence_picture,
}
"""Kinds of picture, by the name that `--as` takes."""

FOR_LOOKING = ("overlay", "overlay-legend", "color")
"""Kinds that are only viewed and so may be compressed as video; others become numbered PNGs."""


@contextmanager
def video_file(path: Path, frames_per_s: float) -> Iterator[Callable[[int, Picture], None]]:
    """Give a function that adds a frame to an MP4, which appears when the block has succeeded.

    Frames are taken in the order in which they come; their numbers are ignored. Raises RunError if
    it cannot be written.
    """
    writers: list[cv2.VideoWriter] = []
    with whole_file(path) as temporary:
        # OpenCV goes by the extension.
        unfinished = temporary.with_name(temporary.name + path.suffix)

        def add(number: int, picture: Picture) -> None:
            if not writers:
                size = (picture.shape[1], picture.shape[0])
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                writers.append(cv2.VideoWriter(str(unfinished), codec, frames_per_s, size))
                if not writers[0].isOpened():
                    raise RunError(
                        f"cannot write {path}: OpenCV has no encoder for a video of "
                        f"{size[0]}×{size[1]}; use --as train-ids, which writes PNGs"
                    )
            writers[0].write(as_opencv(picture))

        try:
            yield add
            for writer in writers:
                writer.release()
            unfinished.replace(temporary)
        finally:
            for writer in writers:
                writer.release()
            unfinished.unlink(missing_ok=True)
