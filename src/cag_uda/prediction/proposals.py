"""Proposals of labels for a few images, to be corrected in an annotation tool."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cag_uda.data.domains.domain import Domain, Item
from cag_uda.data.files.resizing import resize_to_width
from cag_uda.errors import DataError
from cag_uda.files import copy_file
from cag_uda.models.segmentation import Picture, write_picture
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.views import WHOLE
from cag_uda.prediction.shapes import LabelFile, write_shapes
from cag_uda.prediction.stream import Frame, read_frames, segment

IMAGES, LABELS, PICTURES = "images", "labels", "pictures"
"""Output folders: copies of the images, PNGs of train ids, and pictures for the page."""
_PICTURE_PX = 640


def write_proposals(
    out: Path,
    segmenter: Segmenter,
    domain: Domain,
    items: Sequence[Item],
    forms: Sequence[str],
    where: Callable[[Tensor], Tensor],
) -> dict[str, dict[str, str]]:
    """Write images, proposed labels and pictures; file names are those below the domain's root.

    Each of the annotation formats, of `shapes.WRITABLE`, has a folder of its name. `where` gives
    the value of a label at each cell (B, h, w) of images (B, 3, H, W) uint8, 1 being usual.

    Returns:
        Key of the image → caption → path of the picture, relative to the folder.

    Raises:
        DataError: for an image that cannot be read any more.
        RunError: if the folder cannot be written.
    """

    def stop(item: Item, error: DataError) -> None:
        raise error

    labels, pictures = [], {}
    for number, item in enumerate(items, start=1):
        (frame,) = read_frames([item], domain.read_image, segmenter.config.input_width_px, stop)
        ((_, segmented),) = next(segment(segmenter, iter([frame]), WHOLE, wants_confidence=False))
        place = out / LABELS / f"{item.key}.png"
        write_picture(place, segmented.label)
        name = item.key + item.image.suffix
        labels.append(LabelFile(place, item.key, name))
        copy_file(item.image, out / IMAGES / name)
        cells = where(frame.prepared.to(segmenter.mean.device))[0].float().cpu().numpy()
        shown = {
            "image": segmented.image,
            "proposal": segmented.overlay(),
            "where a label teaches": _heat(frame, cells),
        }
        pictures[item.key] = {
            what: _write_small(out, f"{number:03}-{index}.png", picture)
            for index, (what, picture) in enumerate(shown.items())
        }
    for form in forms:
        write_shapes(form, out / form, labels, segmenter.classes.names)
    return pictures


def _heat(frame: Frame[Item], cells: NDArray[np.float32]) -> Picture:
    """Paint cells over the grey image: from dark, where a label teaches nothing, to bright."""
    height, width = frame.image.shape[:2]
    # Twice what is usual of whole images is bright: single pixels exceed their image's mean.
    levels = np.clip(cells / 2, 0, 1)
    large = cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(np.rint(large * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
    below = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    mixed = cv2.addWeighted(cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), 0.7, below, 0.3, 0)
    return np.asarray(mixed, dtype=np.uint8)


def _write_small(out: Path, name: str, picture: Picture) -> str:
    """Write a picture, at most so wide that a page can hold it; gives its path below `out`."""
    small = resize_to_width(picture, min(picture.shape[1], _PICTURE_PX))
    write_picture(out / PICTURES / name, small)
    return f"{PICTURES}/{name}"
