"""Tell photographs from labels by their pixels, and find the labels' encoding.

For files that no domain file describes yet. Knows no folder structure.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from cag_uda.data.domains.label_map import ImageEncoding, LabelMap, nearest_codes, written_code
from cag_uda.data.domains.label_reader import LabelReader
from cag_uda.data.files.decoding import Codes, Stored, as_ids, bytes_of, stored
from cag_uda.data.files.images import read_image
from cag_uda.errors import DataError

Look: TypeAlias = Literal["photo", "label", "other"]

_PIXELS_LOOKED_AT = 200_000
# In labels nine of ten neighbouring pixels and more are equal, in photographs few are.
_LEAST_FLATNESS = 0.8
_LEAST_FLATNESS_INSIDE = 0.4
_FEW_CODES = 24
_ALIKE_PX, _LEAST_CORRELATION = 24, 0.6
_CLEAR_SHARE, _CLEAR_TOLERANCE, _LOSSY_TOLERANCE = 0.95, 40, 64
_MOST_CLEAR, _LEAST_INNER = 24, 0.3
_LEAST_INNER_SHARE, _LEAST_LOSSY_SHARE = 0.0005, 0.005
_MOST_CODES = 256
_MOST_IDS_OF_A_CHANNEL = 63


@dataclass(frozen=True)
class SeenCode:
    """An id or a colour that label images hold."""

    code: int
    """Id, or R·65536 + G·256 + B."""
    share: float
    """Share of the pixels of the images that were read."""
    images: int
    """Number of these images in which it occurs."""


@dataclass(frozen=True)
class LabelLook:
    """Encoding and content of label images."""

    encoding: ImageEncoding
    channel: int | None
    """Number of the channel that holds the id, for the encoding "channel"."""
    codes: tuple[SeenCode, ...]
    """Codes that occur, sorted."""
    palette: dict[int, tuple[int, int, int]]
    """RGB of the codes, of palette images; empty for others."""
    images: int
    """Number of files that were read."""
    tolerance: int = 0
    """Largest distance of a pixel from the nearest code, in labels with soft edges or JPEG noise,
    in levels of a channel; 0 for exact ones."""

    def written(self, code: int) -> str:
        """Write a code as a domain file does."""
        return written_code(code, self.encoding)

    def described(self, entry: SeenCode) -> str:
        """Say how often a code occurs, for people."""
        kind = "colour" if self.encoding == "rgb" else "id"
        share = f"{100 * entry.share:.2f} % of pixels"
        return f"{kind} {self.written(entry.code)}: {share}, in {entry.images} of {self.images}"


def look_of(path: Path, is_named_label: bool = False) -> Look:
    """Tell photographs from labels by how many neighbouring pixels are equal.

    In files that are named like labels, a few noisy pixels are overlooked: JPEG and smooth scaling
    leave them at edges.

    Returns:
        "photo" for what changes from pixel to pixel, also for grey and JPEG; "label" for areas of
        few ids or colours; "other" for neither, such as depth, and for what cannot be read.
    """
    try:
        found = _thinned(path)
    except DataError:
        return "other"
    if found.is_lossy or (found.pixels.dtype == np.uint8 and is_named_label):
        if is_named_label and _has_few_colours(found):
            return "label"
        if found.is_lossy:
            return "photo"
    pixels = found.pixels if found.palette is None else found.palette[found.pixels]
    if pixels.dtype.kind not in ("b", "u"):
        ids = as_ids(pixels)
        if ids is None:
            return "photo"  # Numbers of sensors; ids are whole.
        pixels = ids
    codes = _as_numbers(pixels)
    values, counts = np.unique(codes, return_counts=True)
    is_deep = found.pixels.dtype == np.uint16
    if _flatness(codes) < _LEAST_FLATNESS or (len(values) > _MOST_CODES and not is_deep):
        return "photo"
    # Where most pixels are black, as in scans, the others decide.
    inside = _flatness(codes, beside=int(values[counts.argmax()]))
    return "label" if len(values) <= _FEW_CODES or inside >= _LEAST_FLATNESS_INSIDE else "photo"


def are_alike(first: Path, second: Path) -> bool:
    """Tell whether two images show one picture, perhaps drawn over, smaller or recoloured."""
    try:
        small = [
            cv2.resize(read_image(path), (_ALIKE_PX, _ALIKE_PX), interpolation=cv2.INTER_AREA)
            for path in (first, second)
        ]
    except DataError:
        return False
    one, other = (image.astype(np.float64).mean(axis=2).ravel() for image in small)
    if one.std() == 0 or other.std() == 0:
        return False
    return bool(np.corrcoef(one, other)[0, 1] >= _LEAST_CORRELATION)


def look_at_labels(paths: Sequence[Path]) -> LabelLook:
    """Find out how some label images are encoded, and count their ids or colours.

    Raises DataError if none can be read, or they are encoded in different ways.
    """
    if all(path.suffix == ".npy" for path in paths):
        return _counted(paths, "npy", None)
    encoding_of = {path: how for path in paths if (how := _encoding_of(path)) is not None}
    found = Counter(encoding_of.values())
    if not found:
        raise DataError(f"{paths[0]} cannot be read as a label image; save labels as PNG")
    # Copies of palette images are often saved without their palette; the indices remain.
    if set(found) == {("palette", None), ("ids", None)}:
        found = Counter({("palette", None): found.total()})
    if set(found) <= {("palette", None), ("rgb", None)} and not _agree(_palettes(paths)):
        found = Counter({("rgb", None): found.total()})
    if len(found) > 1:
        listed = ", ".join(f"{count} as {how}" for (how, _), count in found.most_common())
        raise DataError(
            f"the labels around {paths[0]} are encoded in different ways ({listed}); a domain has "
            "one encoding: convert some, or describe each part as a domain of its own"
        )
    encoding, channel = found.most_common(1)[0][0]
    return _counted(list(encoding_of), encoding, channel)


def _counted(paths: Sequence[Path], encoding: ImageEncoding, channel: int | None) -> LabelLook:
    """Count the codes of labels of one encoding; soft edges count as the nearest class code."""
    # With a tolerance, lossy files are read too.
    label_map = LabelMap(encoding, np.zeros(1, np.uint8), tolerance=1)
    reader = LabelReader(label_map, channel or 0, "this folder")
    pixels: Counter[int] = Counter()
    inner: Counter[int] = Counter()
    images: list[list[int]] = []
    for path in paths:
        found = reader.codes(path)
        for counter, part in ((pixels, found), (inner, _inner(found))):
            values, counts = np.unique(part, return_counts=True)
            counter.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        images.append(np.unique(found).tolist())
    are_lossy = encoding != "npy" and stored(bytes_of(paths[0]), paths[0]).is_lossy
    clear, tolerance = _cleared(pixels, pixels if are_lossy else inner, encoding, are_lossy)
    shares: Counter[int] = Counter()
    for code, count in pixels.items():
        shares[clear.get(code, code)] += count
    occurs = Counter(code for each in images for code in {clear.get(c, c) for c in each})
    codes = tuple(SeenCode(c, shares[c] / shares.total(), occurs[c]) for c in sorted(shares))
    palettes = _palettes(paths) if encoding == "palette" else []
    are_equal = all(each == palettes[0] for each in palettes)
    palette = palettes[0] if palettes and are_equal else {}
    kept = {code: palette[code] for code in palette if code in shares}
    return LabelLook(encoding, channel, codes, kept, len(paths), tolerance)


def _inner(codes: Codes) -> Codes:
    """Return the codes of pixels whose four neighbours have the same code: no edges."""
    middle = codes[1:-1, 1:-1]
    sides = (codes[:-2, 1:-1], codes[2:, 1:-1], codes[1:-1, :-2], codes[1:-1, 2:])
    inner: Codes = middle[np.logical_and.reduce([middle == side for side in sides])]
    return inner


def _cleared(
    pixels: Counter[int], inner: Counter[int], encoding: ImageEncoding, are_lossy: bool
) -> tuple[dict[int, int], int]:
    """Assign the codes of labels with soft edges to class codes, and measure the largest distance.

    Class codes are those that fill areas, not only their edges; in JPEGs, where none may do so, the
    most frequent ones that are far enough from each other. `pixels` counts the pixels of each code,
    `inner` those within an area of it.

    Returns:
        Code → nearest class code, and the largest distance between two such, in levels of a
        channel; an empty dict and 0 for labels with hard edges.
    """
    least = (_LEAST_LOSSY_SHARE if are_lossy else _LEAST_INNER_SHARE) * pixels.total()
    apart = _LOSSY_TOLERANCE if are_lossy else _CLEAR_TOLERANCE
    is_deep = encoding == "ids" and max(pixels) > 255
    if encoding not in ("ids", "rgb") or len(pixels) <= _FEW_CODES or is_deep:
        return {}, 0
    chosen: list[int] = []
    for code, count in inner.most_common():
        if count < least:
            break
        if nearest_codes(np.array([code]), chosen, encoding)[1] <= apart:
            if not are_lossy:
                return {}, 0  # Two that fill areas and are near to each other are two classes.
            continue
        chosen.append(code)
    if not 1 < len(chosen) <= _MOST_CLEAR or inner.total() < _LEAST_INNER * pixels.total():
        return {}, 0
    nearest, distances = nearest_codes(np.array(list(pixels)), chosen, encoding)
    furthest = int(distances.max())
    return dict(zip(pixels, nearest.tolist(), strict=True)), min(127, max(1, furthest))


def _encoding_of(path: Path) -> tuple[ImageEncoding, int | None] | None:
    """Find encoding and channel of one label image; None if it cannot be read."""
    try:
        found = _thinned(path)
    except DataError:
        return None
    pixels = found.pixels
    if found.palette is not None:
        return "palette", None
    if pixels.ndim == 2:
        return None if as_ids(pixels) is None else ("ids", None)
    if pixels.dtype not in (np.uint8, np.uint16):
        return None
    if pixels.shape[2] in (2, 4) and len(np.unique(_as_numbers(pixels[..., :-1]))) == 1:
        is_drawn = len(np.unique(pixels[..., -1])) > 1
        if is_drawn:
            return "channel", pixels.shape[2] - 1  # One colour: the shape is in its alpha.
    colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels
    distinct = [len(np.unique(colours[..., channel])) for channel in range(colours.shape[2])]
    if (colours == colours[..., :1]).all():
        return ("ids", None) if found.is_lossy else ("channel", 0)
    if pixels.dtype == np.uint16:
        varied = [channel for channel, count in enumerate(distinct) if count > 1]
        return "channel", min(varied, key=lambda channel: distinct[channel])
    if max(distinct[1:]) == 1 and colours[..., 0].max() <= _MOST_IDS_OF_A_CHANNEL:
        return "channel", 0  # Ids in red, nothing in green and blue, as CARLA writes them.
    # Ids beside instance numbers, and no colours: these are not all dark.
    is_ids = distinct[0] > 1 and colours[..., 0].max() <= _MOST_IDS_OF_A_CHANNEL
    if is_ids and len(np.unique(_as_numbers(pixels))) > 4 * distinct[0]:
        return "channel", 0
    return "rgb", None


def _thinned(path: Path) -> Stored:
    """Read a file, thinned out by rows where it is large. Raises DataError."""
    found = stored(bytes_of(path), path)
    step = max(1, found.pixels.shape[0] * found.pixels.shape[1] // _PIXELS_LOOKED_AT)
    return replace(found, pixels=found.pixels[::step])


def _flatness(codes: npt.NDArray[np.int64], beside: int | None = None) -> float:
    """Compute the share of equal neighbours; pairs of the code `beside` do not count."""
    left, right = codes[:, :-1], codes[:, 1:]
    equal = left == right
    if beside is not None:
        counted = (left != beside) | (right != beside)
        return float(equal[counted].mean()) if counted.any() else 1.0
    return float(equal.mean())


def _has_few_colours(found: Stored) -> bool:
    """Tell whether nearly all pixels are near one of a few colours, as in compressed masks."""
    pixels = found.pixels if found.palette is None else found.palette[found.pixels]
    if pixels.dtype != np.uint8:
        return False
    channels = pixels[..., None] if pixels.ndim == 2 else pixels[..., :3]
    rows, counts = np.unique(channels.reshape(-1, channels.shape[2]), axis=0, return_counts=True)
    # A JPEG has halos.
    tolerance = _LOSSY_TOLERANCE if found.is_lossy else _CLEAR_TOLERANCE
    by_frequency = np.argsort(-counts)
    rows, counts = rows[by_frequency].astype(np.int64), counts[by_frequency]
    total, chosen = counts.sum(), 0
    while total - counts.sum() < _CLEAR_SHARE * total and chosen <= _MOST_CLEAR:
        is_far = np.abs(rows - rows[0]).max(axis=1) > tolerance
        rows, counts = rows[is_far], counts[is_far]
        chosen += 1
    return 1 < chosen <= _MOST_CLEAR


def _as_numbers(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Give (H, W): one number a pixel, whatever its channels."""
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    numbers = np.zeros(pixels.shape[:2], np.int64)
    for channel in range(min(3, pixels.shape[2])):
        numbers = numbers << 16 | pixels[..., channel].astype(np.int64)
    return numbers


def _palettes(paths: Iterable[Path]) -> list[dict[int, tuple[int, int, int]]]:
    """Read the RGB by index of each palette image."""
    found = []
    for path in paths:
        with suppress(DataError):
            palette = stored(bytes_of(path), path).palette
            if palette is not None and len(palette):
                found.append(dict(enumerate(map(tuple, palette.tolist()))))
    return found


def _agree(palettes: Iterable[dict[int, tuple[int, int, int]]]) -> bool:
    """Tell whether palettes agree where several give a colour."""
    colours: dict[int, tuple[int, int, int]] = {}
    return all(
        colours.setdefault(index, colour) == colour
        for palette in palettes
        for index, colour in palette.items()
    )
