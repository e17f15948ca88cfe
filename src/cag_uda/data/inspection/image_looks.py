"""Find the range of the numbers in photographs, for a folder without a domain file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cag_uda.data.files.decoding import bytes_of, decoded_bands
from cag_uda.data.files.images import ImageReader, finite_of, span_of
from cag_uda.errors import DataError

_MANY_BANDS = 5
_DEPTHS = (10, 12, 14)
_OUTER_PERCENTILES = (0.1, 99.9)
_NARROW = 65536 / 4


@dataclass(frozen=True)
class ImagesLook:
    """Content of `[images]` of a domain file, where it is not the default."""

    scale: tuple[float, float] | None = None
    bands: tuple[int, int, int] | None = None
    why: str = ""
    """Reason, for people."""
    notes: tuple[str, ...] = ()


def look_at_images(paths: Sequence[Path]) -> ImagesLook:
    """Find settings by which the numbers of some photographs become 8 bits.

    Unreadable ones are passed over: `check` names them.
    """
    reader, seen, notes, turned = ImageReader(), [], [], 0
    for path in paths:
        try:
            values, orientation = reader.pixels(path)
        except DataError:
            count = _bands_of(path)
            if count < _MANY_BANDS and count != 2:
                continue
            reader = ImageReader(bands=(0, 1, 2) if count > 2 else (0, 1, 1))
            values, orientation = reader.pixels(path)
        turned += orientation != 1
        if values.dtype != np.uint8:
            seen.append(values[:: max(1, values.shape[0] // 64)])
    if reader.bands is not None:
        notes.append(
            f"the images have other numbers of bands than 1, 3 and 4; {list(reader.bands)} are "
            "taken for red, green and blue: mend `bands` below [images]"
        )
    if turned:
        notes.append(
            f"{turned} of {len(paths)} images looked at are turned by their EXIF orientation; if "
            'labels were drawn on the raw pixels, write orientation = "stored" below [images]'
        )
    scale, why = _scale_of(seen) if seen else (None, "")
    return ImagesLook(scale, reader.bands, why, tuple(notes))


def _scale_of(seen: Sequence[np.ndarray]) -> tuple[tuple[float, float] | None, str]:
    numbers = np.concatenate([each.ravel() for each in seen])
    kind, numbers = numbers.dtype, finite_of(numbers)
    if not numbers.size:
        return None, ""
    low, high = span_of(numbers)
    why = f"{kind} from {low:g} to {high:g}"
    is_natural = low >= 0 and high <= 1 if kind.kind == "f" else high - low >= _NARROW
    if is_natural and (kind.kind == "f" or kind == np.uint16):
        return None, why
    if kind.kind in "iu" and low >= 0:
        for depth in _DEPTHS:
            if high < 1 << depth and low < (1 << depth) / 4:
                return (0.0, float((1 << depth) - 1)), f"{why}, as of {depth} bits"
    if kind.kind == "f" and low >= 0 and high <= 255:
        return (0.0, 255.0), why
    inner = np.percentile(numbers, _OUTER_PERCENTILES)
    return (float(np.floor(inner[0])), float(np.ceil(inner[1]))), why


def _bands_of(path: Path) -> int:
    """Count the bands of an image; 0 for one that cannot be read."""
    try:
        return int(decoded_bands(bytes_of(path), path).shape[2])
    except DataError:
        return 0
