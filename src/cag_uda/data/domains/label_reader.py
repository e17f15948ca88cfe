"""Label images of a domain as train ids, at the size of their images."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np

from cag_uda.data.domains.label_map import LabelMap
from cag_uda.data.files.decoding import (
    JPEG_SIGNATURE,
    PLACES_OF_FILE_CHANNELS,
    PLACES_OF_GREY_AND_ALPHA,
    PNG_GREY,
    PNG_GREY_AND_ALPHA,
    Bytes,
    Codes,
    bytes_of,
    packed_colors,
    palette_indices,
    png_kind,
    stored,
)
from cag_uda.errors import DataError

_LARGEST_SIZE_DIFFERENCE = 0.01


def match_sizes(image: Bytes, label: Bytes, path: Path) -> Bytes:
    """Bring a label to the size of its image, if the two differ by no more than 1 % a side.

    Some images of GTA5 and their labels differ by a few pixels.

    Args:
        image: (H, W, 3) uint8.
        label: any (H', W') uint8 train ids.
        path: the label's, for the message.

    Returns:
        (H, W) uint8 train ids, resized to the nearest pixel where the sizes differ.

    Raises:
        DataError: if they differ by more.
    """
    (height, width), (label_height, label_width) = image.shape[:2], label.shape
    if (height, width) == (label_height, label_width):
        return label
    largest = max(abs(label_height - height) / height, abs(label_width - width) / width)
    if largest > _LARGEST_SIZE_DIFFERENCE:
        raise DataError(
            f"{path}: the label is {label_width}×{label_height} and its image {width}×{height}; "
            "want the same size, or at most 1 % of difference; is it the label of this image?"
        )
    resized = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class LabelReader:
    """Reads the label images of one domain."""

    label_map: LabelMap
    channel: int
    """Place of the id among the channels of the file, for the encoding "channel"; red is 0."""
    described_in: str
    """The file whose `[labels]` table this is, for messages."""

    def read(self, path: Path) -> Bytes:
        """Read a label image.

        Returns:
            (H, W) uint8 train ids with IGNORE.

        Raises:
            DataError: if the file cannot be read, is encoded otherwise than the domain says, or
                holds a code that no rule of the domain covers.
        """
        codes = self.codes(path)
        label = self.label_map.apply(codes)
        if unmapped := self.label_map.unmapped(codes, label):
            raise DataError(f"{path}: {self.unmapped_problem(unmapped)}")
        return label

    def codes(self, path: Path) -> Codes:
        """Read what a label image holds, before any map.

        Returns:
            (H, W) ids as uint8 or uint16, or packed colours as int32.

        Raises:
            DataError: if the file cannot be read or is encoded otherwise than the domain says.
        """
        data = bytes_of(path)
        if data.startswith(JPEG_SIGNATURE):
            raise DataError(
                f"{path} is a JPEG, which changes the ids of labels; save labels as PNG"
            )
        match self.label_map.encoding:
            case "ids":
                return self._ids(data, path)
            case "palette" if png_kind(data) != PNG_GREY:
                return palette_indices(data, path)
            case "palette":
                # Copies of a data set are often saved without the palette; the indices remain.
                return self._ids(data, path)
            case "channel":
                return self._channel(data, path)
            case "rgb":
                return packed_colors(data, path)

    def digest(self) -> str:
        """What the labels become by, besides their files: encoding, channel and map."""
        digest = sha256(f"{self.label_map.encoding} {self.channel}\n".encode())
        digest.update(self.label_map.table.tobytes())
        return digest.hexdigest()

    def unmapped_problem(self, unmapped: dict[str, int]) -> str:
        """Say which codes no rule covers, and what to do.

        Args:
            unmapped: code, as a domain file writes it → number of pixels.
        """
        ordered = sorted(unmapped, key=lambda code: -unmapped[code])
        listed = ", ".join(f"{code} ({unmapped[code]:,} px)" for code in ordered[:8])
        if len(ordered) > 8:
            listed += f" and {len(ordered) - 8} more"
        what = "colours" if self.label_map.encoding == "rgb" else "ids"
        return (
            f"label {what} that are neither mapped nor classes: {listed}; in [labels] of "
            f'{self.described_in}, map them (for example map = {{ "{ordered[0]}" = "ignore" }}) '
            'or set other = "ignore"'
        )

    def _ids(self, data: bytes, path: Path) -> Codes:
        array = stored(data, path)
        if array.ndim != 2:
            raise DataError(
                f"{path} has {array.shape[2]} channels and encoding = 'ids' wants one; in [labels] "
                f"of {self.described_in}, set encoding = 'rgb' if its colours are the classes, or "
                "encoding = 'channel' and channel = 0 if its first channel holds the id"
            )
        return array

    def _channel(self, data: bytes, path: Path) -> Codes:
        array = stored(data, path)
        if array.ndim == 2:
            places: tuple[int, ...] = (0,)
        elif png_kind(data) == PNG_GREY_AND_ALPHA and array.shape[2] == 4:
            places = PLACES_OF_GREY_AND_ALPHA
        else:
            places = PLACES_OF_FILE_CHANNELS[array.shape[2]]
        if self.channel >= len(places):
            raise DataError(
                f"{path} has {len(places)} channels, so channel = {self.channel} in "
                f"{self.described_in} is not among them; the first is 0"
            )
        if array.ndim == 2:
            return array
        codes: Codes = np.take(array, places[self.channel], axis=2)
        return codes
