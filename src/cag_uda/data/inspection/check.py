"""Read every file of a domain before any training, and say all that is wrong with it.

Knows domains and their files; prints nothing.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from threading import Condition

import numpy as np
import numpy.typing as npt

from cag_uda.data.domains.domain import Domain, Item, MissingLabelsError
from cag_uda.data.domains.label_reader import LabelReader, misfit
from cag_uda.data.files.decoding import IF_UNREADABLE, Bytes, Codes, claimed_pixels
from cag_uda.data.files.images import Pixels
from cag_uda.data.inspection.between_splits import (
    copied_images,
    first_of,
    shared_images,
    unused_labels,
)
from cag_uda.errors import DataError
from cag_uda.types import IGNORE

_FEW_LEVELS, _NARROW = 64, 65536 / 4
_MANY_PIXELS, _LARGE_SHARE = 2, 0.02
_PIXELS_TOGETHER, _PIXELS_COUNTED = 1 << 26, 1 << 24


@dataclass(frozen=True)
class UnmappedCode:
    """A label id or colour that no rule of the domain covers."""

    pixels: int
    images: int


@dataclass(frozen=True)
class SplitReport:
    """Findings of reading every file of one split."""

    split: str
    images: int
    """Images that the patterns found."""
    labelled: int
    """Images whose label was read without a problem; 0 where labels were not looked at."""
    image_sizes: dict[tuple[int, int], int]
    """(height, width) in pixels → number of images, most frequent first."""
    class_pixels: npt.NDArray[np.int64]
    """(K,) pixels of each class; empty where labels were not looked at."""
    class_images: npt.NDArray[np.int64]
    """(K,) images that hold each class; empty where labels were not looked at."""
    ignored_pixels: int
    unreadable: dict[str, str]
    """Key of the image → why it or its label cannot be read."""
    mismatched: dict[str, str]
    """Key of the image → difference of its label's size, where it is too large."""
    values: str
    """Type and range of the numbers of the images, before they become 8 bits; "" for 8 bits."""
    resized: int
    """Labels of another size than their images, which are resized."""
    unmapped: dict[str, UnmappedCode]
    """Code, as a domain file writes it → number of its pixels and images."""
    problems: tuple[str, ...]
    """Problems that must be mended before training, one line each."""
    warnings: tuple[str, ...]
    """Notes on what may be intended."""


@dataclass(frozen=True)
class DomainReport:
    """Findings of reading the files of a domain."""

    domain: str
    class_names: tuple[str, ...]
    """Names of the K classes; empty for a domain without a label space."""
    splits: tuple[SplitReport, ...]
    warnings: tuple[str, ...]
    """Notes on what may be intended, between the splits and within them."""

    @property
    def problems(self) -> list[str]:
        """Problems to mend before training, one line each; empty if the data can be used."""
        splits_with: dict[str, list[str]] = {}
        for split in self.splits:
            for problem in split.problems:
                splits_with.setdefault(problem, []).append(split.split)
        return [f"{', '.join(splits)}: {problem}" for problem, splits in splits_with.items()]


def check_domain(
    domain: Domain,
    split: str | None = None,
    with_labels: bool = True,
    threads: int | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> DomainReport:
    """Read every image and label of a domain.

    Args:
        domain: which.
        split: the only one to read; None reads all.
        with_labels: whether to read labels. Those of a target to adapt to need not be there.
        threads: files to read at a time; None takes the number of processors. Decoding releases
            the interpreter's lock.
        on_progress: called after each image with the numbers of images read and to be read.

    Returns:
        Everything that was found. Broken data is reported, not raised.

    Raises:
        DataError: if the domain has no such split.
    """
    names = domain.splits if split is None else (split,)
    listed = {name: _listed_items(domain, name, with_labels) for name in names}
    found = {name: items for name, (items, _) in listed.items()}
    total, done = sum(len(items) for items in found.values()), 0
    reports = []
    contents: dict[str, dict[bytes, str]] = {}
    for name, (items, problems) in listed.items():
        tally = _Tally(domain.label_space.num_classes if domain.label_space else 0)
        tally.problems += problems
        for finding in _findings(domain, items, threads or os.cpu_count() or 1):
            tally.add(finding)
            if finding.content:
                contents.setdefault(name, {})[finding.content] = finding.key
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        reports.append(tally.report(domain, name))
    return DomainReport(
        domain=domain.name,
        class_names=domain.label_space.names if domain.label_space else (),
        splits=tuple(reports),
        warnings=(
            *(f"{report.split}: {warning}" for report in reports for warning in report.warnings),
            *shared_images(found),
            *copied_images(contents),
            *(unused_labels(domain, found) if split is None and with_labels else ()),
        ),
    )


@dataclass(frozen=True)
class _Finding:
    """Findings of reading one image and its label."""

    key: str
    size: tuple[int, int] | None = None
    histogram: npt.NDArray[np.int64] | None = None
    """(256,) pixels of each train id."""
    unmapped: dict[str, int] = field(default_factory=dict)
    unreadable: str | None = None
    mismatched: str | None = None
    is_resized: bool = False
    is_rescaled: bool = False
    """True if that is by more than a few pixels."""
    numbers: str = ""
    """Type of the image's numbers, where they are not of 8 bits."""
    span: tuple[float, float] = (0.0, 0.0)
    """Least and largest of them."""
    levels: int = 256
    """Number of different values that they become in 8 bits."""
    is_turned: bool = False
    """True if the image's EXIF orientation turned it, and not its label."""
    approximated: int = 0
    """Pixels of the label that have a class because of the tolerance."""
    is_mask: bool = False
    """True if the label holds 255 and otherwise 0 alone."""
    palette: bytes = b""
    """Colours of the indices that occur in a palette label; see `_palette_of`."""
    content: bytes = b""
    """Digest of the image's pixels; nothing for one of a single colour."""


def _listed_items(
    domain: Domain, split: str, with_labels: bool
) -> tuple[list[Item], Sequence[str]]:
    """List the items of a split, and the problems of the list itself."""
    labelled = domain.is_labelled(split) and with_labels
    try:
        return domain.items(split, with_labels=labelled), ()
    except MissingLabelsError as error:
        return error.items, error.problems
    except DataError as error:
        return [], error.problems


class _Gate:
    """Lets threads decode images together as long as these are not too large."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = Condition()

    @contextmanager
    def open_for(self, path: Path) -> Iterator[None]:
        """Wait until there is room for an image; the largest ones are decoded alone."""
        wanted = min(self._all, claimed_pixels(path))
        with self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


def _findings(domain: Domain, items: list[Item], threads: int) -> Iterator[_Finding]:
    """Read the items, several at a time; yields them in the order in which they are done."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="check")
    gate = _Gate(_PIXELS_TOGETHER)

    def read(item: Item) -> _Finding:
        with gate.open_for(item.image):
            return _read(domain, item)

    try:
        waiting: list[Future[_Finding]] = [pool.submit(read, item) for item in items]
        for done in as_completed(waiting):
            yield done.result()
    finally:
        # Without this, an interrupt would wait until every file was read.
        pool.shutdown(cancel_futures=True)


def _read(domain: Domain, item: Item) -> _Finding:
    problems, image, seen = [], None, _Finding(item.key)
    try:
        pixels = domain.images.pixels(item.image)
        image = domain.images.to_bytes(pixels.values, item.image)
        seen = _seen_of_image(item.key, pixels, image, domain.images.orientation == "exif")
        seen = replace(seen, content=_content_of(image))
    except DataError as error:
        problems.append(str(error))
    if item.label is None or domain.labels is None:
        return replace(seen, unreadable="; ".join(problems) or None, is_turned=False)
    try:
        codes = domain.labels.codes(item.label)
        palette = _palette_of(domain.labels, item.label, codes)
    except DataError as error:
        return replace(seen, unreadable="; ".join([*problems, str(error)]))
    label_map = domain.labels.label_map
    label = label_map.apply(codes)
    mismatched = None
    if image is not None:
        mismatched = misfit(image.shape[:2], (label.shape[0], label.shape[1]), item.label)
    histogram = _histogram(label)
    return replace(
        seen,
        histogram=histogram,
        unmapped=label_map.unmapped(codes, label),
        unreadable="; ".join(problems) or None,
        mismatched=mismatched,
        is_resized=mismatched is None and seen.size not in (None, label.shape),
        is_rescaled=mismatched is None and seen.size is not None and _is_rescaled(seen.size, label),
        approximated=label_map.approximated(codes),
        is_mask=bool(histogram[IGNORE]) and not histogram[1:IGNORE].any(),
        palette=palette,
    )


def _seen_of_image(key: str, pixels: Pixels, image: Bytes, by_exif: bool) -> _Finding:
    values, size = pixels.values, (image.shape[0], image.shape[1])
    is_turned = by_exif and pixels.orientation != 1
    if values.dtype == np.uint8:
        return _Finding(key, size, is_turned=is_turned)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    span = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    levels = len(np.unique(image))
    return _Finding(
        key, size, None, numbers=str(values.dtype), span=span, levels=levels, is_turned=is_turned
    )


def _content_of(image: Bytes) -> bytes:
    if (image.min(axis=(0, 1)) == image.max(axis=(0, 1))).all():
        return b""
    return blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def _histogram(label: Bytes) -> npt.NDArray[np.int64]:
    """(256,) pixels of each train id; in parts, as counting takes 8 bytes a pixel."""
    counts = np.zeros(256, np.int64)
    ids = label.reshape(-1)
    for start in range(0, ids.size, _PIXELS_COUNTED):
        counts += np.bincount(ids[start : start + _PIXELS_COUNTED], minlength=256)
    return counts


def _is_rescaled(size: tuple[int, int], label: Bytes) -> bool:
    return any(
        abs(own - wanted) > max(_MANY_PIXELS, _LARGE_SHARE * wanted)
        for own, wanted in zip(label.shape, size, strict=True)
    )


def _palette_of(reader: LabelReader, path: Path, codes: Codes) -> bytes:
    """Return the palette of a label as bytes: 256 × (R, G, B, whether the index occurs)."""
    if reader.label_map.encoding != "palette":
        return b""
    palette = reader.palette(path)
    if palette is None:
        return b""
    used = np.unique(codes).astype(np.int64)
    table = np.zeros((256, 4), np.uint8)
    table[: len(palette), :3] = palette[:256]
    table[used[used < 256], 3] = 1
    return table.tobytes()


class _Tally:
    """Adds up the findings of a split."""

    def __init__(self, num_classes: int) -> None:
        self.problems: list[str] = []
        self._num_classes = num_classes
        self._images = self._labelled = self._resized = self._rescaled = 0
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._pixels, self._holding = np.zeros((2, 256), dtype=np.int64)
        self._unreadable: dict[str, str] = {}
        self._mismatched: dict[str, str] = {}
        self._unmapped_pixels: Counter[str] = Counter()
        self._unmapped_images: Counter[str] = Counter()
        self._label_files = 0
        self._types: Counter[str] = Counter()
        self._span = (0.0, math.inf)
        self._levels = 0
        self._turned = self._approximated = self._masks = 0
        self._palettes = np.zeros((0, 256, 4), np.uint8)

    def add(self, finding: _Finding) -> None:
        """Take one more image into account."""
        self._images += 1
        self._resized += finding.is_resized
        self._rescaled += finding.is_rescaled
        self._turned += finding.is_turned
        self._approximated += finding.approximated
        self._masks += finding.is_mask
        if finding.numbers:
            self._types[finding.numbers] += 1
            spans = [finding.span] if self._types.total() == 1 else [self._span, finding.span]
            lows, highs = zip(*spans, strict=True)
            self._span = min(lows), max(highs)
            self._levels = max(self._levels, finding.levels)
        if finding.palette:
            self._add_palette(np.frombuffer(finding.palette, np.uint8).reshape(1, 256, 4))
        if finding.size is not None:
            self._sizes[finding.size] += 1
        if finding.unreadable is not None:
            self._unreadable[finding.key] = finding.unreadable
        if finding.mismatched is not None:
            self._mismatched[finding.key] = finding.mismatched
        self._unmapped_pixels.update(finding.unmapped)
        self._unmapped_images.update(finding.unmapped.keys())
        if finding.histogram is not None:
            self._label_files += 1
            self._labelled += not (finding.unmapped or finding.unreadable or finding.mismatched)
            self._pixels += finding.histogram
            self._holding += finding.histogram > 0

    def _add_palette(self, palette: npt.NDArray[np.uint8]) -> None:
        """Keep a palette that differs from all kept ones at some index that both use."""
        both = (self._palettes[..., 3:] & palette[..., 3:]).astype(bool)
        differs = ((self._palettes != palette) & both).any(axis=(1, 2))
        if differs.all():
            self._palettes = np.concatenate([self._palettes, palette])

    def report(self, domain: Domain, split: str) -> SplitReport:
        """Report on all images that were added."""
        count = self._num_classes if self._label_files else 0
        return SplitReport(
            split=split,
            images=self._images,
            labelled=self._labelled,
            image_sizes=dict(self._sizes.most_common()),
            class_pixels=self._pixels[:count],
            class_images=self._holding[:count],
            ignored_pixels=int(self._pixels[IGNORE]),
            unreadable=dict(sorted(self._unreadable.items())),
            mismatched=dict(sorted(self._mismatched.items())),
            values=self._values(),
            resized=self._resized,
            unmapped={
                code: UnmappedCode(pixels, self._unmapped_images[code])
                for code, pixels in self._unmapped_pixels.most_common()
            },
            problems=tuple(self._all_problems(domain)),
            warnings=tuple(self._warnings(domain, split)),
        )

    def _all_problems(self, domain: Domain) -> Iterator[str]:
        yield from self.problems
        for what, messages in (
            ("cannot be read", self._unreadable),
            ("differ in size from their labels", self._mismatched),
        ):
            if messages:
                listed = first_of(messages[key] for key in sorted(messages))
                advice = f"; {IF_UNREADABLE}" if messages is self._unreadable else ""
                yield f"{len(messages)} of {self._images} images {what}: {listed}{advice}"
        if self._unmapped_pixels and domain.labels is not None:
            yield domain.labels.unmapped_problem(dict(self._unmapped_pixels))
        low, high = self._span
        if self._levels <= _FEW_LEVELS and high - low < _NARROW and domain.images.scale == "auto":
            yield (
                f"the images hold {self._values()}; read as 8 bits, {self._levels} grey levels or "
                f"fewer are left of that: write [images] and scale = [{low:g}, {high:g}] below it, "
                'the same for all images, or scale = "percentile"'
            )
        if not self._label_files or domain.label_space is None:
            return
        if self._masks == self._label_files and self._pixels[0] and domain.label_space.num_classes:
            first, *others = domain.label_space.names
            second = others[0] if others else "thing"
            yield (
                f"every label holds 0 and 255 alone, and 255 is ignored, so {first} is all that "
                "there is to learn; for masks of 0 and 255, write map = "
                f'{{ 0 = "{first}", 255 = "{second}" }} below [labels]'
            )
        elif not self._pixels[: self._num_classes].any() and not self._unmapped_pixels:
            yield "no pixel of any label has a class: all of them are ignored; mend [labels.map]"

    def _warnings(self, domain: Domain, split: str) -> Iterator[str]:
        left_out, published = domain.excluded(split), domain.published(split)
        if self._images and left_out:
            yield f"left out as broken in the published data set: {', '.join(left_out)}"
        if self._images and published and self._images + len(left_out) != published:
            yield f"the data set was published with {published:,} images, here are {self._images:,}"
        if self._resized - self._rescaled:
            few = self._resized - self._rescaled
            yield f"{few} labels differ by a few pixels from their images and are resized"
        if self._rescaled:
            yield (
                f"{self._rescaled} labels are of another resolution than their images and are "
                "resized to the nearest pixel"
            )
        yield from self._doubts_about_images()
        yield from self._doubts_about_labels(domain)
        if domain.label_space is None or not self._label_files:
            return
        names = domain.label_space.names
        absent = [name for name, held in zip(names, self._holding, strict=False) if not held]
        if absent:
            yield f"classes that never occur: {', '.join(absent)}"

    def _values(self) -> str:
        if not self._types:
            return ""
        low, high = self._span
        return f"{' and '.join(sorted(self._types))} from {low:g} to {high:g}"

    def _doubts_about_images(self) -> Iterator[str]:
        if self._turned and self._label_files:
            yield (
                f"{self._turned} images are turned by their EXIF orientation, and labels are not: "
                "look whether they fit (`adapt` shows some); where labels were drawn on the raw "
                'pixels, write [images] and orientation = "stored" below it'
            )

    def _doubts_about_labels(self, domain: Domain) -> Iterator[str]:
        if self._approximated and domain.labels is not None:
            share = 100 * self._approximated / max(1, int(self._pixels.sum()))
            yield (
                f"{self._approximated:,} pixels ({share:.2f} %) of the labels have the class of "
                f"the nearest code, up to {domain.labels.label_map.tolerance} away"
            )
        if len(self._palettes) > 1:
            yield (
                "the palettes of the labels differ: one index has other colours in other files; if "
                "the colours are the classes, write encoding = 'rgb'"
            )
