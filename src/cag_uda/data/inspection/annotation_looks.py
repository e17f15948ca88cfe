"""Find the files of annotation tools in a folder, and the photographs that they describe.

For folders that no domain file describes yet.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cag_uda.data.annotations import coco, cvat
from cag_uda.data.annotations.drawing import Drawing
from cag_uda.data.annotations.formats import FORMATS, FormatName
from cag_uda.data.files.patterns import composed, escaped, files_below
from cag_uda.data.inspection.image_groups import Group, evenly, find_groups, paired
from cag_uda.errors import DataError

_LARGEST_BYTES = 1 << 30
_FILES_LOOKED_AT = 200
_LEAST_COVERAGE = 0.5
_LEAST_YOLO_NUMBERS, _OF_A_BOX = 7, 5


@dataclass(frozen=True)
class FoundAnnotations:
    """The files of one tool, and the photographs that they describe."""

    encoding: FormatName
    names: dict[str, int]
    """Name of shapes → number of these, in the order of the tool where it has one."""
    pairs: list[tuple[Group, Group | str | None]]
    """Pairs of a group of photographs and the group of its annotation files, or the pattern of the
    one file that describes all of them; None where no file does."""
    notes: list[str]

    def count(self) -> int:
        """Count the photographs that are described."""
        return sum(len(photo.names) for photo, files in self.pairs if files is not None)


def find_annotations(root: Path, photos: Sequence[Group]) -> FoundAnnotations | None:
    """Find the files of the tool that describe most photographs; None if there are none."""
    found = [*_of_splits(root, photos), *_of_images(root, photos)]
    return max(found, key=FoundAnnotations.count, default=None)


def format_of(path: Path) -> FormatName | None:
    """Tell by its content which tool's format a file has; None for an unknown one."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            return None
        if path.suffix.lower() == ".xml":
            head = path.read_text(encoding="utf-8", errors="replace")[:100_000]
            return "cvat" if "<annotations>" in head and "<image " in head else None
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    if path.suffix.lower() == ".txt":
        return "yolo" if _is_yolo(text) else None
    try:
        return _json_format(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _json_format(content: Any) -> FormatName | None:
    if isinstance(content, dict):
        if {"images", "annotations", "categories"} <= content.keys():
            return "coco"
        if {"shapes", "imagePath"} <= content.keys():
            return "labelme"
        if {"objects", "imgHeight"} <= content.keys():
            return "cityscapes-polygons"
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and "data" in first and {"annotations", "predictions"} & set(first):
        return "label-studio"
    return None


def _is_yolo(text: str) -> bool:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    try:
        has_polygon = any(len(numbers) >= _LEAST_YOLO_NUMBERS for numbers in lines)
        return has_polygon and all(
            float(numbers[0]) == int(numbers[0])
            and (len(numbers) == _OF_A_BOX or len(numbers) >= _LEAST_YOLO_NUMBERS)
            and all(-0.01 <= float(number) <= 1.01 for number in numbers[1:])
            for numbers in lines
        )
    except ValueError:
        return False


def _of_splits(root: Path, photos: Sequence[Group]) -> Iterator[FoundAnnotations]:
    """Match photographs with files that describe many images, for each such format."""
    files: dict[FormatName, list[Path]] = {}
    for path in files_below(root):
        name = format_of(path) if path.suffix.lower() in (".json", ".xml") else None
        if name is not None and FORMATS[name].is_of_split:
            files.setdefault(name, []).append(path)
    for name, paths in files.items():
        drawings: dict[Path, list[Drawing]] = {}
        notes = []
        for path in paths:
            try:
                drawings[path] = FORMATS[name].read(path)
            except DataError as error:
                notes.append(f"left out: {error}")
        chosen = {photo: _best(photo, drawings, root) for photo in photos}
        used = {path for path in chosen.values() if path is not None}
        if not used:
            continue
        pairs: list[tuple[Group, Group | str | None]] = [
            (photo, None if path is None else escaped(path.relative_to(root).as_posix()))
            for photo, path in chosen.items()
        ]
        counts = Counter(
            shape.name for path in used for each in drawings[path] for shape in each.shapes
        )
        notes += [
            f"{path.relative_to(root).as_posix()} left out: another file describes these images"
            for path in paths
            if path in drawings and path not in used
        ]
        yield FoundAnnotations(name, _in_order(name, sorted(used), counts), pairs, notes)


def _best(photo: Group, drawings: dict[Path, list[Drawing]], root: Path) -> Path | None:
    """Find the file that describes most photographs of a group, and none of another split."""
    stems = {composed(PurePosixPath(name).stem) for name in photo.names.values()}
    ranked = []
    for path, described in drawings.items():
        named = {composed(PurePosixPath(each.image.replace("\\", "/")).stem) for each in described}
        folder = path.relative_to(root).with_suffix("").as_posix()
        split = Group(root, folder, "", "", {}).split
        if photo.split is not None and split is not None and split != photo.split:
            continue
        is_beside = str(path.parent.relative_to(root)) in (photo.folder, photo.folder or ".")
        ranked.append((len(stems & named) / len(stems), is_beside, split == photo.split, path))
    best = max(ranked, default=None)
    return best[-1] if best is not None and best[0] >= _LEAST_COVERAGE else None


def _of_images(root: Path, photos: Sequence[Group]) -> Iterator[FoundAnnotations]:
    """Match photographs with files that describe one image each, for each such format."""
    groups: dict[FormatName, list[Group]] = {}
    for extension in (".json", ".txt"):
        for group in find_groups(root, (extension,)):
            seen = Counter(format_of(path) for path in evenly(group.paths, 3))
            name = next((each for each, _ in seen.most_common() if each is not None), None)
            if name is not None and not FORMATS[name].is_of_split:
                groups.setdefault(name, []).append(group)
    for name, members in groups.items():
        pairs, left_out = paired(photos, members)
        used = [label for _, label in pairs if label is not None]
        if not used:
            continue
        paths = evenly([path for group in used for path in group.paths], _FILES_LOOKED_AT)
        counts: Counter[str] = Counter()
        notes = [
            f"{group.pattern(with_extension=True)} left out: {why}"
            for group, why in left_out.items()
        ]
        for path in paths:
            try:
                (drawing,) = FORMATS[name].read(path)
            except DataError as error:
                notes.append(str(error))
                continue
            counts.update(shape.name for shape in drawing.shapes)
        yield FoundAnnotations(name, _in_order(name, paths, counts), list(pairs), notes)


def _in_order(name: FormatName, paths: Sequence[Path], counts: Counter[str]) -> dict[str, int]:
    """Order the names of shapes as their tool does, or else alphabetically; with their counts."""
    declared = sorted(counts, key=int) if name == "yolo" else []
    if name in ("coco", "cvat"):
        class_names = coco.class_names if name == "coco" else cvat.class_names
        declared = [each for path in paths for each in class_names(path)]
    ordered = dict.fromkeys([*declared, *sorted(counts)])
    return {each: counts[each] for each in ordered if counts[each] or name == "cvat"}
