"""Inspect a folder of images, so that a domain file can be written for it.

Splits and patterns are guessed from the groups of files that belong together, and each pattern is
checked against all file names.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from cag_uda.data.annotations.formats import FORMATS
from cag_uda.data.domains.list_files import first_columns
from cag_uda.data.files.patterns import IMAGE_EXTENSIONS, files_below, find_images
from cag_uda.data.inspection.annotation_looks import FoundAnnotations, find_annotations
from cag_uda.data.inspection.class_names import ClassNames, find_class_names
from cag_uda.data.inspection.image_groups import (
    SPLIT_WORDS,
    Group,
    evenly,
    find_groups,
    paired,
    part,
)
from cag_uda.data.inspection.image_looks import ImagesLook, look_at_images
from cag_uda.data.inspection.label_looks import LabelLook, look_at_labels
from cag_uda.errors import DataError

T = TypeVar("T")

_LABELS_LOOKED_AT = 40
_LARGEST_LIST_BYTES = 1 << 24
_NOTES_SHOWN = 16
_OF_DATA_SETS = {"", *(".txt", ".md", ".csv", ".yaml", ".yml", ".names", ".pdf", ".html", ".py")}
"""Extensions of files that many data sets contain and that are no labels."""
_ADVICE = {
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), "unpack it"),
    ".json": "no label format that is read, or of other images",
    ".xml": "no label format that is read, such as boxes of Pascal VOC",
    ".npy": "arrays that no image is named like",
    ".dcm": "convert DICOM to 16-bit PNG or TIFF",
}


@dataclass(frozen=True)
class FoundSplit:
    """Images that belong together, with their labels."""

    name: str
    images: tuple[str, ...]
    """Patterns."""
    labels: tuple[str, ...]
    """One for each pattern of images; empty for a split without labels."""
    count: int
    """Number of its images."""
    list_file: str | None = None
    """Text file below the root that names the images of the split."""


@dataclass(frozen=True)
class Inspection:
    """The images, labels and annotations that a folder holds."""

    splits: tuple[FoundSplit, ...]
    images: ImagesLook
    """Settings by which the photographs are to be read."""
    labels: LabelLook | None
    """Encoding of the label images; None where there are none."""
    annotations: FoundAnnotations | None
    """Files of an annotation tool; None where there are none, or label images."""
    names: ClassNames | None
    """Names of classes, where a file gives them."""
    label_words: frozenset[str]
    """Words of the labels' folders and names, such as "labeltrainids"."""
    notes: tuple[str, ...]
    """Notes for the user."""


def inspect_folder(root: Path) -> Inspection:
    """Find the images, labels and splits in a folder that exists.

    Raises DataError if it holds no photograph, its labels cannot be read, or no pattern tells its
    files apart.
    """
    photos, labels, left_out = part(find_groups(root))
    if not photos:
        what = "only labels, by their look" if labels else "no image"
        others = "; ".join(_other_files(root, set()))
        raise DataError(
            f"{root} holds {what}; give the folder that holds the photographs too, as PNG, JPEG, "
            f"TIFF, WebP, BMP, GIF or PPM{'; ' if others else ''}{others}"
        )
    pairs, unpaired = _paired(photos, labels)
    arrays = find_groups(root, (".npy",))
    if arrays and not any(label for _, label in pairs):
        pairs, unpaired = paired(photos, arrays)
        unpaired |= dict.fromkeys(labels, "arrays of NumPy are taken in their place")
    notes = [_left_out_note(group, why) for group, why in (left_out | unpaired).items()]
    names = find_class_names(root)
    used = [label for _, label in pairs if label is not None]
    known = {".toml"} | {group.extension.lower() for group in used}
    annotations = None if used else find_annotations(root, photos)
    if annotations is None:
        splits = tuple(_splits(root, pairs, notes))
        texts, _ = paired(photos, find_groups(root, (".txt",)))
        why = "no polygons of YOLO; boxes alone tell no outlines"
        notes += [_left_out_note(text, why) for _, text in texts if text is not None]
    else:
        notes += annotations.notes
        splits = tuple(_annotated_splits(root, annotations.pairs, notes))
        known.add(FORMATS[annotations.encoding].extension)
    notes += _other_files(root, known)
    paths = sorted(path for group in used for path in group.paths)
    encoding = look_at_labels(evenly(paths, _LABELS_LOOKED_AT)) if used else None
    words = frozenset(word for group in used for word in group.words)
    paths = sorted(path for photo, _ in pairs for path in photo.paths)
    images = look_at_images(evenly(paths, _LABELS_LOOKED_AT))
    notes += images.notes
    if (more := len(notes) - _NOTES_SHOWN) > 0:
        notes[_NOTES_SHOWN:] = [f"… and {more} more such notes"]
    return Inspection(splits, images, encoding, annotations, names, words, tuple(notes))


def _paired(
    photos: Sequence[Group], labels: Sequence[Group]
) -> tuple[list[tuple[Group, Group | None]], dict[Group, str]]:
    """Pair photographs with labels by name; if no names agree, with common prefixes taken off."""
    pairs, unpaired = paired(photos, labels)
    if labels and not any(label for _, label in pairs):
        bare = [[group.without_prefix() for group in groups] for groups in (photos, labels)]
        others, left_out = paired(*bare)
        if any(label for _, label in others):
            return others, left_out
    return pairs, unpaired


def _left_out_note(group: Group, why: str) -> str:
    pattern = group.pattern(with_extension=True)
    return f"{pattern} ({len(group.names)} files) left out: {why}"


def _other_files(root: Path, known: set[str]) -> Iterator[str]:
    """Tell of files beside the images that are not used, by extension."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in files_below(root):
        extension = path.suffix.lower()
        if extension not in (*IMAGE_EXTENSIONS, *_OF_DATA_SETS, *known):
            found[extension].append(path.relative_to(root).as_posix())
    for extension, paths in found.items():
        what = "is" if len(paths) == 1 else f"and {len(paths) - 1} more {extension} files are"
        yield f"{paths[0]} {what} left out: {_ADVICE.get(extension, 'not read')}"


def _by_split(pairs: Iterable[tuple[Group, T]]) -> Iterator[tuple[str, list[tuple[Group, T]]]]:
    """Yield the pairs of each split, by the words of the photographs' folders."""
    found: dict[str, list[tuple[Group, T]]] = {name: [] for name in SPLIT_WORDS}
    for photo, other in pairs:
        found[photo.split or "train"].append((photo, other))
    return ((name, members) for name, members in found.items() if members)


def _split_of(name: str, pairs: Sequence[tuple[Group, Group | None]]) -> FoundSplit:
    """Make a split of photographs with their labels, or of photographs all without."""
    images, labels = zip(*merged_patterns(pairs), strict=True)
    count = sum(len(photo.names) for photo, _ in pairs)
    return FoundSplit(name, images, tuple(filter(None, labels)), count)


def _annotated_splits(
    root: Path, pairs: Sequence[tuple[Group, Group | str | None]], notes: list[str]
) -> Iterator[FoundSplit]:
    """Yield splits whose labels are files of a tool: one for each image, or one for many."""
    own = [(photo, files) for photo, files in pairs if not isinstance(files, str)]
    if any(files for _, files in own):
        yield from _splits(root, own, notes)
        return
    by_file = [(photo, files) for photo, files in pairs if not isinstance(files, Group)]
    for name, members in _by_split(by_file):
        photos_of: dict[str | None, list[tuple[Group, None]]] = defaultdict(list)
        for photo, file in members:
            photos_of[file].append((photo, None))
        bare = photos_of.pop(None, [])
        parts = [(file, _split_of(name, photos)) for file, photos in photos_of.items()]
        if parts:
            images = [pattern for _, part in parts for pattern in part.images]
            labels = [file for file, part in parts for _ in part.images if file]
            count = sum(part.count for _, part in parts)
            yield FoundSplit(name, tuple(images), tuple(labels), count)
        if bare:
            yield _split_of(f"{name}-unlabelled" if parts else name, bare)


def _splits(
    root: Path, pairs: Sequence[tuple[Group, Group | None]], notes: list[str]
) -> Iterator[FoundSplit]:
    """Yield splits by the words of the folders, and by list files where there are some."""
    for name, members in _by_split(pairs):
        labelled = [(photo, label) for photo, label in members if label is not None]
        others: list[tuple[Group, None]] = [(photo, None) for photo, label in members if not label]
        if labelled:
            yield from _listed_splits(root, name, labelled, notes)
        if labelled and others:
            yield _split_of(f"{name}-unlabelled", others)
        elif others:
            yield from _listed_splits(root, name, others, notes)


def _listed_splits(
    root: Path, name: str, pairs: Sequence[tuple[Group, Group | None]], notes: list[str]
) -> Iterator[FoundSplit]:
    """Yield the splits that list files make of photographs, or one of all if there are none."""
    whole = _split_of(name, pairs)
    every = [(base, label) for photo, label in pairs for base in photo.names]
    names = {base for base, label in every if label is None or base in label.names}
    missing = sum(label is not None and base not in label.names for base, label in every)
    is_split_by_folders = any(photo.split is not None for photo, _ in pairs)
    are_distinct = len({base for base, _ in every}) == len(every)
    lists: dict[str, tuple[str, set[str]]] = {}
    if missing or (are_distinct and not is_split_by_folders):
        lists = _lists(root, names)
    for split, (path, entries) in lists.items():
        yield replace(whole, name=split, count=len(entries), list_file=path)
    if not lists:
        yield whole
    left = names.difference(*(entries for _, entries in lists.values()))
    if missing and not lists:
        notes.append(
            f"{missing} of the {whole.count} images of split {name!r} have no label: name the "
            "labelled ones in a text file below the root, one a line, and add "
            'list = "that-file.txt"'
        )
    elif lists and left and not missing:
        notes.append(
            f"{len(left)} of {len(names)} images are left out: no list of a split names them"
        )


def merged_patterns(pairs: Sequence[tuple[Group, Group | None]]) -> list[tuple[str, str]]:
    """Make patterns of images and labels, with wildcards for folders such as cities or drives.

    Either all photographs have labels or none has; without labels their patterns are "". Raises
    DataError if no pattern tells the photographs from other files of their folder.
    """
    root = pairs[0][0].root
    wanted = {path for photo, _ in pairs for path in photo.paths}
    for patterns in _candidates(pairs):
        found = {image.path for each, _ in patterns for image in find_images(root, each)}
        if found == wanted:
            return patterns
    photo, label = pairs[0]
    ending = f", for example all that end in {label.suffix}" if label and label.suffix else ""
    raise DataError(
        f"{root / photo.folder} holds photographs among other images that no pattern tells apart; "
        f"move the one or the other into a folder of their own{ending}"
    )


def _candidates(pairs: Sequence[tuple[Group, Group | None]]) -> Iterator[list[tuple[str, str]]]:
    """Yield patterns that may find the files, the simplest first."""
    has_labels = any(label is not None for _, label in pairs)
    are_suffixes_equal = all(
        label is None or photo.suffix == label.suffix for photo, label in pairs
    )
    for with_suffix, with_extension in ((False, False), (True, False), (True, True)):
        if not (with_suffix or are_suffixes_equal):
            continue
        patterns = sorted(
            {
                (
                    photo.pattern(with_suffix, with_extension),
                    "" if label is None else label.pattern(with_suffix),
                )
                for photo, label in pairs
            }
        )
        if (joined := _with_wildcards(patterns)) is not None:
            yield [joined]
        if not has_labels and len(patterns) > 1:
            yield [("**/*", "")]
        yield patterns


def _with_wildcards(patterns: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Join patterns to one with wildcards, if images and labels differ in the same folders only."""
    images = [tuple(pattern.split("/")) for pattern, _ in patterns]
    labels = [tuple(pattern.split("/")) for _, pattern in patterns]
    in_images, in_labels = _varying_places(images), _varying_places(labels)
    if not in_images or in_labels is None:
        return None
    for image, label in zip(images, labels, strict=True):
        is_followed = [image[place] for place in in_images] == [label[p] for p in in_labels]
        if label != ("",) and not is_followed:
            return None
    return _starred(images[0], in_images), _starred(labels[0], in_labels)


def _varying_places(paths: Sequence[tuple[str, ...]]) -> list[int] | None:
    """Find the parts in which paths differ; None if their lengths or file names differ."""
    if len({len(path) for path in paths}) > 1 or len({path[-1] for path in paths}) > 1:
        return None
    return [place for place, parts in enumerate(zip(*paths, strict=True)) if len(set(parts)) > 1]


def _starred(path: tuple[str, ...], places: Sequence[int]) -> str:
    return "/".join("*" if place in places else part for place, part in enumerate(path))


def _lists(root: Path, bases: set[str]) -> dict[str, tuple[str, set[str]]]:
    """Find text files that list images, by split: path below the root, and the names in it."""
    found: dict[str, tuple[str, set[str]]] = {}
    paths = sorted([*root.rglob("*.txt"), *root.rglob("*.csv")])
    for name, words in SPLIT_WORDS.items():
        for path in paths:
            if path.stem.lower() not in words or path.stat().st_size > _LARGEST_LIST_BYTES:
                continue
            with suppress(DataError):
                entries = {PurePosixPath(entry).stem for entry in first_columns(path)}
                if entries and entries <= bases:
                    found[name] = (path.relative_to(root).as_posix(), entries)
                    break
    return found
