"""Logits of images that are too large to be looked at as a whole, in bounded memory.

The network sees one window after the other, each with a margin that is thrown away, and their
logits are put together on the grid that the whole image would have. Of this grid only the rows that
a strip of the result needs are held. Knows windows and grids, not how large they should be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.models.inference import on_device, scaled, upsample
from cag_uda.models.views import Views, offsets
from cag_uda.models.windows import Window

if TYPE_CHECKING:
    from cag_uda.models.segmenter import Segmenter

_PIXELS_PER_STRIP = 1 << 22
_MARGIN_SHARE = 17
"""The margin is a 17th of a window's side, so that looking twice costs 30 % at most. Networks see
further than that, but ever less of it matters."""


@dataclass(frozen=True)
class Stretch:
    """Rows, or columns, of a window and the part of them that counts, in pixels."""

    start: int
    stop: int
    kept_start: int
    kept_stop: int


def label_strips(
    segmenter: Segmenter, image: Tensor, size: tuple[int, int], views: Views, most_pixels: int
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Give the logits of an image strip by strip.

    Args:
        segmenter: the network, in evaluation mode and without gradients.
        image: (1, 3, H', W') uint8, on the CPU.
        size: (H, W) of the result, in pixels.
        views: whose logits to average, with `align_corners` as the network wants it.
        most_pixels: of a window that the network can take, where `views` has no windows.

    Yields:
        Rows of the result from top to bottom, and for each scale (1, K, rows, w) logits, brought to
        these rows but not to the columns of the result.
    """
    looks = [_Look(segmenter, scaled(image, views, at), views, most_pixels) for at in views.scales]
    count = max(1, _PIXELS_PER_STRIP // size[1])
    for top in range(0, size[0], count):
        rows = slice(top, min(top + count, size[0]))
        yield rows, [look.upsampled(rows, size[0]) for look in looks]


class _Look:
    """Logits of an image at one scale, made from top to bottom, a row of windows at a time."""

    def __init__(self, segmenter: Segmenter, image: Tensor, views: Views, most_pixels: int) -> None:
        self._segmenter, self._image, self._views = segmenter, image, views
        size = image.shape[2], image.shape[3]
        self._cell = Fraction(1)
        """Pixels per cell of the grid. Windows that were asked for overlap, and are averaged pixel
        by pixel, as in `view_logits`."""
        if views.window_px is not None:
            self._rows, self._columns = (
                [
                    Stretch(at, min(at + side, length), at, min(at + side, length))
                    for at in offsets(length, side, views.overlap)
                ]
                for length, side in zip(size, views.window_px, strict=True)
            )
        else:
            self._rows, self._columns = plan_windows(size, most_pixels, segmenter.grid_px)
            self._cell = self._cell_of_network()
        self._height, self._width = (math.ceil(side / self._cell) for side in size)
        self._blank: dict[tuple[int, ...], Tensor] = {}
        """Logits of windows of one colour, by size and colour."""
        self._next = 0
        self._top = 0
        """First row of the grid that is held."""
        self._held: Tensor | None = None
        """(1, K, rows, w): sums over windows, of which those above the next windows are whole."""
        self._looks: Tensor | None = None
        """(rows, w): how many windows."""

    def upsampled(self, rows: slice, height: int) -> Tensor:
        """Make logits (1, K, rows, w) of rows of a result of a height; rows above are given up."""
        places = torch.arange(rows.start, rows.stop, dtype=torch.float64)
        if self._views.align_corners:
            places = places * ((self._height - 1) / max(1, height - 1))
        else:
            places = ((places + 0.5) * (self._height / height) - 0.5).clamp(min=0)
        above = places.floor().long()
        below = (above + 1).clamp(max=self._height - 1)
        first, last = int(above[0]), int(below[-1]) + 1
        grid = self._grid_rows(first, last)
        weight = (places - above).to(grid)[:, None]
        above, below = (each.to(grid.device) - first for each in (above, below))
        return torch.lerp(grid[:, :, above], grid[:, :, below], weight)

    def _grid_rows(self, first: int, last: int) -> Tensor:
        # The rows above the next windows are finished: none will add to them any more.
        while (
            self._next < len(self._rows) and self._on_grid(self._rows[self._next].kept_start) < last
        ):
            for columns in self._columns:
                for mirrored in (False, True) if self._views.flip else (False,):
                    self._add_window(self._rows[self._next], columns, mirrored)
            self._next += 1
        assert self._held is not None
        assert self._looks is not None
        self._held, self._looks = (
            each[..., first - self._top :, :] for each in (self._held, self._looks)
        )
        self._top = first
        return self._held[..., : last - first, :] / self._looks[: last - first]

    def _add_window(self, rows: Stretch, columns: Stretch, mirrored: bool) -> None:
        """Add the logits of a window of the image, or of the mirrored image."""
        top, bottom = self._on_grid(rows.kept_start), self._on_grid(rows.kept_stop)
        left, right = self._on_grid(columns.kept_start), self._on_grid(columns.kept_stop)
        logits = self._logits_of(rows, columns, mirrored)
        above, before = self._on_grid(rows.start), self._on_grid(columns.start)
        kept = logits[..., top - above : bottom - above, left - before : right - before]
        if mirrored:
            kept = kept.flip(-1)
            if self._views.window_px is None:
                left, right = self._width - right, self._width - left
        if self._held is None or self._looks is None:
            self._held = logits.new_zeros(1, logits.shape[1], 0, self._width)
            self._looks = logits.new_zeros(0, self._width)
        if (missing := bottom - self._top - len(self._looks)) > 0:
            # A copy, so that rows that were given up are freed.
            self._held = F.pad(self._held, (0, 0, 0, missing))
            self._looks = F.pad(self._looks, (0, 0, 0, missing))
        self._held[..., top - self._top : bottom - self._top, left:right] += kept
        self._looks[top - self._top : bottom - self._top, left:right] += 1

    def _logits_of(self, rows: Stretch, columns: Stretch, mirrored: bool) -> Tensor:
        """Make logits (1, K, h, w) of a window, a cell of the grid each.

        Windows that were asked for are mirrored each; others are of the mirrored image, so that
        strides fall on its pixels as when it is looked at whole.
        """
        start, stop = columns.start, columns.stop
        if mirrored and self._views.window_px is None:
            start, stop = self._image.shape[3] - stop, self._image.shape[3] - start
        piece = self._image[..., rows.start : rows.stop, start:stop]
        if bool((piece == piece[..., :1, :1]).all()):
            # Most of a slide, or of a mosaic of aerial images, is of one colour: look at it once.
            key = (*piece.shape[2:], *piece[0, :, 0, 0].tolist())
            if key not in self._blank:
                self._blank[key] = self._seen(piece, mirrored, rows, columns)
            return self._blank[key]
        return self._seen(piece, mirrored, rows, columns)

    def _seen(self, piece: Tensor, mirrored: bool, rows: Stretch, columns: Stretch) -> Tensor:
        window = on_device(piece, self._segmenter)
        # Windows that were asked for are images; of others the network is told where they lie.
        place: AbstractContextManager[None] = nullcontext()
        if self._views.window_px is None:
            size = self._image.shape[2], self._image.shape[3]
            place = self._segmenter.in_window(Window(size, (rows.start, columns.start)))
        with place:
            seen = self._segmenter(window.flip(-1) if mirrored else window)
        logits: Tensor = seen.logits.float()
        height, width = (
            self._on_grid(each.stop) - self._on_grid(each.start) for each in (rows, columns)
        )
        if logits.shape[2:] == (height, width):
            return logits
        return upsample(logits, (height, width), self._views.align_corners)

    def _on_grid(self, pixels: int) -> int:
        """Find the cell that begins at a pixel; for the image's end, count the cells."""
        return math.ceil(pixels / self._cell)

    def _cell_of_network(self) -> Fraction:
        """Find the pixels per cell of the network's logits, if windows begin with cells; else 1."""
        side = self._segmenter.grid_px
        probe = self._image.new_zeros(1, 3, 2 * side, 2 * side)
        cells = self._segmenter(on_device(probe, self._segmenter)).logits.shape[2]
        cell = Fraction(2 * side, cells)
        return cell if side % cell == 0 and cell >= 1 else Fraction(1)


def plan_windows(
    size: tuple[int, int], most_pixels: int, unit_px: int
) -> tuple[list[Stretch], list[Stretch]]:
    """Cut an image (H, W) into windows so that the fewest pixels are looked at twice.

    Windows begin, and what counts of them begins, at multiples of `unit_px`. They have at most
    `most_pixels`, unless they are the smallest that there are.

    Returns:
        The rows of the windows, and their columns.
    """
    all_rows, all_columns = (list(_plans(side, unit_px)) for side in size)
    best, least = (all_rows[-1], all_columns[-1]), math.inf
    for columns in all_columns:
        widths = [each.stop - each.start for each in columns]
        for rows in all_rows:
            heights = [each.stop - each.start for each in rows]
            if max(heights) * max(widths) <= most_pixels:
                looked_at = sum(heights) * sum(widths)
                if looked_at < least:
                    best, least = (rows, columns), looked_at
                break
    return best


def _plans(length: int, unit_px: int) -> Iterator[list[Stretch]]:
    """Yield windows of a side, from one that is all of it to the smallest, with margins."""
    yield [Stretch(0, length, 0, length)]
    units, before = math.ceil(length / unit_px), 1
    for count in range(2, units + 1):
        # Of `count` equal cores, in units, each as small as covers the length.
        core = math.ceil(units / count)
        number = math.ceil(units / core)
        if number == before:
            continue
        before = number
        margin = max(1, round(core / (_MARGIN_SHARE - 2)))
        edges = [min(index * core * unit_px, length) for index in range(number + 1)]
        yield [
            Stretch(
                max(0, start - margin * unit_px), min(length, stop + margin * unit_px), start, stop
            )
            for start, stop in pairwise(edges)
        ]
