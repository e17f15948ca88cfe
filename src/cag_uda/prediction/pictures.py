"""What is written of a prediction: overlay, colours, ids, confidence; as PNG or as video."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from cag_uda.errors import RunError
from cag_uda.files import whole_file, write_with
from cag_uda.models.config import Classes
from cag_uda.types import IGNORE

_PIXELS_PER_STRIP = 1 << 20

Picture: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) RGB, or (H, W)."""


@dataclass(frozen=True, eq=False)
class Segmented:
    """An image with what the network says of it."""

    image: Picture
    """(H, W, 3) uint8, RGB."""
    label: Picture
    """(H, W) uint8 train ids."""
    confidence: NDArray[np.float32] | None
    """(H, W) in [0, 1], the probability of the label; None where nobody asked for it."""


Painter: TypeAlias = Callable[[Segmented, Classes], Picture]


def _train_ids(segmented: Segmented, classes: Classes) -> Picture:
    return segmented.label


def _label_ids(segmented: Segmented, classes: Classes) -> Picture:
    table = np.zeros(IGNORE + 1, np.uint8)
    table[: len(classes.names)] = classes.label_ids or ()
    return table[segmented.label]


def _colours(segmented: Segmented, classes: Classes) -> Picture:
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[: len(classes.palette)] = classes.palette
    return table[segmented.label]


def _overlay(segmented: Segmented, classes: Classes) -> Picture:
    picture = _colours(segmented, classes)
    for rows in _strips(picture):
        cv2.addWeighted(segmented.image[rows], 0.5, picture[rows], 0.5, 0, dst=picture[rows])
    return picture


def _confidence(segmented: Segmented, classes: Classes) -> Picture:
    assert segmented.confidence is not None, "asked for where this kind is"
    picture = np.empty(segmented.confidence.shape, np.uint8)
    for rows in _strips(picture):
        np.rint(segmented.confidence[rows] * 255, out=picture[rows], casting="unsafe")
    return picture


def _strips(picture: Picture) -> Iterator[slice]:
    """Rows by rows, so that what is between takes little memory however large the picture is."""
    step = max(1, _PIXELS_PER_STRIP // picture.shape[1])
    return (slice(top, top + step) for top in range(0, len(picture), step))


PAINTERS: dict[str, Painter] = {
    "overlay": _overlay,
    "color": _colours,
    "train-ids": _train_ids,
    "label-ids": _label_ids,
    "confidence": _confidence,
}
"""What can be written, by the name that `--as` takes."""

FOR_LOOKING = ("overlay", "color")
"""The kinds that may lose detail to a video's compression; the others become numbered PNGs."""


def write_picture(path: Path, picture: Picture) -> None:
    """Write a PNG, whole or not at all. Raises RunError if it cannot be written."""
    encoded = cv2.imencode(".png", _as_opencv(picture))[1]
    write_with(path, lambda temporary: temporary.write_bytes(encoded.data))


@contextmanager
def video_file(path: Path, frames_per_s: float) -> Iterator[Callable[[int, Picture], None]]:
    """Give a function that adds a frame to a video, which appears when the block has succeeded.

    Frames are taken in the order in which they come; their number is not looked at.

    Args:
        path: ends in .mp4.
        frames_per_s: of the video.

    Raises:
        RunError: if it cannot be written.
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
            writers[0].write(_as_opencv(picture))

        try:
            yield add
            for writer in writers:
                writer.release()
            unfinished.replace(temporary)
        finally:
            for writer in writers:
                writer.release()
            unfinished.unlink(missing_ok=True)


def _as_opencv(picture: Picture) -> Picture:
    if picture.ndim == 2:
        return picture
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), dtype=np.uint8)
