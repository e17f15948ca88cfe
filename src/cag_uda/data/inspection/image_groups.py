"""Groups the image files of a folder that no domain file describes: photographs and their labels.

Files of one folder whose names end alike are a group; a few files of each say what they look like.
Knows names and looks; makes no patterns and no splits.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path, PurePosixPath
from typing import TypeVar

from cag_uda.data.files.patterns import find_images
from cag_uda.data.inspection.label_looks import Look, look_of

T = TypeVar("T")

_SAMPLES = 3
_MANY_SISTERS = 8
_LEAST_OVERLAP = 0.5

_LABEL_WORDS = {
    *("label", "labels", "labelid", "labelids", "trainids", "labeltrainids", "l"),
    *("mask", "masks", "gt", "gtfine", "gtcoarse", "groundtruth", "seg", "segs", "semantic"),
    *("annot", "annots", "annotation", "annotations", "ann", "trainannot", "valannot", "testannot"),
    *("segmentation", "segmentations", "segmentationclass"),
}
_PHOTO_WORDS = {
    *("image", "images", "img", "imgs", "rgb", "photo", "photos", "picture", "pictures"),
    *("leftimg8bit", "jpegimages", "frame", "frames", "input", "inputs"),
}
_NO_CLASSES = {
    *("color", "colour", "colors", "colours", "instance", "instances", "instanceids", "panoptic"),
    *("depth", "disparity", "invalid", "edge", "edges", "polygons", "confidence", "overlay"),
    *("preview", "segmentationobject"),
}
_ENDING = re.compile(r"(?:[_\-.][A-Za-z][A-Za-z0-9]*)+$")


@dataclass(frozen=True, eq=False)
class Group:
    """Files of one folder, of one extension, whose names end alike."""

    root: Path
    folder: str
    """Path below the root, "" for the root itself."""
    suffix: str
    """Common end of the stems, such as "_gtFine_labelIds"; often empty."""
    extension: str
    """With its dot, as written."""
    names: dict[str, str]
    """Stem without the suffix → file name."""
    shares_stems: bool
    """Whether another file of the folder has the same stem, so that the extension must be told."""

    @property
    def paths(self) -> list[Path]:
        """Of the files, sorted."""
        return [self.root / self.folder / name for name in sorted(self.names.values())]

    @property
    def words(self) -> set[str]:
        """Words of the suffix and the folders, in small letters."""
        return set(re.split(r"[^a-z0-9]+", f"{self.folder}/{self.suffix}".lower()))

    def pattern(self, with_suffix: bool = True, with_extension: bool = False) -> str:
        """Pattern of the files, or of more, where suffix and extension tell nothing apart."""
        suffix = self.suffix if with_suffix else ""
        ending = self.extension if with_extension or self.shares_stems else ""
        return f"{self.folder}/*{suffix}{ending}".lstrip("/")


def find_groups(root: Path) -> list[Group]:
    """All image files below a folder, by folder, extension and end of the name."""
    by_folder: dict[str, list[PurePosixPath]] = defaultdict(list)
    for image in find_images(root, "**/*"):
        path = PurePosixPath(image.path.relative_to(root).as_posix())
        by_folder[str(path.parent) if path.parent.name else ""].append(path)
    return [
        group
        for folder, paths in sorted(by_folder.items())
        for group in _groups_of(root, folder, paths)
    ]


def photos_and_labels(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Part the groups by look; where all look like labels, names decide."""
    looks = _looks(groups)
    photos = [group for group in groups if looks[group] == "photo"]
    labels = [group for group in groups if looks[group] == "label"]
    if not photos:
        photos = [group for group in labels if group.words & _PHOTO_WORDS]
        labels = [group for group in labels if group not in photos]
    # Labels by name that look like photographs are previews, or JPEGs, which are no labels.
    rightly = [
        group
        for group in photos
        if group.words & _PHOTO_WORDS or not group.words & (_LABEL_WORDS | _NO_CLASSES)
    ]
    return rightly or photos, labels


def paired(photos: Sequence[Group], labels: Iterable[Group]) -> list[tuple[Group, Group | None]]:
    """Give each group of photographs the labels whose files are named like them, if there are any.

    Of several the likeliest; no label is given to two photographs, though the images of all splits
    may have the same names.
    """
    ranked = sorted(
        ((*_likeliness(photo, label), photo, label) for label in labels for photo in photos),
        key=lambda each: each[:-2],
        reverse=True,
    )
    chosen: dict[Group, Group] = {}
    taken: dict[Group, set[str]] = defaultdict(set)
    for *_, photo, label in ranked:
        common = photo.names.keys() & label.names.keys()
        is_enough = len(common) >= _LEAST_OVERLAP * min(len(photo.names), len(label.names))
        if photo not in chosen and is_enough and not common & taken[label]:
            chosen[photo] = label
            taken[label] |= common
    return [(photo, chosen.get(photo)) for photo in photos]


def _likeliness(photo: Group, label: Group) -> tuple[bool, float, bool, float, str]:
    """How likely labels are those of photographs, larger is likelier; the last breaks ties."""
    return (
        not label.words & _NO_CLASSES,
        len(photo.names.keys() & label.names.keys()) / len(photo.names),
        bool(label.words & {"labeltrainids", "trainids"}),
        SequenceMatcher(None, photo.folder, label.folder).ratio(),
        label.pattern(),
    )


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most so many items, spread over all."""
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


def _groups_of(root: Path, folder: str, paths: Sequence[PurePosixPath]) -> Iterator[Group]:
    stems = Counter(path.stem for path in paths)
    suffixes = _suffixes(list(stems))
    found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for path in paths:
        suffix = suffixes[path.stem]
        found[suffix, path.suffix][path.stem.removesuffix(suffix)] = path.name
    for (suffix, extension), names in sorted(found.items()):
        shares = any(stems[base + suffix] > 1 for base in names)
        yield Group(root, folder, suffix, extension, names, shares)


def _suffixes(stems: Sequence[str]) -> dict[str, str]:
    """The end of each stem that it has in common with others: "_leftImg8bit", often nothing."""
    ends: dict[str, list[str]] = {}
    for stem in stems:
        match = _ENDING.search(stem)
        run = match.group() if match and match.start() > 0 else ""
        ends[stem] = [run[place:] for place, letter in enumerate(run) if letter in "_-."]
    counts = Counter(end for stem_ends in ends.values() for end in stem_ends)
    enough = max(2, len(ends) // 10)

    def is_common(end: str) -> bool:
        return counts[end] >= enough or end[1:].lower() in _LABEL_WORDS | _NO_CLASSES

    return {
        stem: next(filter(is_common, longest_first), "") for stem, longest_first in ends.items()
    }


def _looks(groups: Sequence[Group]) -> dict[Group, Look]:
    """What most of a few files of each group look like; many sister folders count as one."""
    sisters = Counter(_kind(group, 1) for group in groups)
    by_kind: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in groups:
        are_many = sisters[_kind(group, 1)] > _MANY_SISTERS
        by_kind[_kind(group, 1 if are_many else 0)].append(group)
    looks: dict[Group, Look] = {}
    for members in by_kind.values():
        paths = [path for group in members for path in group.paths]
        seen = Counter(look_of(path) for path in evenly(paths, _SAMPLES))
        looks.update(dict.fromkeys(members, seen.most_common(1)[0][0]))
    return looks


def _kind(group: Group, levels_up: int) -> tuple[str, ...]:
    """Folder, or one above it, with suffix and extension."""
    parts = group.folder.split("/")
    folder = "/".join(parts[: len(parts) - levels_up])
    return str(levels_up), folder, group.suffix, group.extension
