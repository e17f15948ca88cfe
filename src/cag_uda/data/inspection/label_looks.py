"""What image files look like from within: photographs or labels, and how labels are encoded.

For files that no domain file describes yet. Reads pixels; knows no folder structure.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from cag_uda.data.domains.label_map import Encoding, LabelMap
from cag_uda.data.domains.label_reader import LabelReader
from cag_uda.errors import DataError

Look: TypeAlias = Literal["photo", "label", "other"]

_PIXELS_LOOKED_AT = 200_000
# Of neighbouring pixels in labels nine of ten and more are equal, in photographs few are.
_LEAST_FLATNESS = 0.8
_MOST_CODES = 256
_MOST_IDS_OF_A_CHANNEL = 63


@dataclass(frozen=True)
class SeenCode:
    """An id or a colour that label images hold."""

    code: int
    """Id, or R·65536 + G·256 + B."""
    share: float
    """Of the pixels of the images that were looked at."""
    images: int
    """In how many of them it occurs."""


@dataclass(frozen=True)
class LabelLook:
    """How label images are encoded, and what they hold."""

    encoding: Encoding
    channel: int | None
    """Which channel holds the id, for the encoding "channel"."""
    codes: tuple[SeenCode, ...]
    """By code."""
    palette: dict[int, tuple[int, int, int]]
    """RGB of the codes, of palette images; empty for others."""
    images: int
    """How many were looked at."""


def look_of(path: Path) -> Look:
    """Tell photographs from labels by how many neighbouring pixels are equal.

    Args:
        path: of an image file.

    Returns:
        "photo" for what changes from pixel to pixel, also for grey and JPEG; "label" for areas of
        few ids or colours; "other" for neither, such as depth, and for what cannot be read.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return "photo"
    if _palette_of(path):
        return "label"
    pixels = _decoded(path)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        return "other"
    codes = _as_numbers(pixels)
    is_flat = (codes[:, 1:] == codes[:, :-1]).mean() >= _LEAST_FLATNESS
    if is_flat and (pixels.dtype == np.uint16 or len(np.unique(codes)) <= _MOST_CODES):
        return "label"
    return "photo" if pixels.dtype == np.uint8 else "other"


def look_at_labels(paths: Sequence[Path]) -> LabelLook:
    """Find out how some label images are encoded, and count their ids or colours.

    Args:
        paths: of at least one image.

    Raises:
        DataError: if none can be read, or they are encoded in different ways.
    """
    encodings = Counter(_encoding_of(path) for path in paths)
    # Copies of palette images are often saved without their palette; the indices remain.
    found = Counter({how: count for how, count in encodings.items() if how is not None})
    if not found:
        raise DataError(f"{paths[0]} cannot be read as a label image; save labels as PNG")
    if set(found) == {("palette", None), ("ids", None)}:
        found = Counter({("palette", None): found.total()})
    if len(found) > 1:
        listed = ", ".join(f"{count} as {how}" for (how, _), count in found.most_common())
        raise DataError(
            f"the labels around {paths[0]} are encoded in different ways ({listed}); a domain has "
            "one encoding: convert some, or describe each part as a domain of its own"
        )
    encoding, channel = found.most_common(1)[0][0]
    reader = LabelReader(LabelMap(encoding, np.zeros(1, np.uint8)), channel or 0, "this folder")
    pixels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    read = 0
    for path in paths:
        if encodings is None or _encoding_of(path) is None:
            continue
        values, counts = np.unique(reader.codes(path), return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        images.update(values.tolist())
        read += 1
    palette = _common_palette(paths) if encoding == "palette" else {}
    codes = tuple(
        SeenCode(code, pixels[code] / pixels.total(), images[code]) for code in sorted(pixels)
    )
    seen = {entry.code for entry in codes}
    return LabelLook(
        encoding, channel, codes, {code: palette[code] for code in palette if code in seen}, read
    )


def _encoding_of(path: Path) -> tuple[Encoding, int | None] | None:
    """Encoding and channel of one label image; None if it cannot be read."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return None
    if _palette_of(path):
        return "palette", None
    pixels = _decoded(path)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        return None
    if pixels.ndim == 2:
        return "ids", None
    colours = pixels[..., 2::-1] if pixels.shape[2] > 2 else pixels
    distinct = [len(np.unique(colours[..., channel])) for channel in range(colours.shape[2])]
    if (colours == colours[..., :1]).all():
        return "channel", 0
    if pixels.dtype == np.uint16:
        varied = [channel for channel, count in enumerate(distinct) if count > 1]
        return "channel", min(varied, key=lambda channel: distinct[channel])
    # Ids beside instance numbers, and no colours: these are not all dark.
    is_ids = distinct[0] > 1 and colours[..., 0].max() <= _MOST_IDS_OF_A_CHANNEL
    if is_ids and len(np.unique(_as_numbers(pixels))) > 4 * distinct[0]:
        return "channel", 0
    return "rgb", None


def _decoded(path: Path) -> npt.NDArray[np.generic] | None:
    """Pixels as stored, thinned out by rows where there are many; None if unreadable."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error):
        return None
    if pixels is None:
        return None
    step = max(1, pixels.shape[0] * pixels.shape[1] // _PIXELS_LOOKED_AT)
    thinned: npt.NDArray[np.generic] = pixels[::step]
    return thinned


def _as_numbers(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """(H, W) one number a pixel, whatever its channels."""
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    numbers = np.zeros(pixels.shape[:2], np.int64)
    for channel in range(min(3, pixels.shape[2])):
        numbers = numbers << 16 | pixels[..., channel].astype(np.int64)
    return numbers


def _palette_of(path: Path) -> dict[int, tuple[int, int, int]]:
    """RGB by index of a palette image; empty for others."""
    try:
        with PillowImage.open(path) as image:
            flat = image.getpalette("RGB") if image.mode == "P" else None
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError):
        return {}
    if flat is None:
        return {}
    return {
        index: (flat[start], flat[start + 1], flat[start + 2])
        for index, start in enumerate(range(0, len(flat) - 2, 3))
    }


def _common_palette(paths: Iterable[Path]) -> dict[int, tuple[int, int, int]]:
    """The palette that all the palette images share; empty if they differ."""
    palettes = [palette for palette in map(_palette_of, paths) if palette]
    return palettes[0] if palettes and all(each == palettes[0] for each in palettes) else {}
