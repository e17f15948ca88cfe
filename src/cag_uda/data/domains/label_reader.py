"""Label images of a domain as train ids, at the size of their images.

The one place where label files are decoded, whatever their encoding; `label_map` says what the
codes mean, and `cag_uda.data.annotations` draws the labels of annotation tools first.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from cag_uda.data.domains.label_map import LabelMap
from cag_uda.data.files.decoding import Bytes, Codes, Stored, as_ids, bytes_of, stored
from cag_uda.data.files.resizing import resize_label
from cag_uda.errors import DataError

_LARGEST_SIZE_DIFFERENCE = 0.01
_FEW_PIXELS = 2
_MANY_PER_SIDE = 0.05
_LARGEST_FACTOR = 16
_LEAST_OPAQUE = 128
_WHOLE = "want whole numbers from 0 to 65535, or -1 for what is not labelled"


def misfit(image_size: tuple[int, int], label_size: tuple[int, int], path: Path) -> str | None:
    """Say why a label cannot be of an image by their sizes (H, W); None if it can.

    It may be of another resolution, up to 16 times, and differ in its shape by 1 % a side, or
    by 2 of its own pixels if these are less than 5 %: some images of GTA5 and their labels do.
    The path is the label's, for the message.
    """
    if _is_of_shape(label_size, image_size):
        return None
    (height, width), (label_height, label_width) = image_size, label_size
    turned = ""
    if _is_of_shape(label_size, (width, height)):
        turned = (
            "; it fits the image lying on its side: if the image has an EXIF orientation and the "
            'label was drawn on the raw pixels, write [images] and orientation = "stored" in the '
            "domain file"
        )
    return (
        f"{path}: the label is {label_width}×{label_height} and its image {width}×{height}; "
        "want the same size, or the same shape within 1 % or 2 pixels of the label; is it the "
        f"label of this image?{turned}"
    )


def _is_of_shape(label_size: tuple[int, int], image_size: tuple[int, int]) -> bool:
    for factor in (1.0, *(own / other for own, other in zip(image_size, label_size, strict=True))):
        if 1 / _LARGEST_FACTOR <= factor <= _LARGEST_FACTOR and all(
            abs(own * factor - wanted)
            <= max(
                _LARGEST_SIZE_DIFFERENCE * wanted,
                min(_FEW_PIXELS * factor, _MANY_PER_SIDE * wanted),
            )
            for own, wanted in zip(label_size, image_size, strict=True)
        ):
            return True
    return False


def match_sizes(image: Bytes, label: Bytes, path: Path) -> Bytes:
    """Bring a label (H', W') to the size of its image, to the nearest pixel where they differ.

    Raises DataError, naming the label's path, as `misfit` says.
    """
    height, width = image.shape[:2]
    if (height, width) == label.shape:
        return label
    if problem := misfit((height, width), (label.shape[0], label.shape[1]), path):
        raise DataError(problem)
    return resize_label(label, height, width)


@dataclass(frozen=True, eq=False)
class LabelReader:
    """Reads the label files of one domain."""

    label_map: LabelMap
    channel: int
    """Place of the id among the channels of the file, for the encoding "channel"; red is 0."""
    described_in: str
    """The file whose `[labels]` table this is, for messages."""
    divide: int = 1
    """Ids of instances are divided by this, without rest, to give those of classes."""
    divide_from: int = 0
    """Ids below this are those of classes already."""

    def read(self, path: Path) -> Bytes:
        """Read a label image: (H, W) uint8 train ids with IGNORE.

        Raises DataError if the file cannot be read, is encoded otherwise than the domain says, or
        holds a code that no rule of the domain covers.
        """
        codes = self.codes(path)
        label = self.label_map.apply(codes)
        if unmapped := self.label_map.unmapped(codes, label):
            raise DataError(f"{path}: {self.unmapped_problem(unmapped)}")
        return label

    def codes(self, path: Path) -> Codes:
        """Read what a label image holds, before any map. Raises DataError as `read` does.

        Returns:
            (H, W) ids as uint8 or uint16, or packed colours as int32.
        """
        codes = self._undivided(path)
        if self.divide == 1:
            return codes
        wide = codes.astype(np.int32)
        divided: Codes = np.where(wide >= self.divide_from, wide // self.divide, wide)
        return divided

    def palette(self, path: Path) -> Bytes | None:
        """Read the RGB (entries, 3) of a palette image, None for others. Raises DataError."""
        return None if path.suffix == ".npy" else stored(bytes_of(path), path).palette

    def digest(self) -> str:
        """Digest all that labels are read by, besides their files: encoding, channel and map."""
        digest = sha256(f"{self.label_map.encoding} {self.channel}\n".encode())
        digest.update(f"{self.divide} {self.divide_from} {self.label_map.tolerance}\n".encode())
        digest.update(self.label_map.table.tobytes())
        return digest.hexdigest()

    def unmapped_problem(self, unmapped: dict[str, int]) -> str:
        """Say which codes no rule covers, and what to do; given their numbers of pixels."""
        ordered = sorted(unmapped, key=lambda code: -unmapped[code])
        listed = ", ".join(f"{code} ({unmapped[code]:,} px)" for code in ordered[:8])
        if len(ordered) > 8:
            listed += f" and {len(ordered) - 8} more"
        swapped = (
            "; all of them are classes with red and blue changed places: the labels were written "
            "in OpenCV's order; write the colours of the domain file as [blue, green, red]"
            if self.label_map.covers_swapped(unmapped)
            else ""
        )
        what = "colours" if self.label_map.encoding == "rgb" else "ids"
        blurred = self.label_map.nearest_distance(unmapped)
        soft = (
            f"; they look like soft edges or traces of JPEG: tolerance = {blurred} takes the class "
            f"of the nearest of the mapped {what} that is so near"
            if blurred is not None and len(ordered) > 8
            else ""
        )
        return (
            f"label {what} that are neither mapped nor classes: {listed}; in [labels] of "
            f'{self.described_in}, map them (for example map = {{ "{ordered[0]}" = "ignore" }}) '
            f'or set other = "ignore"{soft}{swapped}'
        )

    def _undivided(self, path: Path) -> Codes:
        if self.label_map.encoding == "npy":
            return _array_of(path)
        found = stored(bytes_of(path), path)
        if found.is_lossy and not self.label_map.tolerance:
            raise DataError(
                f"{path} is a JPEG or another format that changes the ids of labels; save labels "
                "as PNG, or, if there are no others, map their colours and set a tolerance in "
                f"[labels] of {self.described_in}: tolerance = 40"
            )
        match self.label_map.encoding:
            case "ids":
                return self._ids(found, path)
            case "palette" if found.palette is not None:
                return found.pixels
            case "palette" if found.pixels.ndim == 2:
                # Copies of a data set are often saved without the palette; the indices remain.
                return self._ids(found, path)
            case "palette":
                raise DataError(
                    f"{path} is no palette image, it has {found.pixels.shape[2]} channels; in "
                    "[labels], set encoding to 'rgb' or 'channel'"
                )
            case "channel":
                return self._channel(found, path)
            case _:
                return _packed_colors(found)

    def _ids(self, found: Stored, path: Path) -> Codes:
        array = self._of_ids(found, path)
        if array.ndim == 3 and self.label_map.tolerance:
            is_grey = (array[..., :3] == array[..., :1]).all()
            array = array[..., 0] if is_grey else array
        if array.ndim != 2:
            raise DataError(
                f"{path} has {array.shape[2]} channels and encoding = 'ids' wants one; in [labels] "
                f"of {self.described_in}, set encoding = 'rgb' if its colours are the classes, or "
                "encoding = 'channel' and channel = 0 if its first channel holds the id"
            )
        return array

    def _of_ids(self, found: Stored, path: Path) -> Codes:
        """Read the pixels of a file, any number of channels, whole numbers of at most 16 bits."""
        if found.palette is not None:
            raise DataError(
                f"{path} is a palette image; set encoding = 'palette' in [labels] to read its "
                "indices, or encoding = 'rgb' if its colours are the classes"
            )
        ids = as_ids(found.pixels)
        if ids is None:
            raise DataError(f"{path} holds {found.pixels.dtype} numbers that are no ids; {_WHOLE}")
        return ids

    def _channel(self, found: Stored, path: Path) -> Codes:
        array = np.atleast_3d(self._of_ids(found, path))
        if self.channel >= array.shape[2]:
            raise DataError(
                f"{path} has {array.shape[2]} channels, so channel = {self.channel} in "
                f"{self.described_in} is not among them; the first is 0"
            )
        return np.ascontiguousarray(array[..., self.channel])


def _array_of(path: Path) -> Codes:
    """Read the ids of a NumPy file. Raises DataError."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged or no array of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} holds several arrays; want one, (H, W), as .npy")
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    ids = as_ids(array) if array.ndim == 2 else None
    if ids is None:
        span = f" from {array.min()} to {array.max()}" if array.dtype.kind in "biuf" else ""
        raise DataError(
            f"{path} holds {array.dtype} of shape {array.shape}{span}; {_WHOLE}, of shape (H, W)"
        )
    return ids


def _packed_colors(found: Stored) -> Codes:
    """Write colours as R·65536 + G·256 + B, (H, W) int32; what is transparent is black."""
    pixels = found.pixels if found.palette is None else found.palette[found.pixels]
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2 or pixels.shape[2] == 2:
        grey = np.atleast_3d(pixels)[..., 0].astype(np.int32)
        return grey << 16 | grey << 8 | grey
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    packed = red << 16 | green << 8 | blue
    if pixels.shape[2] == 4:
        is_opaque = pixels[..., 3] >= _LEAST_OPAQUE
        # Some programs leave alpha at 0 everywhere: then it means nothing.
        if is_opaque.any():
            packed[~is_opaque] = 0
    return packed
