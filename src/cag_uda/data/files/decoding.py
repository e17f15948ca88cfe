"""Image files as arrays of what they hold, and a clear error for every file that cannot be one.

Knows file formats; no folder, no split, no class. `images` makes photographs of what is decoded
here, `cag_uda.data.domains.label_reader` labels.
"""

import io
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageOps

from cag_uda.errors import DataError

Bytes: TypeAlias = npt.NDArray[np.uint8]
Codes: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.int32]

MOST_PIXELS = 178_956_970
"""Pillow's own limit: a small file that claims more is made to exhaust the memory."""
MOST_LARGE_PIXELS = 1 << 30
"""OpenCV's own limit, for who asks for large images."""

IF_UNREADABLE = (
    "mend it, name it under `exclude` of its split in the domain file, or set "
    'on_unreadable = "skip" in [loading] of the recipe'
)
"""Advice about an image that cannot be read."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Colour types in the header of a PNG (PNG specification, 11.2.1).
_PNG_GREY, _PNG_PALETTE, _PNG_GREY_AND_ALPHA = 0, 3, 4

# OpenCV gives channels as B, G, R, A: where the n-th channel of the file stands in its array.
_PLACES_OF_FILE_CHANNELS = {2: (0, 1), 3: (2, 1, 0), 4: (2, 1, 0, 3)}

_MOST_BYTES = 1 << 32
_HEADER_BYTES = 1 << 18
"""EXIF data with a preview may stand before the size."""
_MEASURED = ("JPEG", "BMP", "WEBP", "PPM", "GIF")
"""Formats whose size Pillow tells. Not TIFF: it prints warnings; OpenCV has a limit of its own."""
_WITH_PALETTE = ("GIF", "BMP", "TIFF")
"""Formats besides PNG whose palettes and single bits OpenCV replaces by colours and 255."""
_MASK_BITS = ("1", "P")

_NO_IMAGES = (
    (
        (b"version https://git-lfs.github.com/spec/",),
        "is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository",
    ),
    (
        (b"<!doctype html", b"<html"),
        "is a web page that was saved under an image's name; download the image itself again",
    ),
    ((b"pk\x03\x04", b"\x1f\x8b", b"rar!"), "is an archive; unpack it"),
    ((b"%pdf",), "is a PDF; save its pages as PNG"),
)
"""First bytes, in small letters, of files often found in place of images, and their message."""
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")


@dataclass(frozen=True, eq=False)
class Stored:
    """The content of an image file, before anything is made of it."""

    pixels: npt.NDArray[Any]
    """(H, W) or (H, W, channels), channels in the file's order: red first. The indices of a palette
    image; 0 and 1 for an image of one bit."""
    palette: Bytes | None = None
    """(entries, 3) RGB of a palette image."""
    is_lossy: bool = False
    """True if the format changes pixels: ids do not survive it."""


def bytes_of(path: Path, most_pixels: int = MOST_PIXELS) -> bytes:
    """Read a file that may be an image.

    Raises DataError if it is missing, empty, too large, or known to be something else.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is no file, but a folder, pipe or device; remove it")
        if status.st_size > _MOST_BYTES:
            raise DataError(f"{path} has {status.st_size:,} bytes; images have at most four GiB")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if not data:
        raise DataError(f"{path} is empty (0 bytes); copy or download it again")
    beginning = data[:64].lstrip().lower()
    for signatures, advice in _NO_IMAGES:
        if beginning.startswith(signatures):
            raise DataError(f"{path} {advice}")
    width, height = _claimed_size(data)
    if width * height > most_pixels:
        raise DataError(
            f"{path} claims to be {width}×{height}; images have at most {most_pixels:,} pixels: "
            "cut it into tiles, or remove it; `predict --window` takes up to "
            f"{MOST_LARGE_PIXELS:,}"
        )
    return data


def claimed_pixels(path: Path) -> int:
    """Count the pixels that a file says it has; where it does not, its bytes. Never raises."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
        width, height = _claimed_size(head)
        return width * height or path.stat().st_size
    except OSError:
        return 0  # What reads it will say so.


def decoded_colours(data: bytes, path: Path, ignore_orientation: bool) -> npt.NDArray[Any]:
    """Decode a photograph: (H, W, 3) RGB of the numbers that the file has.

    With `ignore_orientation`, pixels are left as they are stored, whatever EXIF says. Raises
    DataError if it is damaged, cut off or no image.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    if ignore_orientation:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    array = _by_opencv(data, flags, path)
    if array is not None:
        return np.asarray(cv2.cvtColor(array, cv2.COLOR_BGR2RGB))
    if not data.startswith(_TIFF_SIGNATURES):
        return _by_pillow(data, path, ignore_orientation)
    bands = _by_tifffile(data, path)
    if bands.shape[2] not in (1, 3, 4):
        raise DataError(
            f"{path} has {bands.shape[2]} bands; say which of them are red, green and blue, in "
            "the domain file: [images] and bands = [2, 1, 0] below it; the first is 0"
        )
    return np.repeat(bands, 3, axis=2) if bands.shape[2] == 1 else bands[..., :3]


def decoded_bands(data: bytes, path: Path) -> npt.NDArray[Any]:
    """Decode all bands of an image as they are stored: (H, W, bands). Raises DataError."""
    if data.startswith(_TIFF_SIGNATURES):
        return _by_tifffile(data, path)
    pixels = stored(data, path).pixels
    return pixels[..., None] if pixels.ndim == 2 else pixels


def stored(data: bytes, path: Path) -> Stored:
    """Decode what an image file holds: ids, palette indices or channels. Raises DataError."""
    kind = _png_kind(data)
    if kind == _PNG_PALETTE or kind is None:
        found = _palette_or_bits(data, path, is_certain=kind == _PNG_PALETTE)
        if found is not None:
            return found
    array = _by_opencv(data, cv2.IMREAD_UNCHANGED, path)
    if array is None:
        is_tiff = data.startswith(_TIFF_SIGNATURES)
        array = _by_tifffile(data, path) if is_tiff else _by_pillow(data, path, True)
        return Stored(array[..., 0] if array.shape[2] == 1 else array, is_lossy=_is_lossy(data))
    if kind == _PNG_GREY:
        # A transparent grey level makes OpenCV add channels, and it stretches ids of 1, 2 or 4
        # bits to 0 … 255.
        grey = array if array.ndim == 2 else array[..., 0]
        bits = data[24]
        return Stored(grey // (255 // (2**bits - 1)) if bits < 8 else grey)
    if array.ndim == 3:
        places = _PLACES_OF_FILE_CHANNELS[array.shape[2]]
        # A PNG of grey and alpha becomes grey, grey, grey, alpha.
        is_grey_and_alpha = kind == _PNG_GREY_AND_ALPHA and array.shape[2] == 4
        array = array[..., (0, 3) if is_grey_and_alpha else places]
    return Stored(array, is_lossy=_is_lossy(data))


def as_ids(numbers: npt.NDArray[Any]) -> Codes | None:
    """Take numbers of any type for ids, as rasters of maps and arrays of programs hold them.

    Ids are whole numbers from 0 to 65535, be their type of floats; or −1, which some tools mark
    with what is not labelled, and which becomes 255. None where the numbers are no ids.
    """
    if numbers.dtype in (np.uint8, np.uint16):
        return numbers
    if numbers.dtype.kind not in "biuf":
        return None
    if not numbers.size:
        return numbers.astype(np.int32)
    low, high = float(numbers.min()), float(numbers.max())
    if not -1 <= low <= high < 1 << 16:  # Nor where one of them is no number.
        return None
    whole: Codes = numbers.astype(np.int32)
    if numbers.dtype.kind == "f" and not np.array_equal(whole, numbers):
        return None
    return np.where(whole == -1, 255, whole) if low < 0 else whole


def orientation_of(data: bytes) -> int:
    """Read the EXIF orientation of an image: 1 for upright, 2 … 8 for turned or mirrored."""
    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            value = image.getexif().get(0x112, 1)
    except Exception:  # Pillow's parsers raise anything; what cannot be told is upright.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _claimed_size(data: bytes) -> tuple[int, int]:
    """Read width and height in an image's header; 0 × 0 where only OpenCV shall say."""
    if _png_kind(data) is not None:
        width, height = struct.unpack(">II", data[16:24])
        return (width, height) if data[12:16] == b"IHDR" else (0, 0)
    try:
        with PillowImage.open(io.BytesIO(data), formats=_MEASURED) as image:
            return image.size
    except PillowImage.DecompressionBombError:
        return MOST_LARGE_PIXELS, 2
    except Exception:  # Pillow's parsers raise anything; OpenCV has the last word.
        return 0, 0


def _by_opencv(data: bytes, flags: int, path: Path) -> npt.NDArray[Any] | None:
    """Decode with OpenCV, None where it cannot; a file that it completes silently is refused."""
    try:
        array = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:
        array = None
    if _is_cut_off_jpeg(data):
        raise _damaged(path)
    return array


def _by_pillow(data: bytes, path: Path, ignore_orientation: bool) -> npt.NDArray[Any]:
    """Decode what OpenCV does not, HEIC where the library for it is there: (H, W, 3) RGB."""
    is_heif = data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS
    if is_heif and not _knows_heif():
        raise DataError(
            f"{path} is HEIC, for which Python wants a library: `pip install pillow-heif`, or "
            "convert it to JPEG or PNG"
        )
    try:
        if data.startswith(_PNG_SIGNATURE):
            raise ValueError("OpenCV reads every sound PNG")
        with PillowImage.open(io.BytesIO(data)) as image:
            turned = image if ignore_orientation else ImageOps.exif_transpose(image)
            return np.asarray(turned.convert("RGB"))
    except Exception as error:  # Pillow's parsers raise anything.
        raise _damaged(path) from error


def _knows_heif() -> bool:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _by_tifffile(data: bytes, path: Path) -> npt.NDArray[Any]:
    """Read all bands of a TIFF, (H, W, bands), whatever their number."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.series[0]
            array, axes = page.asarray(), page.axes
    except Exception as error:  # Its parsers raise anything.
        if "imagecodecs" in str(error):
            raise DataError(
                f"{path} is compressed in a way that wants a library: `pip install imagecodecs`, "
                "or save it without compression"
            ) from error
        raise _damaged(path) from error
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3:
        raise DataError(f"{path} holds {array.ndim} dimensions ({axes}); want one image of bands")
    return array if axes.endswith("S") or axes.startswith("YX") else np.moveaxis(array, 0, -1)


def _palette_or_bits(data: bytes, path: Path, is_certain: bool) -> Stored | None:
    """Read indices and palette, or single bits, for which OpenCV gives colours and 255."""
    try:
        if is_certain:
            with PillowImage.open(io.BytesIO(data)) as image:
                image.verify()  # The checksums of a PNG; what decodes it does not look at them.
        formats = None if is_certain else _WITH_PALETTE
        with PillowImage.open(io.BytesIO(data), formats=formats) as image:
            if image.mode not in _MASK_BITS and image.format != "GIF":
                return None
            if image.mode == "P":
                flat = image.getpalette("RGB") or []
                palette = np.array(flat, dtype=np.uint8).reshape(-1, 3)
                return Stored(np.asarray(image), palette)
            return Stored(np.asarray(image).astype(np.uint8))
    except Exception as error:  # Pillow's parsers raise anything.
        if is_certain:
            raise _damaged(path) from error
        return None


def _is_lossy(data: bytes) -> bool:
    return (
        data.startswith(_JPEG_SIGNATURE)
        or (data[:4] == b"RIFF" and data[12:16] == b"VP8 ")
        or data[4:12] == b"ftypavif"
    )


def _is_cut_off_jpeg(data: bytes) -> bool:
    """Tell whether a JPEG lacks its end; older versions of OpenCV paint the missing part grey."""
    if not data.startswith(_JPEG_SIGNATURE) or data.endswith(_JPEG_END):
        return False
    # Some cameras append data of their own, so the end may lie further up: decode again, strictly.
    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError):
        return True
    return False


def _png_kind(data: bytes) -> int | None:
    """Read the colour type in the header of a PNG, None for other formats."""
    return data[25] if data.startswith(_PNG_SIGNATURE) and len(data) > 25 else None


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is damaged, cut off or no image; copy or download it again")
