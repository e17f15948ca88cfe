"""Images and label images as arrays, and a clear error for every file that cannot be one.

Knows file formats and codes; no folder, no split, no crop.
"""

import io
import stat
import struct
import zlib
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from cag_uda.errors import DataError

Bytes: TypeAlias = npt.NDArray[np.uint8]
Codes: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.int32]
# Damaged files become errors here; what OpenCV itself prints about them would only stand beside.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
# Colour types in the header of a PNG (PNG specification, 11.2.1).
PNG_GREY = 0
_PNG_PALETTE = 3
PNG_GREY_AND_ALPHA = 4

# OpenCV gives channels as B, G, R, A: where the n-th channel of the file stands in its array.
PLACES_OF_FILE_CHANNELS = {2: (0, 1), 3: (2, 1, 0), 4: (2, 1, 0, 3)}
# A PNG of grey and alpha becomes grey, grey, grey, alpha.
PLACES_OF_GREY_AND_ALPHA = (0, 3)

_MOST_PIXELS = 178_956_970
"""Pillow's own limit: a small file that claims more is made to exhaust the memory."""
_MOST_BYTES = 1 << 30
_MEASURED = ("JPEG", "BMP", "WEBP", "PPM")
"""What Pillow tells the size of. Not of TIFF: it prints warnings; OpenCV has a limit of 2^30."""


def read_image(path: Path) -> Bytes:
    """Read a photograph.

    Grey, palette and CMYK images become RGB, transparency is dropped, deeper images are brought to
    8 bits, and the EXIF orientation is applied.

    Args:
        path: any format of `cag_uda.data.files.patterns.IMAGE_EXTENSIONS`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: if the file is missing, empty, cut off or no image.
    """
    data = bytes_of(path)
    image = _decoded(data, cv2.IMREAD_COLOR, path)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def bytes_of(path: Path) -> bytes:
    """Read a file that may be an image. Raises DataError if it is missing, empty or too large."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is no file, but a folder, pipe or device; remove it")
        if status.st_size > _MOST_BYTES:
            raise DataError(f"{path} has {status.st_size:,} bytes; images have at most a gigabyte")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if not data:
        raise DataError(f"{path} is empty (0 bytes); copy or download it again")
    width, height = _claimed_size(data)
    if width * height > _MOST_PIXELS:
        raise DataError(
            f"{path} claims to be {width}×{height}; images have at most {_MOST_PIXELS:,} pixels: "
            "cut it into tiles, or remove it"
        )
    return data


def _claimed_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header of an image; 0 × 0 where only OpenCV shall say."""
    if png_kind(data) is not None:
        width, height = struct.unpack(">II", data[16:24])
        return (width, height) if data[12:16] == b"IHDR" else (0, 0)
    try:
        with PillowImage.open(io.BytesIO(data), formats=_MEASURED) as image:
            return image.size
    except PillowImage.DecompressionBombError:
        return _MOST_PIXELS, 2
    except Exception:  # Pillow's parsers raise anything; OpenCV has the last word.
        return 0, 0


def _decoded(data: bytes, flags: int, path: Path) -> npt.NDArray[Any]:
    """Decode with OpenCV; a file that OpenCV completes silently is refused."""
    try:
        array = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:
        array = None
    if array is None or _is_cut_off_jpeg(data):
        raise DataError(f"{path} is damaged, cut off or no image; copy or download it again")
    return array


def _is_cut_off_jpeg(data: bytes) -> bool:
    """Whether a JPEG lacks its end; older versions of OpenCV paint the missing part grey."""
    if not data.startswith(JPEG_SIGNATURE) or data.endswith(_JPEG_END):
        return False
    # Some cameras append data of their own, so the end may lie further up: decode again, strictly.
    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError):
        return True
    return False


def stored(data: bytes, path: Path) -> Codes:
    """Decode a label image to what is stored, (H, W) or (H, W, channels), uint8 or uint16."""
    if png_kind(data) == _PNG_PALETTE:
        raise DataError(
            f"{path} is a palette image; set encoding = 'palette' in [labels] to read its indices"
        )
    array = _decoded(data, cv2.IMREAD_UNCHANGED, path)
    if array.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path} holds {array.dtype} numbers; want a label of 8 or 16 bits")
    if png_kind(data) == PNG_GREY:
        # A transparent grey level makes OpenCV add channels, and it stretches ids of 1, 2 or 4
        # bits to 0 … 255.
        grey = array if array.ndim == 2 else array[..., 0]
        bits = data[24]
        return grey // (255 // (2**bits - 1)) if bits < 8 else grey
    return array


def _has_sound_checksums(data: bytes) -> bool:
    """Whether a PNG is whole and each of its chunks fits its checksum; Pillow does not look."""
    place = len(_PNG_SIGNATURE)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4])
        end = place + 8 + length
        if data[end : end + 4] != zlib.crc32(data[place + 4 : end]).to_bytes(4):
            return False
        if data[place + 4 : place + 8] == b"IEND":
            return True
        place = end + 4
    return False


def png_kind(data: bytes) -> int | None:
    """Colour type in the header of a PNG, None for other formats."""
    return data[25] if data.startswith(_PNG_SIGNATURE) and len(data) > 25 else None


def palette_indices(data: bytes, path: Path) -> Codes:
    """Indices of a palette image, which OpenCV would replace by their colours."""
    try:
        if data.startswith(_PNG_SIGNATURE) and not _has_sound_checksums(data):
            raise ValueError("checksum")
        with PillowImage.open(io.BytesIO(data)) as image:
            mode = image.mode
            indices = np.asarray(image) if mode == "P" else None
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        raise DataError(
            f"{path} is damaged, cut off or no image; copy or download it again"
        ) from error
    if indices is None:
        raise DataError(
            f"{path} is no palette image (Pillow calls it {mode}); in [labels], set encoding to "
            "'ids' for one channel, 'rgb' or 'channel' for several"
        )
    return indices


def packed_colors(data: bytes, path: Path) -> Codes:
    """Colours as R·65536 + G·256 + B, (H, W) int32."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    four = cv2.cvtColor(_decoded(data, flags, path), cv2.COLOR_BGR2BGRA)
    # Four bytes B, G, R, 255 are one little-endian number.
    packed: npt.NDArray[np.int32] = four.view("<i4")[..., 0] & 0xFFFFFF
    return packed
