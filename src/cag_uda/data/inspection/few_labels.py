"""Draft the domain file of the few target images that have labels: each image and label by name.

Nothing in it is a wildcard: what the file does not list is not trained on.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import tomli_w

from cag_uda.data.annotations.formats import FORMATS, FormatName
from cag_uda.data.domains.builtin import label_space_files
from cag_uda.data.domains.domain import Domain, Item
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.data.domains.placement import first_of
from cag_uda.data.files.patterns import composed, endings, escaped, files_below
from cag_uda.data.inspection.annotation_looks import format_of
from cag_uda.data.inspection.draft import relative
from cag_uda.errors import UserError

_MASK = ".png"


def draft_few_labels(
    target: Domain, split: str, annotations: Path, file: Path, space: LabelSpace
) -> tuple[str, int]:
    """Draft a domain file that lists the images of a target for which a tool has labels.

    Args:
        target: the domain in whose split the images are looked for.
        split: of the target.
        annotations: the file of an annotation tool that describes several images, or a folder of
            files of one image each: LabelMe's, YOLO's, or PNGs of train ids, named like the images.
        file: where the domain file will lie; it names folders relative to itself.
        space: the classes.

    Returns:
        TOML, and how many images it lists.

    Raises:
        UserError: if there is no label, or none of an image of the target.
    """
    encoding, files = _found(annotations)
    items = target.items(split, with_labels=False)
    pairs, strange = _pairs(items, files)
    if not pairs:
        raise UserError(
            f"{annotations} has labels of {first_of(sorted(files))}, but none of these is "
            f"an image of {target.name}/{split}; give labels of its images, named as they are"
        )
    if strange:
        raise UserError(
            f"{annotations} has labels of {len(strange)} images that are not, or not once, in "
            f"{target.name}/{split}: {first_of(strange)}; take them out of it, or name them as the "
            "images are"
        )
    return _text(target, pairs, encoding, file, space), len(pairs)


def _found(annotations: Path) -> tuple[FormatName | None, dict[str, Path]]:
    """Find the format of the files, None for masks of train ids, and the file of each image.

    Images go by their paths without extension, or the last parts of these, as the files call them.
    """
    if not annotations.exists():
        raise UserError(f"no file or folder at {annotations}; give the labels that were exported")
    files = files_below(annotations) if annotations.is_dir() else [annotations]
    by_format: dict[FormatName, list[Path]] = defaultdict(list)
    for path in files:
        if path.suffix.lower() in (".xml", ".json", ".txt") and (name := format_of(path)):
            by_format[name].append(path)
    if not by_format:
        masks = [path for path in files if path.suffix.lower() == _MASK]
        if not masks:
            raise UserError(
                f"{annotations} holds no labels: want the file of {', '.join(FORMATS)}, or PNGs of "
                "train ids"
            )
        return None, {_stem(path, annotations): path for path in masks}
    if len(by_format) > 1:
        raise UserError(f"{annotations} has files of {', '.join(by_format)}; give those of one")
    ((name, paths),) = by_format.items()
    if not FORMATS[name].is_of_split:
        return name, {_stem(path, annotations): path for path in paths}
    if len(paths) > 1:
        raise UserError(f"{first_of([path.name for path in paths])} are {name}; give one of them")
    drawings = FORMATS[name].read(paths[0])
    named = {PurePosixPath(each.image.replace("\\", "/")): each for each in drawings}
    # A tool lists the images that nobody has drawn on too: these are not labelled.
    drawn = [place for place, drawing in named.items() if drawing.shapes]
    if not drawn:
        raise UserError(f"{paths[0]} has no shape on any image; label some, and export it again")
    return name, {composed(str(place.with_suffix(""))): paths[0] for place in drawn}


def _stem(path: Path, folder: Path) -> str:
    """Return the path of a file below the folder, without extension."""
    inner = path.relative_to(folder) if path != folder else Path(path.name)
    return composed(inner.with_suffix("").as_posix())


def _pairs(
    items: Sequence[Item], images: Mapping[str, Path]
) -> tuple[list[tuple[Item, Path]], list[str]]:
    """Match names with images; returns the pairs, and names that match no image or several."""
    by_ending: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        for ending in endings(item.key):
            by_ending[ending].append(item)
    pairs, strange = [], []
    for name, path in images.items():
        # A tool may have put its own folder before the name, or have left the image's out.
        matches = next((by_ending[end] for end in endings(name) if end in by_ending), [])
        if len(matches) == 1:
            pairs.append((matches[0], path))
        else:
            strange.append(name)
    return sorted(pairs, key=lambda pair: pair[0].key), strange


def _text(
    target: Domain,
    pairs: Sequence[tuple[Item, Path]],
    encoding: FormatName | None,
    file: Path,
    space: LabelSpace,
) -> str:
    images = [os.path.abspath(item.image) for item, _ in pairs]
    labels = [os.path.abspath(path) for _, path in pairs]
    if encoding is not None and FORMATS[encoding].is_of_split:
        labels = labels[:1]
    root = Path(os.path.commonpath([os.path.dirname(path) for path in (*images, *labels)]))
    images, labels = (
        [escaped(Path(path).relative_to(root).as_posix()) for path in paths]
        for paths in (images, labels)
    )
    table: dict[str, object] = {
        "name": f"{target.name}-labelled",
        "root": relative(root, file.parent),
    }
    if space.name in label_space_files() and LabelSpace.load(space.name) == space:
        table["label_space"] = space.name
    if rules := target.images.model_dump(mode="json", exclude_defaults=True, exclude_none=True):
        table["images"] = rules
    if encoding is None:
        table["labels"] = {"encoding": "ids", "map": {"255": "ignore"}}
    else:
        # Whoever labels a part of an image labels the rest as nothing, not as background.
        known = {"encoding": encoding, "background": "ignore"}
        # YOLO has numbers for names: the one after the last class is what has none.
        ignored = {"map": {str(space.num_classes): "ignore"}} if encoding == "yolo" else {}
        table["labels"] = known | ignored
    table["splits"] = {"train": {"images": images, "labels": labels}}
    if "label_space" not in table:
        table["classes"] = [each.model_dump(exclude_none=True) for each in space.classes]
    return (
        "# The images of the target whose labels may be trained on, each by name: written by\n"
        "# `cag-uda recipes new --labelled`. Pixels outside all shapes are ignored.\n"
        f"{tomli_w.dumps(table)}"
    )
