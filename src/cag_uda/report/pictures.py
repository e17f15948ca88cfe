"""Turns image files into data URIs small enough for one page.

Knows image formats and a budget of bytes; does not know what the pictures show.
"""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

WIDTHS_PX = (640, 480, 320, 224)
"""Widths to try, largest first, until all pictures together fit the budget."""


def embed_all(files: Iterable[Path], budget_bytes: int) -> dict[Path, str]:
    """Embed pictures at the largest width at which all fit.

    Args:
        files: images on disk; one that cannot be read is left out of the result.
        budget_bytes: what all data URIs together may take. Pictures that do not fit even at the
            smallest width are left out, the last ones first.

    Returns:
        File → data URI, in the order of `files`.
    """
    wanted = list(dict.fromkeys(files))
    embedded: dict[Path, str] = {}
    for width_px in WIDTHS_PX:
        embedded = _embed_at(wanted, width_px)
        if sum(map(len, embedded.values())) <= budget_bytes:
            return embedded
    kept: dict[Path, str] = {}
    used = 0
    for file, uri in embedded.items():
        used += len(uri)
        if used > budget_bytes:
            break
        kept[file] = uri
    return kept


def _embed_at(files: list[Path], width_px: int) -> dict[Path, str]:
    embedded = {}
    for file in files:
        try:
            with Image.open(file) as image:
                embedded[file] = _data_uri(image.convert("RGB"), width_px)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            continue
    return embedded


def _data_uri(image: Image.Image, width_px: int) -> str:
    """Encode one RGB picture: label colours as a palette PNG, photographs as JPEG."""
    width, height = image.size
    size = (width_px, max(1, round(height * width_px / width))) if width > width_px else image.size
    # Counted before any resize: a label picture has few colours, which must stay exact.
    is_label = image.getcolors(maxcolors=256) is not None
    image = image.resize(size, Image.Resampling.NEAREST if is_label else Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    if is_label:
        _to_palette(image).save(encoded, format="PNG", optimize=True)
        kind = "png"
    else:
        image.save(encoded, format="JPEG", quality=82, optimize=True, progressive=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


def _to_palette(image: Image.Image) -> Image.Image:
    """Index a picture of at most 256 colours without changing any of them."""
    pixels = np.asarray(image)
    codes = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colours, index = np.unique(codes, return_inverse=True)
    indexed = Image.fromarray(index.reshape(codes.shape).astype(np.uint8))
    levels = np.stack([colours >> 16, (colours >> 8) & 255, colours & 255], axis=1)
    indexed.putpalette(levels.astype(np.uint8).tobytes())
    return indexed
