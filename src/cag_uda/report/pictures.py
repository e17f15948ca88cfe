"""Turns image files into data URIs small enough for one page.

Label pictures stay exact: they are indexed, and shrunk without blending.
"""

import base64
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cag_uda.files import is_sound

Ids = NDArray[np.uint8]
"""(H, W) train ids, NO_CLASS where there is none."""
NO_CLASS = 255
WIDTHS_PX = (640, 480, 320, 224)
"""Widths to try, largest first, until all pictures together fit the budget."""
_UNREADABLE = (OSError, Image.DecompressionBombError, ValueError, SyntaxError, EOFError)


class Colours:
    """The colours that label pictures are painted with.

    Args:
        palette: (K, 3) RGB, one a class.
    """

    def __init__(self, palette: Iterable[tuple[int, int, int]]) -> None:
        levels = np.array(list(palette), dtype=np.uint8).reshape(-1, 3)[:NO_CLASS]
        self._codes = _codes(levels)
        taken = set(self._codes.tolist())
        grey = next(level for level in range(256) if level * 0x010101 not in taken)
        self.no_class: tuple[int, int, int] = (grey, grey, grey)
        """Black, unless a class is black."""
        self._levels = np.vstack([levels, [self.no_class]]).astype(np.uint8)

    def ids(self, file: Path) -> Ids | None:
        """Read train ids (H, W) of a label picture: grey levels, or colours of the palette.

        NO_CLASS where a colour is of no class; None if the file cannot be read.
        """
        try:
            with _opened(file) as image:
                if image.mode == "L":
                    return np.asarray(image)
                codes = _codes(np.asarray(image.convert("RGB")))
        except _UNREADABLE:
            return None
        order = np.argsort(self._codes, kind="stable")
        known = self._codes[order]
        place = np.searchsorted(known, codes).clip(max=max(0, len(known) - 1))
        if not len(known):
            return np.full(codes.shape, NO_CLASS, dtype=np.uint8)
        return np.where(known[place] == codes, order[place], NO_CLASS).astype(np.uint8)

    def data_uri(self, ids: Ids) -> str:
        """Encode train ids as an indexed PNG in these colours."""
        # Few colours make few bits a pixel; the last one is of what has no class.
        image = Image.fromarray(np.minimum(ids, len(self._levels) - 1))
        image.putpalette(self._levels.tobytes())
        encoded = io.BytesIO()
        image.save(encoded, format="PNG")
        return _data_uri("png", encoded)


def embed_all(
    files: Iterable[Path],
    budget_bytes: int,
    labels: Mapping[Path, Ids] | None = None,
    colours: Colours | None = None,
) -> dict[Path, str]:
    """Embed pictures at the largest width at which the data URIs of all fit the budget.

    Those with train ids in `labels` are painted with the colours, the others are photographs. Left
    out is what cannot be read and, the last first, what does not fit even at the smallest width.
    """
    wanted = list(dict.fromkeys(files))
    embedded: dict[Path, str] = {}
    for width_px in WIDTHS_PX:
        embedded = {}
        for file in wanted:
            if colours and labels and file in labels:
                height, width = labels[file].shape
                width, height = _shrunk_size((width, height), width_px)
                embedded[file] = colours.data_uri(at_cells(labels[file], (height, width)))
            elif uri := _photograph(file, width_px):
                embedded[file] = uri
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


def size_of(file: Path) -> tuple[int, int] | None:
    """Read width and height of a picture; None if it cannot be read."""
    try:
        with _opened(file) as image:
            return image.size
    except _UNREADABLE:
        return None


def at_cells(ids: Ids, cells: tuple[int, int], *, align_corners: bool = False) -> Ids:
    """Read the id at the centre, or at the first corner, of each of (h, w) cells."""
    within = 0 if align_corners else 1
    rows, columns = (
        (2 * np.arange(count) + within) * pixels // (2 * count)
        for count, pixels in zip(cells, ids.shape, strict=True)
    )
    chosen: Ids = ids[rows[:, None], columns]
    return chosen


def _opened(file: Path) -> Image.Image:
    """Open a picture, after its checksum if it has one. Raises ValueError if that differs."""
    if is_sound(file) is False:
        raise ValueError(f"{file} is damaged")
    return Image.open(file)


def _photograph(file: Path, width_px: int) -> str | None:
    encoded = io.BytesIO()
    try:
        with _opened(file) as image:
            photograph = image.convert("RGB")
    except _UNREADABLE:
        return None
    size = _shrunk_size(photograph.size, width_px)
    photograph = photograph.resize(size, Image.Resampling.LANCZOS)
    photograph.save(encoded, format="JPEG", quality=82, optimize=True, progressive=True)
    return _data_uri("jpeg", encoded)


def _shrunk_size(size: tuple[int, int], width_px: int) -> tuple[int, int]:
    width, height = size
    if width <= width_px:
        return size
    return width_px, max(1, round(height * width_px / width))


def _codes(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Make one number of each RGB colour (…, 3)."""
    weights = np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    packed: NDArray[np.uint32] = colours.astype(np.uint32) @ weights
    return packed


def _data_uri(kind: str, encoded: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"
