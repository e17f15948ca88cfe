"""One segmented image: ids, how sure the network is, and pictures of both.

Knows arrays, names and colours; knows no network.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from cag_uda.errors import RunError, UserError
from cag_uda.files import write_with
from cag_uda.models.config import Classes
from cag_uda.types import IGNORE

Picture: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) RGB, or (H, W)."""

_PIXELS_PER_STRIP = 1 << 20
_LEGEND_ROW_PX, _LEGEND_COLUMN_PX = 22, 190
_LEGEND_FONT = 0.45


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """An image with what a network says of it."""

    image: Picture
    """(H, W, 3) uint8, RGB."""
    label: Picture
    """(H, W) uint8 train ids."""
    confidence: NDArray[np.float32] | None
    """(H, W) in [0, 1], the probability of the label; None where nobody asked for it."""
    classes: Classes
    """Names and colours of the train ids."""
    probabilities: NDArray[np.float32] | None = None
    """(K, H, W) in [0, 1], of every class; None where nobody asked for them."""

    def __repr__(self) -> str:
        """Say size and largest classes."""
        ids, counts = np.unique(self.label, return_counts=True)
        largest = np.argsort(-counts)[:3]
        names = dict(enumerate(self.classes.names))
        shares = ", ".join(
            f"{names.get(int(ids[index]), 'ignored')} {100 * counts[index] / self.label.size:.0f} %"
            for index in largest
        )
        return f"Segmentation({self.label.shape[1]}×{self.label.shape[0]}: {shares})"

    def colors(self) -> Picture:
        """Paint each pixel in the colour of its class: (H, W, 3) uint8, RGB."""
        table = np.zeros((IGNORE + 1, 3), np.uint8)
        table[: len(self.classes.palette)] = self.classes.palette
        return table[self.label]

    def overlay(self, opacity: float = 0.5, legend: bool = False) -> Picture:
        """Paint the classes' colours over the image.

        Args:
            opacity: of the colours, from 0 to 1.
            legend: whether to add, below the image, names and colours of the classes in it.

        Returns:
            (H, W, 3) uint8, RGB; with a legend it is higher.

        Raises:
            UserError: for an opacity out of range.
        """
        if not 0 <= opacity <= 1:
            raise UserError(f"opacity should be from 0 to 1, got {opacity}")
        picture = self.colors()
        for rows in _strips(picture):
            cv2.addWeighted(
                self.image[rows], 1 - opacity, picture[rows], opacity, 0, dst=picture[rows]
            )
        if not legend:
            return picture
        seen = [int(each) for each in np.unique(self.label) if each < len(self.classes.names)]
        return np.concatenate([picture, legend_of(self.classes, seen, picture.shape[1])])

    def confidence_picture(self) -> Picture:
        """Paint confidence as grey, 255 where it is 1: (H, W) uint8. Raises UserError if absent."""
        if self.confidence is None:
            raise UserError("no confidence was computed with these labels")
        picture = np.empty(self.confidence.shape, np.uint8)
        for rows in _strips(picture):
            np.rint(self.confidence[rows] * 255, out=picture[rows], casting="unsafe")
        return picture

    def save(self, path: str | Path, what: str = "overlay") -> Path:
        """Write a PNG, whole or not at all.

        Args:
            path: ends in .png.
            what: "overlay", "color", "train-ids" or "confidence".

        Returns:
            The path.

        Raises:
            UserError: for another ending, another `what`, or a confidence that is not there.
            RunError: if it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UserError(f"a segmentation is saved as PNG, without loss; got {path}")
        pictures = {
            "overlay": self.overlay,
            "color": self.colors,
            "train-ids": lambda: self.label,
            "confidence": self.confidence_picture,
        }
        if what not in pictures:
            raise UserError(f"what to save is one of {', '.join(pictures)}, got {what!r}")
        write_picture(path, pictures[what]())
        return path


def legend_of(classes: Classes, train_ids: list[int], width_px: int) -> Picture:
    """Draw names and colours of some classes in as many columns as fit into a width.

    Returns:
        (height, width_px, 3) uint8, RGB, black on white.
    """
    columns = max(1, width_px // _LEGEND_COLUMN_PX)
    rows = -(-len(train_ids) // columns)
    picture = np.full((max(1, rows) * _LEGEND_ROW_PX + 6, width_px, 3), 255, np.uint8)
    for place, train_id in enumerate(train_ids):
        top = 6 + place // columns * _LEGEND_ROW_PX
        left = 6 + place % columns * _LEGEND_COLUMN_PX
        colour = tuple(map(int, classes.palette[train_id]))
        cv2.rectangle(picture, (left, top), (left + 22, top + 14), colour, cv2.FILLED)
        cv2.rectangle(picture, (left, top), (left + 22, top + 14), (0, 0, 0), 1)
        name = classes.names[train_id].encode("ascii", "replace").decode()
        origin = (left + 30, top + 12)
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(picture, name, origin, font, _LEGEND_FONT, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def write_picture(path: Path, picture: Picture, *, sealed: bool = False) -> None:
    """Write a picture, whole or not at all, in the format of the path's ending.

    `sealed` is as in `files.whole_file`. Raises RunError if it cannot be encoded or written.
    """
    is_encoded, encoded = cv2.imencode(path.suffix, as_opencv(picture))
    if not is_encoded:
        raise RunError(f"cannot encode the picture {path}")
    write_with(path, lambda temporary: temporary.write_bytes(encoded.data), sealed=sealed)


def as_opencv(picture: Picture) -> Picture:
    """Bring the channels of a picture into OpenCV's order."""
    if picture.ndim == 2:
        return picture
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), dtype=np.uint8)


def _strips(picture: Picture) -> Iterator[slice]:
    """Blend rows by rows, so that little memory is taken however large the picture is."""
    step = max(1, _PIXELS_PER_STRIP // picture.shape[1])
    return (slice(top, top + step) for top in range(0, len(picture), step))
