"""Reading in threads, some items ahead of whoever consumes them."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Room:
    """Limit of images held at a time, by the largest that was seen; one alone at first.

    More than one have `pixels` together at most.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels, self._largest = pixels, 0

    def see(self, pixels: int) -> None:
        """Take one more image into account."""
        self._largest = max(1, self._largest, pixels)

    def count(self) -> int:
        """Count the images as large as the largest that fit: 1 at least."""
        return max(1, self._pixels // self._largest) if self._largest else 1


def ahead(
    function: Callable[[T], R],
    items: Iterable[T],
    depth: int,
    depth_now: Callable[[], int] | None = None,
) -> Generator[R, None, None]:
    """Apply a function in threads, some items ahead of whoever consumes the results.

    Args:
        function: what takes long outside of the interpreter's lock: reading, decoding, resizing.
        items: what it is applied to.
        depth: results that are held or in the making, at most.
        depth_now: how many of these at the moment, from 1 on, where results may be large.

    Yields:
        Results in the order of the items; an error is raised where its result would have come.
    """
    remaining = iter(items)
    wanted = depth_now or (lambda: depth)
    pool = ThreadPoolExecutor(min(depth, os.cpu_count() or 1), thread_name_prefix="read-ahead")
    try:
        pending: deque[Future[R]] = deque()
        while True:
            missing = max(0, min(wanted(), depth) - len(pending))
            pending.extend(pool.submit(function, item) for item in islice(remaining, missing))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
