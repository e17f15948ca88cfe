"""Read every file of a domain before any training, and say all that is wrong with it.

Knows domains and their files; prints nothing.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cag_uda.data.domains.domain import Domain, Item, MissingLabelsError
from cag_uda.data.domains.label_reader import match_sizes
from cag_uda.errors import DataError
from cag_uda.types import IGNORE

_SHOWN = 5


@dataclass(frozen=True)
class UnmappedCode:
    """A label id or colour that no rule of the domain covers."""

    pixels: int
    images: int


@dataclass(frozen=True)
class SplitReport:
    """What reading every file of one split found."""

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
    """Key of the image → by how much its label's size differs, where it is too much."""
    resized: int
    """Labels whose size differs so little that they are resized."""
    unmapped: dict[str, UnmappedCode]
    """Code, as a domain file writes it → where it occurs."""
    problems: tuple[str, ...]
    """What must be mended before training, one line each."""
    warnings: tuple[str, ...]
    """What may be meant."""


@dataclass(frozen=True)
class DomainReport:
    """What reading the files of a domain found."""

    domain: str
    class_names: tuple[str, ...]
    """Names of the K classes; empty for a domain without a label space."""
    splits: tuple[SplitReport, ...]
    warnings: tuple[str, ...]
    """What may be meant, between the splits and within them."""

    @property
    def problems(self) -> list[str]:
        """What must be mended before training, one line each; empty if the data can be used."""
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
    for name, (items, problems) in listed.items():
        tally = _Tally(domain.label_space.num_classes if domain.label_space else 0)
        tally.problems += problems
        for finding in _findings(domain, items, threads or os.cpu_count() or 1):
            tally.add(finding)
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
            *_shared_images(found),
        ),
    )


@dataclass(frozen=True)
class _Finding:
    """What reading one image and its label found."""

    key: str
    size: tuple[int, int] | None = None
    histogram: npt.NDArray[np.int64] | None = None
    """(256,) pixels of each train id."""
    unmapped: dict[str, int] = field(default_factory=dict)
    unreadable: str | None = None
    mismatched: str | None = None
    is_resized: bool = False


def _listed_items(
    domain: Domain, split: str, with_labels: bool
) -> tuple[list[Item], Sequence[str]]:
    """The items of a split, and what is wrong with the list itself."""
    labelled = domain.is_labelled(split) and with_labels
    try:
        return domain.items(split, with_labels=labelled), ()
    except MissingLabelsError as error:
        return error.items, error.problems
    except DataError as error:
        return [], error.problems


def _findings(domain: Domain, items: list[Item], threads: int) -> Iterator[_Finding]:
    """Read the items, several at a time, in whatever order they are done."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="check")
    try:
        waiting: list[Future[_Finding]] = [pool.submit(_read, domain, item) for item in items]
        for done in as_completed(waiting):
            yield done.result()
    finally:
        # Without this, an interrupt would wait until every file was read.
        pool.shutdown(cancel_futures=True)


def _read(domain: Domain, item: Item) -> _Finding:
    problems, size, image = [], None, None
    try:
        image = domain.read_image(item)
        size = (image.shape[0], image.shape[1])
    except DataError as error:
        problems.append(str(error))
    if item.label is None or domain.labels is None:
        return _Finding(item.key, size, unreadable="; ".join(problems) or None)
    try:
        codes = domain.labels.codes(item.label)
    except DataError as error:
        return _Finding(item.key, size, unreadable="; ".join([*problems, str(error)]))
    label = domain.labels.label_map.apply(codes)
    mismatched = None
    if image is not None:
        try:
            match_sizes(image, label, item.label)
        except DataError as error:
            mismatched = str(error)
    return _Finding(
        item.key,
        size,
        histogram=np.bincount(label.ravel(), minlength=256),
        unmapped=domain.labels.label_map.unmapped(codes, label),
        unreadable="; ".join(problems) or None,
        mismatched=mismatched,
        is_resized=mismatched is None and size not in (None, label.shape),
    )


class _Tally:
    """Adds up the findings of a split."""

    def __init__(self, num_classes: int) -> None:
        self.problems: list[str] = []
        self._num_classes = num_classes
        self._images = self._labelled = self._resized = 0
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._pixels, self._holding = np.zeros((2, 256), dtype=np.int64)
        self._unreadable: dict[str, str] = {}
        self._mismatched: dict[str, str] = {}
        self._unmapped_pixels: Counter[str] = Counter()
        self._unmapped_images: Counter[str] = Counter()
        self._label_files = 0

    def add(self, finding: _Finding) -> None:
        """Take one more image into account."""
        self._images += 1
        self._resized += finding.is_resized
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

    def report(self, domain: Domain, split: str) -> SplitReport:
        """Sum up."""
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
                listed = _first(messages[key] for key in sorted(messages))
                yield f"{len(messages)} of {self._images} images {what}: {listed}"
        if self._unmapped_pixels and domain.labels is not None:
            yield domain.labels.unmapped_problem(dict(self._unmapped_pixels))

    def _warnings(self, domain: Domain, split: str) -> Iterator[str]:
        left_out, published = domain.excluded(split), domain.published(split)
        if self._images and left_out:
            yield f"left out as broken in the published data set: {', '.join(left_out)}"
        if self._images and published and self._images + len(left_out) != published:
            yield f"the data set was published with {published:,} images, here are {self._images:,}"
        if self._resized:
            yield f"{self._resized} labels differ by a few pixels from their images and are resized"
        if domain.label_space is None or not self._label_files:
            return
        names = domain.label_space.names
        absent = [name for name, held in zip(names, self._holding, strict=False) if not held]
        if absent:
            yield f"classes that never occur: {', '.join(absent)}"


def _shared_images(found: dict[str, list[Item]]) -> Iterator[str]:
    """Say which splits share images: a score on images that were trained on means little."""
    keys = {name: {item.key for item in items} for name, items in found.items()}
    names = list(keys)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            if shared := len(keys[first] & keys[second]):
                yield f"{shared} images are in both {first} and {second}"


def _first(messages: Iterable[str]) -> str:
    listed = list(messages)
    more = f"; … and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return "; ".join(listed[:_SHOWN]) + more
