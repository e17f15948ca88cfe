"""Read every file of a domain before any training, and say all that is wrong with it.

Knows domains and their files; prints nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from threading import Condition

import numpy as np
import numpy.typing as npt

from cag_uda.data.domains.domain import Domain, Item, MissingLabelsError
from cag_uda.data.domains.label_reader import LabelReader, misfit
from cag_uda.data.domains.placement import first_of
from cag_uda.data.files.ahead import ahead
from cag_uda.data.files.decoding import IF_UNREADABLE, Bytes, Codes, claimed_pixels
from cag_uda.data.files.images import span_of
from cag_uda.errors import DataError
from cag_uda.types import IGNORE

_FEW_LEVELS, _NARROW = 64, 65536 / 4
_MANY_PIXELS, _LARGE_SHARE = 2, 0.02
_PIXELS_TOGETHER, _PIXELS_COUNTED = 1 << 26, 1 << 24
_READ_AHEAD = 64


@dataclass(frozen=True)
class DomainReport:
    """Findings of reading the files of a domain."""

    domain: str
    class_names: tuple[str, ...]
    """Names of the K classes; empty for a domain without a label space."""
    splits: tuple["SplitReport", ...]
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
    on_progress: Callable[[int, int], object] | None = None,
) -> DomainReport:
    """Read every image and label of a domain; broken data is reported, not raised.

    Args:
        domain: to be read.
        split: the only one to read; None reads all.
        with_labels: whether to read labels. Those of a target to adapt to need not be there.
        on_progress: called after each image with the numbers of images read and to be read.

    Raises:
        DataError: if the domain has no such split.
    """
    names = domain.splits if split is None else (split,)
    listed = {name: _listed_items(domain, name, with_labels) for name in names}
    items_of = {name: items for name, (items, _) in listed.items()}
    total, done = sum(map(len, items_of.values())), 0
    gate = _Gate(_PIXELS_TOGETHER)

    def read(item: Item) -> _Finding:
        with gate.open_for(item.image):
            return _read(domain, item)

    reports = []
    contents: dict[str, dict[bytes, str]] = {}
    for name, (items, problems) in listed.items():
        findings = []
        # Closed at once, so that an interrupt does not wait until all that is ahead is read.
        with closing(ahead(read, items, _READ_AHEAD)) as results:
            for finding in results:
                findings.append(finding)
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
        reports.append(SplitReport(domain, name, findings, problems))
        contents[name] = {each.content: each.key for each in findings if each.content}
    return DomainReport(
        domain=domain.name,
        class_names=domain.label_space.names if domain.label_space else (),
        splits=tuple(reports),
        warnings=(
            *(f"{report.split}: {warning}" for report in reports for warning in report.warnings),
            *_shared_images(items_of),
            *_copied_images(contents),
            *(_unused_labels(domain, items_of) if split is None and with_labels else ()),
        ),
    )


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


def _shared_images(items_of: dict[str, list[Item]]) -> Iterator[str]:
    """Say which splits share images: a score on images that were trained on means little."""
    keys = {name: {item.key for item in items} for name, items in items_of.items()}
    for first, second in combinations(keys, 2):
        if shared := len(keys[first] & keys[second]):
            yield f"{shared} images are in both {first} and {second}"


def _copied_images(contents: dict[str, dict[bytes, str]]) -> Iterator[str]:
    """Say which splits hold the same pictures under other names."""
    for first, second in combinations(contents, 2):
        both = contents[first].keys() & contents[second].keys()
        pairs = [(contents[first][each], contents[second][each]) for each in both]
        if copies := sorted(f"{one} = {other}" for one, other in pairs if one != other):
            yield (
                f"{len(copies)} images of {second} show pixel by pixel what images of {first} "
                f"show: {first_of(copies)}"
            )


def _unused_labels(domain: Domain, items_of: dict[str, list[Item]]) -> Iterator[str]:
    """Say which label files belong to no image of any split."""
    used = {item.label for items in items_of.values() for item in items if item.label is not None}
    if used and (unused := domain.unused_labels(used)):
        yield f"{len(unused)} label files belong to no image: {first_of(unused)}"


# ---- one image ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Finding:
    """Findings of reading one image and its label."""

    key: str
    size: tuple[int, int] | None = None
    label_size: tuple[int, int] | None = None
    histogram: npt.NDArray[np.int64] | None = None
    """(256,) pixels of each train id."""
    unmapped: dict[str, int] = field(default_factory=dict)
    """Code, as a domain file writes it → number of its pixels."""
    unreadable: str | None = None
    mismatched: str | None = None
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
    palette: Bytes | None = None
    """(256, 4) R, G, B and whether the index occurs, of a palette label."""
    content: bytes = b""
    """Digest of the image's pixels; nothing for one of a single colour."""

    @property
    def is_resized(self) -> bool:
        """True if the label is of another size than the image, and can be resized to it."""
        sizes = {self.size, self.label_size}
        return self.mismatched is None and None not in sizes and len(sizes) == 2

    @property
    def is_rescaled(self) -> bool:
        """True if that is by more than a few pixels."""
        return self.is_resized and any(
            abs(own - wanted) > max(_MANY_PIXELS, _LARGE_SHARE * wanted)
            for own, wanted in zip(self.label_size or (), self.size or (), strict=True)
        )

    @property
    def is_mask(self) -> bool:
        """True if the label holds 255 and otherwise 0 alone."""
        ids = self.histogram
        return ids is not None and bool(ids[IGNORE]) and not ids[1:IGNORE].any()


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


def _read(domain: Domain, item: Item) -> _Finding:
    seen, problems = _Finding(item.key), []
    try:
        seen = _seen_of_image(domain, item)
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
    return replace(
        seen,
        label_size=label.shape,
        histogram=_histogram(label),
        unmapped=label_map.unmapped(codes, label),
        unreadable="; ".join(problems) or None,
        mismatched=misfit(seen.size, label.shape, item.label) if seen.size is not None else None,
        approximated=label_map.approximated(codes),
        palette=palette,
    )


def _seen_of_image(domain: Domain, item: Item) -> _Finding:
    """Read the image of an item. Raises DataError."""
    values, orientation = domain.images.pixels(item.image)
    image = domain.images.to_bytes(values, item.image)
    is_turned = domain.images.orientation == "exif" and orientation != 1
    seen = _Finding(item.key, image.shape[:2], is_turned=is_turned, content=_content_of(image))
    if values.dtype == np.uint8:
        return seen
    levels = len(np.unique(image))
    return replace(seen, numbers=str(values.dtype), span=span_of(values), levels=levels)


def _content_of(image: Bytes) -> bytes:
    if (image.min(axis=(0, 1)) == image.max(axis=(0, 1))).all():
        return b""
    return blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def _histogram(label: Bytes) -> npt.NDArray[np.int64]:
    """Count pixels (256,) of each train id; in parts, as counting takes 8 bytes a pixel."""
    counts = np.zeros(256, np.int64)
    ids = label.reshape(-1)
    for start in range(0, ids.size, _PIXELS_COUNTED):
        counts += np.bincount(ids[start : start + _PIXELS_COUNTED], minlength=256)
    return counts


def _palette_of(reader: LabelReader, path: Path, codes: Codes) -> Bytes | None:
    """Give the palette of a label, see `_Finding.palette`; None where it has none."""
    palette = reader.palette(path) if reader.label_map.encoding == "palette" else None
    if palette is None:
        return None
    used = np.unique(codes).astype(np.int64)
    table = np.zeros((256, 4), np.uint8)
    table[: len(palette), :3] = palette[:256]
    table[used[used < 256], 3] = 1
    return table


# ---- one split ------------------------------------------------------------------------------


class SplitReport:
    """Findings of reading every file of one split; `problems` are those of listing the files."""

    def __init__(
        self, domain: Domain, split: str, findings: Sequence[_Finding], problems: Sequence[str]
    ) -> None:
        self._domain, self._findings = domain, findings
        histograms = [each.histogram for each in findings if each.histogram is not None]
        self._pixels, self._holding = np.zeros((2, 256), dtype=np.int64)
        for ids in histograms:
            self._pixels += ids
            self._holding += ids > 0
        self._label_files = len(histograms)
        classes = domain.num_classes if histograms else 0
        self.split = split
        self.images = len(findings)
        """Images that the patterns found."""
        self.labelled = sum(
            not (each.unmapped or each.unreadable or each.mismatched)
            for each in findings
            if each.histogram is not None
        )
        """Images whose label was read without a problem; 0 where labels were not looked at."""
        sizes = Counter(each.size for each in findings if each.size is not None)
        self.image_sizes = dict(sizes.most_common())
        """(height, width) in pixels → number of images, most frequent first."""
        self.class_pixels = self._pixels[:classes]
        """(K,) pixels of each class; empty where labels were not looked at."""
        self.class_images = self._holding[:classes]
        """(K,) images that hold each class; empty where labels were not looked at."""
        self.ignored_pixels = int(self._pixels[IGNORE])
        self.unreadable = {each.key: each.unreadable for each in findings if each.unreadable}
        """Key of the image → why it or its label cannot be read."""
        self.mismatched = {each.key: each.mismatched for each in findings if each.mismatched}
        """Key of the image → difference of its label's size, where it is too large."""
        self.resized = sum(each.is_resized for each in findings)
        """Labels of another size than their images, which are resized."""
        unmapped: Counter[str] = Counter()
        for each in findings:
            unmapped.update(each.unmapped)
        self.unmapped = dict(unmapped.most_common())
        """Code, as a domain file writes it → number of its pixels; no rule covers it."""
        numbers = [each for each in findings if each.numbers]
        self._low = min((each.span[0] for each in numbers), default=0.0)
        self._high = max((each.span[1] for each in numbers), default=0.0)
        self._levels = max((each.levels for each in numbers), default=256)
        types = " and ".join(sorted({each.numbers for each in numbers}))
        self.values = f"{types} from {self._low:g} to {self._high:g}" if numbers else ""
        """Type and range of the numbers of the images, before they become 8 bits; "" for 8 bits."""
        self.problems = (*problems, *self._problems())
        """Problems that must be mended before training, one line each."""
        self.warnings = (*self._doubts_about_images(), *self._doubts_about_labels())
        """Notes on what may be intended."""

    def _problems(self) -> Iterator[str]:
        if self.unreadable:
            yield f"{self._some('cannot be read', self.unreadable)}; {IF_UNREADABLE}"
        if self.mismatched:
            yield self._some("differ in size from their labels", self.mismatched)
        domain = self._domain
        if self.unmapped and domain.labels is not None:
            yield domain.labels.unmapped_problem(self.unmapped)
        low, high = self._low, self._high
        if self._levels <= _FEW_LEVELS and high - low < _NARROW and domain.images.scale == "auto":
            yield (
                f"the images hold {self.values}; read as 8 bits, {self._levels} grey levels or "
                f"fewer are left of that: write [images] and scale = [{low:g}, {high:g}] below it, "
                'the same for all images, or scale = "percentile"'
            )
        if not self._label_files or domain.label_space is None:
            return
        masks = sum(each.is_mask for each in self._findings)
        if masks == self._label_files and self._pixels[0]:
            first, second, *_ = (*domain.label_space.names, "thing")
            yield (
                f"every label holds 0 and 255 alone, and 255 is ignored, so {first} is all that "
                "there is to learn; for masks of 0 and 255, write map = "
                f'{{ 0 = "{first}", 255 = "{second}" }} below [labels]'
            )
        elif not self.class_pixels.any() and not self.unmapped:
            yield "no pixel of any label has a class: all of them are ignored; mend [labels.map]"

    def _some(self, what: str, messages: dict[str, str]) -> str:
        listed = first_of([messages[key] for key in sorted(messages)], separator="; ")
        return f"{len(messages)} of {self.images} images {what}: {listed}"

    def _doubts_about_images(self) -> Iterator[str]:
        left_out = self._domain.excluded(self.split)
        published = self._domain.published(self.split)
        if self.images and left_out:
            yield f"left out as broken in the published data set: {', '.join(left_out)}"
        if self.images and published and self.images + len(left_out) != published:
            yield f"the data set was published with {published:,} images, here are {self.images:,}"
        turned = sum(each.is_turned for each in self._findings)
        if turned and self._label_files:
            yield (
                f"{turned} images are turned by their EXIF orientation, and labels are not: "
                "look whether they fit (`adapt` shows some); where labels were drawn on the raw "
                'pixels, write [images] and orientation = "stored" below it'
            )

    def _doubts_about_labels(self) -> Iterator[str]:
        rescaled = sum(each.is_rescaled for each in self._findings)
        if few := self.resized - rescaled:
            yield f"{few} labels differ by a few pixels from their images and are resized"
        if rescaled:
            yield (
                f"{rescaled} labels are of another resolution than their images and are "
                "resized to the nearest pixel"
            )
        approximated = sum(each.approximated for each in self._findings)
        if approximated and self._domain.labels is not None:
            share = 100 * approximated / max(1, int(self._pixels.sum()))
            yield (
                f"{approximated:,} pixels ({share:.2f} %) of the labels have the class of "
                f"the nearest code, up to {self._domain.labels.label_map.tolerance} away"
            )
        if _differ(each.palette for each in self._findings):
            yield (
                "the palettes of the labels differ: one index has other colours in other files; if "
                "the colours are the classes, write encoding = 'rgb'"
            )
        names = self._domain.label_space.names if self._domain.label_space else ()
        absent = [name for name, images in zip(names, self._holding, strict=False) if not images]
        if absent and self._label_files:
            yield f"classes that never occur: {', '.join(absent)}"


def _differ(palettes: Iterable[Bytes | None]) -> bool:
    """Tell whether an index has different colours in two palettes that both use it."""
    colours, is_known = np.zeros((256, 3), np.uint8), np.zeros(256, bool)
    for palette in palettes:
        if palette is not None:
            is_used = palette[:, 3] > 0
            if (colours != palette[:, :3])[is_known & is_used].any():
                return True
            colours[is_used], is_known[is_used] = palette[is_used, :3], True
    return False
