"""Stream images through a network: reading ahead, batches of one size, writing in the background.

Decoding and writing run in threads beside the network, each with a bounded queue, so that memory
does not grow with the number of images.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
from torch import Tensor

from cag_uda.data.files.ahead import Room, ahead
from cag_uda.errors import DataError
from cag_uda.models.inference import prepare
from cag_uda.models.label_maps import label_batch
from cag_uda.models.segmentation import Picture, Segmentation
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.views import Views

T = TypeVar("T")

BATCH_SIZE = 4
_PIXELS_PER_BATCH = BATCH_SIZE * 2048 * 1024
"""Most pixels of a batch of several images: large images share a batch with fewer others, so that
memory is bounded."""
_PIXELS_AHEAD = 4 * _PIXELS_PER_BATCH
"""Most pixels of images that are read ahead of their use; as many of pictures may wait to be
written."""
_HELD_BATCHES = 4
"""Most images, in batches, that wait for others of their size."""


@dataclass(frozen=True, eq=False)
class Frame(Generic[T]):
    """An image ready for the network."""

    origin: T
    """Item, job or frame number that the image was read from."""
    image: Picture
    """(H, W, 3) uint8, RGB."""
    prepared: Tensor
    """(1, 3, H', W') uint8, at the width that the network was trained at."""


def read_frames(
    origins: Iterable[T],
    read_image: Callable[[T], Picture],
    width_px: int | None,
    on_broken: Callable[[T, DataError], object],
) -> Generator[Frame[T], None, None]:
    """Read images in threads, some ahead of their use.

    Args:
        origins: one for each image.
        read_image: gives its image, (H, W, 3) uint8; raises DataError if it cannot be read.
        width_px: W', or None for each image's own width.
        on_broken: called for an image that cannot be read, which is left out.
    """

    def read(origin: T) -> Frame[T] | tuple[T, DataError]:
        try:
            image = read_image(origin)
            return Frame(origin, image, prepare(image, width_px))
        except DataError as error:
            return origin, error

    room = Room(_PIXELS_AHEAD)
    with closing(ahead(read, origins, 2 * BATCH_SIZE, room.count)) as results:
        for result in results:
            if isinstance(result, Frame):
                room.see(result.image.shape[0] * result.image.shape[1])
                yield result
            else:
                on_broken(*result)


@contextmanager
def opened_video(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a video. Raises DataError if it is none."""
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise DataError(
                f"{path} is damaged or no video that OpenCV can decode; copy it again, or convert "
                "it to MP4"
            )
        yield capture
    finally:
        capture.release()


def read_video(
    capture: cv2.VideoCapture, width_px: int | None
) -> Generator[Frame[int], None, None]:
    """Read the frames of a video in a thread, some ahead of their use; origins count from 0."""

    def read(number: int) -> Frame[int] | None:
        is_read, image = capture.read()
        if not is_read:
            return None
        picture = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        return Frame(number, picture, prepare(picture, width_px))

    # One thread: a video is decoded frame after frame.
    with ThreadPoolExecutor(1, thread_name_prefix="read-video") as pool:
        pending = deque(pool.submit(read, number) for number in range(2 * BATCH_SIZE))
        while (frame := pending.popleft().result()) is not None:
            pending.append(pool.submit(read, frame.origin + len(pending) + 1))
            yield frame


def batches_of_one_size(frames: Iterable[Frame[T]]) -> Iterator[list[Frame[T]]]:
    """Gather images that can share a pass of the network, though others come between them.

    A batch is 1 to BATCH_SIZE images of one size, in their order. If too many images wait for
    others of their size, those of the size that came first are passed on as they are.
    """
    waiting: dict[tuple[int, ...], list[Frame[T]]] = {}
    for frame in frames:
        size = frame.image.shape
        alike = waiting.setdefault(size, [])
        alike.append(frame)
        pixels = max(frame.prepared[0, 0].numel(), size[0] * size[1])
        if len(alike) >= min(BATCH_SIZE, max(1, _PIXELS_PER_BATCH // pixels)):
            yield waiting.pop(size)
        elif sum(map(len, waiting.values())) >= _HELD_BATCHES * BATCH_SIZE:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def segment(
    segmenter: Segmenter, frames: Iterable[Frame[T]], views: Views, wants_confidence: bool
) -> Iterator[list[tuple[T, Segmentation]]]:
    """Label images batch by batch, in the order in which batches of one size are complete."""
    for batch in batches_of_one_size(frames):
        size = (batch[0].image.shape[0], batch[0].image.shape[1])
        prepared = [frame.prepared for frame in batch]
        found = label_batch(segmenter, prepared, size, views, with_confidence=wants_confidence)
        segmented = found.segmentations([frame.image for frame in batch], segmenter.classes)
        yield [(frame.origin, each) for frame, each in zip(batch, segmented, strict=True)]


class Behind:
    """Runs calls in background threads; used in a `with` statement.

    The first error is raised at the next call or at the end; after an error, calls that have not
    begun are dropped.

    Args:
        threads: number of threads.
        depth: most calls that wait or run; a further call blocks until the oldest is done.
    """

    def __init__(self, threads: int, depth: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="write-behind")
        self._depth = depth
        self._pending: deque[tuple[Future[None], int]] = deque()
        """Calls that wait or run, each with its cost."""

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            while self._pending and kind is None:
                self._pending.popleft()[0].result()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def call(self, function: Callable[[], None], pixels: int = 0) -> None:
        """Run a function in a thread; one that holds many pixels counts as several calls."""
        cost = max(1, pixels * self._depth // _PIXELS_AHEAD)
        while self._pending and sum(cost for _, cost in self._pending) + cost > self._depth:
            self._pending.popleft()[0].result()
        self._pending.append((self._pool.submit(function), cost))
