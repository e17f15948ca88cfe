"""Images as people hand them to a network: paths, PIL images, arrays, tensors, one or many."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import Tensor

from cag_uda.data.files.images import ImageReader, as_rgb
from cag_uda.errors import DataError

GivenImage: TypeAlias = str | Path | PIL.Image.Image | NDArray[Any] | Tensor

_WANTED = (
    "want a path, a PIL image, an array (H, W, 3) or (H, W), a tensor (3, H, W), or a list of these"
)


def is_one(images: object) -> bool:
    """Tell one image from several: a list, a generator, or an array or tensor of four axes."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim != 4
    return isinstance(images, str | Path | PIL.Image.Image) or not isinstance(images, Iterable)


def as_image(image: GivenImage, reader: ImageReader) -> NDArray[np.uint8]:
    """Bring one image to the form that networks take.

    Args:
        image: a path; a PIL image; an array (H, W, 3), (H, W, 4) whose transparency is dropped, or
            grey (H, W) or (H, W, 1); a tensor (3, H, W), (1, H, W) or (H, W). Numbers of 8 bits are
            taken as they are; floats in [0, 1] and 16 bits by the reader's rules.
        reader: the rules by which files and numbers are read.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataError: if it is none of these, or cannot be read.
    """
    if isinstance(image, str | Path | PIL.Image.Image):
        return as_rgb(image, reader)
    if isinstance(image, Tensor):
        array = image.detach().cpu().numpy()
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            array = array.transpose(1, 2, 0)
    elif isinstance(image, np.ndarray):
        array = image
    else:
        raise DataError(f"cannot segment {_shown(image)}; {_WANTED}")
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3)
        hint = "; its channels come first: give array.transpose(1, 2, 0)" if channels_first else ""
        raise DataError(f"cannot segment {_shown(image)}{hint or f'; {_WANTED}'}")
    if array.dtype.kind not in "uf":
        raise DataError(
            f"cannot segment {_shown(image)}: its numbers are {array.dtype}; give uint8 from 0 to "
            "255, or floats from 0 to 1"
        )
    array = np.repeat(array, 3, 2) if array.shape[2] == 1 else array[..., :3]
    return reader.to_bytes(array, Path(_shown(image)))


def _shown(image: object) -> str:
    if isinstance(image, np.ndarray | Tensor):
        kind = "an array" if isinstance(image, np.ndarray) else "a tensor"
        return f"{kind} {tuple(image.shape)} of {image.dtype}"
    return f"{type(image).__name__} {str(image)[:80]!r}" if image is not None else "None"
