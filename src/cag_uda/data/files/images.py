"""Reading of photographs: the one way, for training, prediction, evaluation and pictures.

Whatever a file holds becomes (H, W, 3) uint8 RGB by three rules: which `bands`, how their numbers
become 8 bits (`scale`), and whether the EXIF orientation turns them. Knows no domain and no label.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps
from pydantic import BeforeValidator, Field, StrictInt

from cag_uda.data.files.decoding import (
    MOST_LARGE_PIXELS,
    MOST_PIXELS,
    Bytes,
    bytes_of,
    decoded_bands,
    decoded_colours,
    orientation_of,
)
from cag_uda.errors import DataError
from cag_uda.types import Config

_PERCENTILES = (1, 99)
_FIRST_TRANSPOSED = 5
"""EXIF orientations from this on exchange height and width."""


def _known_scale(value: Any) -> Any:
    """Say in one line what pydantic would say of each of the two forms."""
    if value in ("auto", "percentile"):
        return value
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if not is_pair or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
        raise ValueError(f'want "auto", "percentile" or [low, high], got {value!r}')
    if not value[0] < value[1]:
        raise ValueError(f"{list(value)} does not rise; want [low, high], black and white")
    return value


_Scale = Literal["auto", "percentile"] | tuple[float, float]
_Band = Annotated[StrictInt, Field(ge=0)]


class ImageReader(Config):
    """Reader of photographs: `[images]` of a domain file, and what a network remembers of it."""

    scale: Annotated[_Scale, BeforeValidator(_known_scale)] = "auto"
    """Scaling to 8 bits. auto: 8 bits as they are, 16 bits from 0 to 65535, floats from 0
    to 1; [low, high]: these numbers become black and white, the same for all images; percentile:
    the 1st and 99th percentile of each image do."""
    bands: tuple[_Band, _Band, _Band] | None = None
    """Numbers of the bands that are red, green and blue; the first is 0. None: the first three."""
    orientation: Literal["exif", "stored"] = "exif"
    """exif: photographs are turned upright as their files say, and labels are not; stored: they
    are left as they lie in the file, for labels that were drawn on the raw pixels."""

    def read(self, path: Path, large: bool = False) -> Bytes:
        """Read a photograph.

        Grey, palette and CMYK images become RGB, and transparency is dropped.

        Args:
            path: of any format that OpenCV or Pillow reads, told by content.
            large: whether to take images of more than 179 million pixels, up to 2^30.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            DataError: if the file is missing, empty, cut off or no image, has not the bands, or
                holds numbers that the scale does not cover.
        """
        data = bytes_of(path, MOST_LARGE_PIXELS if large else MOST_PIXELS)
        return self.to_bytes(self._values(data, path), path)

    def pixels(self, path: Path) -> tuple[npt.NDArray[Any], int]:
        """Read the numbers that `to_bytes` takes, (H, W, 3), and the file's EXIF orientation.

        Raises DataError.
        """
        data = bytes_of(path)
        return self._values(data, path), orientation_of(data)

    def to_bytes(self, values: npt.NDArray[Any], path: Path) -> Bytes:
        """Bring numbers (H, W, 3) to 8 bits; the path is for messages.

        Raises DataError for numbers that "auto" knows no scale of.
        """
        if values.dtype == np.uint8 and self.scale == "auto":
            return values
        if isinstance(self.scale, tuple):
            low, high = self.scale
        elif self.scale == "auto":
            low, high = _natural_range(values, path)
        else:
            low, high = _percentiles(values)
        numbers = values.astype(np.float32, copy=False)
        shares = (numbers - low) * (255 / max(high - low, 1e-12))
        shares = np.nan_to_num(shares, nan=0.0, posinf=255.0, neginf=0.0)
        rounded: Bytes = np.rint(np.clip(shares, 0, 255)).astype(np.uint8)
        return rounded

    def size(self, path: Path) -> tuple[int, int]:
        """Find (H, W) of what `read` gives, by the file's header if it tells. Raises DataError."""
        try:
            with PIL.Image.open(path) as image:
                width, height = image.size
                turn = image.getexif().get(0x112, 1) if self.orientation == "exif" else 1
        except Exception:  # Pillow's parsers raise anything; decoding says what is wrong.
            array = self.read(path)
            return array.shape[0], array.shape[1]
        return (width, height) if turn in range(_FIRST_TRANSPOSED, 9) else (height, width)

    @property
    def salt(self) -> str:
        """All that images are read by, besides their files."""
        return f"{self.scale} {self.bands} {self.orientation}"

    def _values(self, data: bytes, path: Path) -> npt.NDArray[Any]:
        if self.bands is None:
            return decoded_colours(data, path, self.orientation == "stored")
        all_bands = decoded_bands(data, path)
        count = all_bands.shape[2]
        if max(self.bands) >= count:
            raise DataError(
                f"{path} has {count} bands, so {list(self.bands)} are not all among them; the "
                "first is 0"
            )
        chosen = all_bands[..., list(self.bands)]
        return _turned(chosen, 1 if self.orientation == "stored" else orientation_of(data))


DEFAULT = ImageReader()
"""The rules where nobody says others."""


def read_image(path: Path) -> Bytes:
    """Read a photograph by the default rules: (H, W, 3) uint8 RGB; see `ImageReader.read`."""
    return DEFAULT.read(path)


def as_rgb(
    image: str | Path | PIL.Image.Image | npt.NDArray[Any], reader: ImageReader = DEFAULT
) -> Bytes:
    """Give an image as (H, W, 3) uint8 RGB, upright where the file says how it was held.

    It is a path, a PIL image, or such an array, which is passed through. Raises DataError if it
    cannot be read as an image.
    """
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, str | Path):
        return reader.read(Path(image))
    upright = PIL.ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        grey = np.asarray(upright)
        if upright.mode.startswith("I;16"):
            grey = grey.astype(np.uint16)
        return reader.to_bytes(np.dstack([grey] * 3), Path("the PIL image"))
    return np.asarray(upright.convert("RGB"), dtype=np.uint8)


def _percentiles(values: npt.NDArray[Any]) -> tuple[float, float]:
    finite = finite_of(values)
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, _PERCENTILES)
    return float(low), float(high) if high > low else float(low) + 1


def _natural_range(values: npt.NDArray[Any], path: Path) -> tuple[float, float]:
    """Return the range that numbers of a type have by convention."""
    if values.dtype == np.uint16:
        return 0.0, 65535.0
    low, high = span_of(values)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    raise DataError(
        f"{path} holds {values.dtype} numbers from {low:g} to {high:g}, of which nothing says what "
        f"is black and white; in the domain file, write [images] and scale = [{low:g}, {high:g}] "
        'below it, the same for all images, or scale = "percentile"'
    )


def finite_of(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Leave out NaN and the infinite numbers."""
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def span_of(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Find the least and the largest of the finite numbers; 0 and 0 where there are none."""
    finite = finite_of(values)
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _turned(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turn an image upright (EXIF 2.32, tag 0x0112)."""
    if orientation >= _FIRST_TRANSPOSED:
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)
