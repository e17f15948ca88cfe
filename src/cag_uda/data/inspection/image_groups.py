"""Group the files of a folder that no domain file describes: photographs and their labels.

Files of one folder whose names have a common suffix are a group; a few files of each group decide
whether they are photographs or labels. Groups that are not used are listed with the reason. Knows
names and looks; makes no patterns and no splits.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path, PurePosixPath
from typing import TypeVar

from cag_uda.data.files.patterns import IMAGE_EXTENSIONS, escaped, find_images
from cag_uda.data.inspection.label_looks import Look, are_alike, look_of

T = TypeVar("T")

_SAMPLES = 3
_MANY_SISTERS = 8
_LEAST_OVERLAP = 0.5

SPLIT_WORDS = {
    "train": ("train", "training", "trn", "fit"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval"),
}
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
_COLOURS = {"color", "colour", "colors", "colours", "colormap", "colormaps"}
"""Words of labels painted in colours, which are taken only if there are no others."""
_NO_CLASSES = {
    *("instance", "instances", "instanceids", "panoptic", "bitmasks", "segmentationobject"),
    *("depth", "disparity", "invalid", "invids", "edge", "edges", "polygons", "confidence"),
}
_DRAWINGS = {
    *("overlay", "overlays", "blend", "blended", "vis", "viz", "visualization", "visualisation"),
    *("visualizations", "visualisations", "segmentationclassvisualization", "preview", "previews"),
    *("thumb", "thumbs", "thumbnail", "thumbnails"),
}
_NEITHER = (
    (_DRAWINGS, "they are drawings or previews by their name"),
    (_NO_CLASSES, "they are maps of instances, depth or the like by their name, not of classes"),
    (
        {"ref", "reference"},
        "they are reference views by their name; give them a split of their own if wanted",
    ),
)
"""Words of groups that are neither photographs nor labels, and the reasons."""
_ENDING = re.compile(r"(?:[_\-.][A-Za-z][A-Za-z0-9]*)+$")
_WITH_SPLIT = re.compile(r"(?<=[nltv])(annots?|sets?|data|images?|imgs?|masks?|labels?|gt|[abxy])$")
"""Endings that follow the word of a split without a separator: trainannot, TestSet, trainA."""
_CAMEL = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@dataclass(frozen=True, eq=False)
class Group:
    """Files of one folder with one extension and a common suffix of their names."""

    root: Path
    folder: str
    """Path below the root, "" for the root itself."""
    suffix: str
    """Common end of the stems, such as "_gtFine_labelIds"; often empty."""
    extension: str
    """File extension with its dot, in the letters of the files."""
    names: dict[str, str]
    """Stem without the suffix → file name."""
    needs_extension: bool = False
    """True if a pattern must give the extension: the files are no images, or another file of the
    folder has the same stem."""
    prefix: str = ""
    """Common beginning of the stems that `names` leave out, such as "image_"; usually nothing."""

    @property
    def paths(self) -> list[Path]:
        """Paths of the files, sorted."""
        return [self.root / self.folder / name for name in sorted(self.names.values())]

    def path(self, name: str) -> Path:
        """Find the path of the file of a name."""
        return self.root / self.folder / self.names[name]

    @property
    def words(self) -> set[str]:
        """Words of the suffix and the folders, in lower case, and the parts of camelCase words."""
        text = f"{self.folder}/{self.suffix}"
        return {
            *re.split(r"[^a-z0-9]+", text.lower()),
            *(part.lower() for part in _CAMEL.findall(text)),
        }

    @property
    def split(self) -> str | None:
        """Split that the innermost folder with such a name stands for; None if none does."""
        for part in reversed(self.folder.lower().split("/")):
            words = {_WITH_SPLIT.sub("", word) for word in re.split(r"[^a-z]+", part)}
            for name, spoken in SPLIT_WORDS.items():
                if words & set(spoken):
                    return name
        return None

    def pattern(self, with_suffix: bool = True, with_extension: bool = False) -> str:
        """Return a pattern that finds the files, and others if suffix or extension is left out."""
        suffix = escaped(self.suffix) if with_suffix else ""
        ending = self.extension if with_extension or self.needs_extension else ""
        return f"{escaped(self.folder)}/{escaped(self.prefix)}*{suffix}{ending}".lstrip("/")

    def without_prefix(self) -> "Group":
        """Return the group with the common beginning of all names taken off, if there is one."""
        letters = os.path.commonprefix(list(self.names))  # noqa: RUF071 - of names, not of paths
        common = letters.rstrip("0123456789")
        if not common or common in self.names:
            return self
        names = {base.removeprefix(common): name for base, name in self.names.items()}
        return replace(self, names=names, prefix=common)


def find_groups(root: Path, extensions: Sequence[str] = IMAGE_EXTENSIONS) -> list[Group]:
    """Group all files with some extensions below a folder by folder, extension and suffix."""
    by_folder: dict[str, list[PurePosixPath]] = defaultdict(list)
    for image in find_images(root, "**/*", extensions):
        path = PurePosixPath(image.path.relative_to(root).as_posix())
        by_folder[str(path.parent) if path.parent.name else ""].append(path)
    return [
        group if extensions is IMAGE_EXTENSIONS else replace(group, needs_extension=True)
        for folder, paths in sorted(by_folder.items())
        for group in _groups_of(root, folder, paths)
    ]


def part(groups: Sequence[Group]) -> tuple[list[Group], list[Group], dict[Group, str]]:
    """Sort the groups by the look of their files; where all look like labels, names decide.

    Returns photographs, labels, and the reason why each other group is neither.
    """
    reasons = {group: [why for words, why in _NEITHER if group.words & words] for group in groups}
    left_out = {group: found[0] for group, found in reasons.items() if found}
    if len(left_out) == len(groups):
        left_out = {}  # A name that all files share tells nothing.
    rest = [group for group in groups if group not in left_out]
    looks = _looks(rest)
    photos = [group for group in rest if looks[group] == "photo"]
    labels = [group for group in rest if looks[group] == "label"]
    if not photos:
        photos = [group for group in labels if group.words & _PHOTO_WORDS]
        labels = [group for group in labels if group not in photos]
    # Files named like labels that look like photographs are previews, or strongly compressed JPEGs.
    rightly = [
        group for group in photos if group.words & _PHOTO_WORDS or not group.words & _LABEL_WORDS
    ]
    for group in rest:
        if looks[group] == "other":
            left_out[group] = "they look like neither photographs nor labels, or cannot be read"
        elif rightly and group in photos and group not in rightly:
            left_out[group] = "they have the name of labels and look like photographs"
    return rightly or photos, labels, left_out


def paired(
    photos: Sequence[Group], labels: Iterable[Group]
) -> tuple[list[tuple[Group, Group | None]], dict[Group, str]]:
    """Give each group of photographs the labels whose files are named like them, if there are any.

    Of several groups of labels the likeliest is taken; no label file is given to two photographs,
    though images of several splits may have the same names. Labels of another split are not taken,
    and where a folder holds labels of several kinds, the same kind is taken for all.

    Returns:
        Photographs with their labels; and the groups that are left out, with the reasons.
    """
    labels = list(labels)
    kinds = defaultdict(set)
    for label in labels:
        kinds[label.folder].add((label.suffix, label.extension))
    ranked = sorted(
        ((*_likeliness(photo, label), photo, label) for label in labels for photo in photos),
        key=lambda each: each[:-2],
        reverse=True,
    )
    chosen: dict[Group, Group] = {}
    taken: dict[Group, set[str]] = defaultdict(set)
    losing: set[tuple[str, str]] = set()
    for *_, photo, label in ranked:
        kind = (label.suffix, label.extension)
        if photo in chosen or kind in losing or not _may_belong(photo, label):
            continue
        common = photo.names.keys() & label.names.keys()
        is_enough = len(common) >= _LEAST_OVERLAP * min(len(photo.names), len(label.names))
        if is_enough and not common & taken[label]:
            chosen[photo] = label
            taken[label] |= common
            losing |= kinds[label.folder] - {kind}
    left_out = _unused(photos, labels, chosen)
    pairs = [(photo, chosen.get(photo)) for photo in photos if photo not in left_out]
    return pairs, left_out


def _unused(
    photos: Sequence[Group], labels: Sequence[Group], chosen: dict[Group, Group]
) -> dict[Group, str]:
    left_out = {label: _why_unused(label, photos, chosen) for label in labels}
    for label in chosen.values():
        left_out.pop(label, None)
    for photo in photos:
        if photo in chosen:
            continue
        for other in chosen:
            common = photo.names.keys() & other.names.keys()
            is_same_split = (photo.split or "train") == (other.split or "train")
            if is_same_split and len(common) >= _LEAST_OVERLAP * len(photo.names):
                name = min(common)
                if are_alike(photo.path(name), other.path(name)):
                    why = f"they show what {other.pattern()} shows, under the same names"
                    left_out[photo] = why
    return left_out


def _why_unused(label: Group, photos: Sequence[Group], chosen: dict[Group, Group]) -> str:
    if any(photo.names.keys() & label.names.keys() for photo in chosen):
        return "other labels are taken for the images that they are named like"
    small = {name.lower() for name in label.names}
    for photo in photos:
        if _may_belong(photo, label) and small & {name.lower() for name in photo.names}:
            return (
                f"they are named like {photo.pattern()} but for capital letters: rename the ones "
                "or the others"
            )
    return "they look like labels, but no photographs of their split are named like them"


def _may_belong(photo: Group, label: Group) -> bool:
    return photo.split is None or label.split is None or photo.split == label.split


def _likeliness(photo: Group, label: Group) -> tuple[bool, float, bool, float, str]:
    """Rate how likely labels are those of photographs, larger is likelier; the last breaks ties."""
    return (
        not label.words & _COLOURS,
        len(photo.names.keys() & label.names.keys()) / len(photo.names),
        bool(label.words & {"labeltrainids", "trainids"}),
        SequenceMatcher(None, photo.folder, label.folder).ratio(),
        label.pattern(),
    )


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Choose at most so many items, evenly spread over all."""
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
    """Find the suffix of each stem that others have too, such as "_leftImg8bit"; often empty."""
    ends: dict[str, list[str]] = {}
    for stem in stems:
        match = _ENDING.search(stem)
        run = match.group() if match and match.start() > 0 else ""
        ends[stem] = [run[place:] for place, letter in enumerate(run) if letter in "_-."]
    counts = Counter(end for stem_ends in ends.values() for end in stem_ends)
    enough = max(2, len(ends) // 10)

    def is_common(end: str) -> bool:
        words = _LABEL_WORDS | _NO_CLASSES | _COLOURS | _DRAWINGS
        return counts[end] >= enough or end[1:].lower() in words

    return {
        stem: next(filter(is_common, longest_first), "") for stem, longest_first in ends.items()
    }


def _looks(groups: Sequence[Group]) -> dict[Group, Look]:
    """Classify each group by a few of its files; many folders side by side count as one group."""
    sisters = Counter(_kind(group, 1) for group in groups)
    by_kind: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in groups:
        are_many = sisters[_kind(group, 1)] > _MANY_SISTERS
        by_kind[_kind(group, 1 if are_many else 0)].append(group)
    looks: dict[Group, Look] = {}
    for members in by_kind.values():
        paths = [path for group in members for path in group.paths]
        is_named_label = any(group.words & _LABEL_WORDS for group in members)
        seen = Counter(look_of(path, is_named_label) for path in evenly(paths, _SAMPLES))
        looks.update(dict.fromkeys(members, seen.most_common(1)[0][0]))
    return looks


def _kind(group: Group, levels_up: int) -> tuple[str, ...]:
    """Return a key of groups that look alike: folder, or one above it, suffix and extension."""
    parts = group.folder.split("/")
    folder = "/".join(parts[: len(parts) - levels_up])
    return str(levels_up), folder, group.suffix, group.extension
