"""Small image folders and domain files for the tests of domains."""

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cag_uda.data.domains.domain import Domain

GREY, RGB, GREY_AND_ALPHA, RGBA = 0, 2, 4, 6

TWO_CLASSES = """
[[classes]]
name = "road"
color = [128, 64, 128]
[[classes]]
name = "car"
color = [0, 0, 142]
"""


def write_image(path: Path, array: npt.NDArray[Any]) -> Path:
    """Write an array as OpenCV sees it, in the format of the extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


def write_photo(path: Path, height: int = 6, width: int = 8) -> Path:
    return write_image(path, np.full((height, width, 3), 90, np.uint8))


def write_label(path: Path, ids: object, dtype: type = np.uint8) -> Path:
    return write_image(path, np.asarray(ids, dtype))


def write_raw_png(path: Path, kind: int, bits: int, width: int, rows: list[bytes]) -> Path:
    """Write a PNG of any colour type and depth, chunk by chunk."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    return path


def open_domain(folder: Path, toml: str, root: str = "data") -> Domain:
    """Write a domain file whose images lie in `folder`/data, and open it."""
    path = folder / "mine.toml"
    path.write_text(f'name = "mine"\nroot = "{root}"\n{toml}', encoding="utf-8")
    return Domain.open(path)


UNLABELLED = '[splits.train]\nimages = "images/*"\n'
LABELLED = TWO_CLASSES + UNLABELLED + 'labels = "labels/*"\n'
