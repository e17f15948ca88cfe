"""Label maps of images of any size, by a network that holds no more memory than there is.

Whole images share passes as far as memory allows; an image that is too large for that is looked at
window by window. Knows images and networks; knows no label that is true.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cag_uda.errors import DataError
from cag_uda.models.config import Classes
from cag_uda.models.inference import (
    Image,
    LabelMap,
    as_trained,
    batches_of_one_kind,
    device_of,
    inference,
    most_likely,
    prepare,
    upsample,
    view_logits,
)
from cag_uda.models.memory import bytes_per_pixel, free_bytes
from cag_uda.models.segmentation import Segmentation
from cag_uda.models.strips import label_strips
from cag_uda.models.views import WHOLE, Views

if TYPE_CHECKING:
    from cag_uda.models.segmenter import Segmenter

_SHARE = 0.7
"""Share of the free memory that one pass may take."""
_CERTAIN_BYTES_PER_PIXEL = 4096
"""Bytes per pixel that suffice for every network: where so much is free, nothing is measured."""
_RESULT_BYTES_PER_PIXEL = 24
"""Bytes per pixel of the result: one class's logits at its size, the best so far, and the like."""
_ALWAYS_WHOLE_PIXELS = 1 << 22
"""Images of up to twice 2048×1024 are looked at whole wherever that fits, as their scores were
published. Larger ones gain nothing by more memory than `_WINDOW_BYTES` on a CPU."""
_WINDOW_BYTES = 3 << 29


@dataclass(eq=False)
class Labelling:
    """Labels and confidence of some images of one size, filled in strip by strip."""

    label: npt.NDArray[np.uint8]
    """(B, H, W) train ids."""
    confidence: npt.NDArray[np.float32] | None
    """(B, H, W) in [0, 1], the probability of the label; None where nobody asked for it."""
    with_probabilities: bool
    align_corners: bool
    probabilities: npt.NDArray[np.float32] | None = None
    """(B, K, H, W) in [0, 1], of every class; None where nobody asked for them."""

    def add(self, index: int, rows: slice, looks: list[Tensor]) -> None:
        """Fill in rows of images from `index` on, by the logits of each view."""
        count, classes = looks[0].shape[:2]
        images, part = slice(index, index + count), (rows.stop - rows.start, self.label.shape[2])
        if self.with_probabilities:
            if self.probabilities is None:
                shape = len(self.label), classes, *self.label.shape[1:]
                self.probabilities = np.empty(shape, np.float32)
            each = [upsample(look, part, self.align_corners) for look in looks]
            mean = torch.stack(each).mean(0)
            self.probabilities[images, :, rows] = mean.softmax(1).cpu().numpy()
        if self.confidence is None:
            best = most_likely(looks, part, self.align_corners)
        else:
            best, sure = most_likely_with_confidence(looks, part, self.align_corners)
            self.confidence[images, rows] = sure.cpu().numpy()
        self.label[images, rows] = best.cpu().numpy()

    def segmentations(self, images: Sequence[Image], classes: Classes) -> Iterator[Segmentation]:
        """Put each image (H, W, 3) together with what was found of it."""
        sure, shares = self.confidence, self.probabilities
        for index, image in enumerate(images):
            of_label = None if sure is None else sure[index]
            of_classes = None if shares is None else shares[index]
            yield Segmentation(image, self.label[index], of_label, classes, of_classes)


def label_map(segmenter: Segmenter, image: Image, views: Views = WHOLE) -> LabelMap:
    """Segment one image (H, W, 3) uint8, RGB, at its own resolution; the mode is restored.

    Returns:
        (H, W) uint8 train ids.

    Raises:
        DataError: if this is no RGB image of 8 bits.
    """
    return next(label_maps(segmenter, [image], batch_size=1, views=views))


def label_maps(
    segmenter: Segmenter, images: Iterable[Image], batch_size: int = 4, views: Views = WHOLE
) -> Iterator[LabelMap]:
    """Segment images at their own resolutions, one after the other.

    They are (H, W, 3) uint8 each, RGB, of any sizes, and are read one batch at a time; neighbours
    of one size share a pass of the network. Between two results the network is in the mode that the
    caller left it in.

    Yields:
        (H, W) uint8 train ids per image, in the order of the images.

    Raises:
        DataError: if one is no RGB image of 8 bits.
    """
    width = segmenter.config.input_width_px
    prepared = ((prepare(image, width), image.shape[:2]) for image in images)
    for batch in batches_of_one_kind(prepared, lambda pair: (pair[0].shape, pair[1]), batch_size):
        yield from label_batch(segmenter, [image for image, _ in batch], batch[0][1], views).label


def segmentations(
    segmenter: Segmenter,
    images: Iterable[Image],
    classes: Classes,
    *,
    batch_size: int = 4,
    with_probabilities: bool = False,
) -> Iterator[Segmentation]:
    """Segment images as `label_maps` does, one result an image, with confidence.

    Probabilities of all classes come with them if asked for.
    """
    width = segmenter.config.input_width_px
    for batch in batches_of_one_kind(images, lambda image: image.shape, batch_size):
        found = label_batch(
            segmenter,
            [prepare(image, width) for image in batch],
            (batch[0].shape[0], batch[0].shape[1]),
            with_confidence=True,
            with_probabilities=with_probabilities,
        )
        yield from found.segmentations(batch, classes)


def label_batch(
    segmenter: Segmenter,
    prepared: Sequence[Tensor],
    size: tuple[int, int],
    views: Views = WHOLE,
    *,
    with_confidence: bool = False,
    with_probabilities: bool = False,
    num_classes: int | None = None,
) -> Labelling:
    """Segment prepared images of one size in bounded memory.

    Args:
        segmenter: the network; its mode is restored afterwards.
        prepared: results of `prepare`, (1, 3, H', W') uint8 each, of one size.
        size: (H, W) of the result, in pixels.
        views: whose logits to average.
        with_confidence: give the probabilities of the labels too.
        with_probabilities: give those of all classes too.
        num_classes: K that the caller counts on; None takes what comes.

    Raises:
        DataError: if the network has another number of classes than the caller counts on.
    """
    views = as_trained(views, segmenter)
    shape = prepared[0].shape[2], prepared[0].shape[3]
    label = np.empty((len(prepared), *size), np.uint8)
    sure = np.empty(label.shape, np.float32) if with_confidence else None
    found = Labelling(label, sure, with_probabilities, views.align_corners)
    with inference(segmenter):
        share = _images_a_pass(segmenter, len(prepared), shape, size, views)
        for index in range(0, len(prepared), share or 1):
            if share:
                looks = view_logits(segmenter, torch.cat([*prepared[index : index + share]]), views)
                strips: Iterable[tuple[slice, list[Tensor]]] = [(slice(0, size[0]), looks)]
            else:
                pixels = _window_pixels(segmenter, views)
                strips = label_strips(segmenter, prepared[index], size, views, pixels)
            for rows, looks in strips:
                if num_classes not in (None, classes := looks[0].shape[1]):
                    raise DataError(
                        f"the network tells {classes} classes apart, but the domain has "
                        f"{num_classes}: use a domain with the label space that it was trained on"
                    )
                found.add(index, rows, looks)
    return found


def _images_a_pass(
    segmenter: Segmenter, count: int, shape: tuple[int, int], size: tuple[int, int], views: Views
) -> int:
    """Count the whole images of a shape (H', W') that fit into one pass; 0 if not even one does.

    Where windows were asked for, none is looked at whole unless it is no larger than a window.
    """
    seen = math.prod(views.image_size(shape, max(views.scales)))
    if views.window_px is not None and any(map(int.__gt__, shape, views.window_px)):
        return 0
    device = device_of(segmenter)
    most = _SHARE * free_bytes(device)
    if device.type == "cpu" and seen > _ALWAYS_WHOLE_PIXELS:
        most = min(most, _WINDOW_BYTES)
    of_result = math.prod(size) * _RESULT_BYTES_PER_PIXEL * len(views.scales)
    if count * (seen * _CERTAIN_BYTES_PER_PIXEL + of_result) <= most:
        return count
    # What the network holds at its peak has gone when the result is computed.
    each = max(seen * bytes_per_pixel(segmenter, device), of_result)
    return min(count, int(most / each))


def _window_pixels(segmenter: Segmenter, views: Views) -> int:
    """Count the pixels of a window that fits into memory."""
    if views.window_px is not None:
        return math.prod(views.window_px)
    device = device_of(segmenter)
    most = min(_SHARE * free_bytes(device), _WINDOW_BYTES)
    return int(most / bytes_per_pixel(segmenter, device))


def most_likely_with_confidence(
    looks: Sequence[Tensor], size: tuple[int, int], align_corners: bool = False
) -> tuple[Tensor, Tensor]:
    """Find the classes with the highest upsampled logits, and their softmax probabilities.

    One class at a time, as `most_likely` does, which takes the same and whose labels these are.

    Returns:
        (B, H, W) uint8 train ids, and (B, H, W) float32 in [1 / K, 1].
    """

    def value_of(train_id: int) -> Tensor:
        values = [upsample(look[:, train_id : train_id + 1], size, align_corners) for look in looks]
        return torch.stack(values).mean(0) if len(values) > 1 else values[0]

    best = value_of(0)
    total = torch.ones_like(best)
    label = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for train_id in range(1, looks[0].shape[1]):
        value = value_of(train_id)
        label.masked_fill_(value > best, train_id)
        # The sum of exp(value − best) so far: of the two terms one is the exponential of 0.
        higher = torch.maximum(best, value)
        total = total * (best - higher).exp() + (value - higher).exp()
        best = higher
    return label[:, 0], total.reciprocal()[:, 0]
