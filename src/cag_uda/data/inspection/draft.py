"""Draft a domain file for a folder of images, to be read and mended."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.domain_file import parse_domain_file
from cag_uda.data.inspection.image_looks import ImagesLook
from cag_uda.data.inspection.inspect import FoundSplit, Inspection, inspect_folder
from cag_uda.data.inspection.label_meaning import (
    Meaning,
    fitting_spaces,
    meaning_of,
    meaning_of_shapes,
)
from cag_uda.errors import DataError, UserError


@dataclass(frozen=True, eq=False)
class Draft:
    """A domain file that is not written yet, and the inspection that it was drafted from."""

    text: str
    """TOML, with statistics of the data as comments."""
    inspection: Inspection
    meaning: Meaning
    problems: tuple[str, ...]
    """Problems because of which the file may not describe the folder."""


def draft_domain(folder: Path, file: Path, name: str, label_space: str | None = None) -> Draft:
    """Look into a folder and draft its domain file.

    Args:
        folder: with the images.
        file: where the domain file will lie; it names the folder relative to itself.
        name: of the domain.
        label_space: built-in label space that the labels are known to have; None: guess.

    Raises:
        UserError: if the folder holds no photograph, or the labels do not fit the label space.
    """
    if not folder.is_dir():
        raise UserError(f"no folder at {folder}; give the folder that holds the images")
    found = inspect_folder(folder)
    meaning = Meaning()
    if found.labels is not None:
        meaning = meaning_of(found.labels, found.label_words, label_space, found.names)
    elif found.annotations is not None:
        meaning = meaning_of_shapes(found.annotations, found.names)
    text = "\n".join(_lines(found, meaning, name, relative(folder, file.parent))) + "\n"
    domain = Domain(parse_domain_file(text, str(file)), str(file), file.parent)
    return Draft(text, found, meaning, tuple(_problems(domain, found, meaning)))


def name_of(folder: Path) -> str:
    """Make a domain's name from a folder's: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "domain"


def relative(folder: Path, base: Path) -> str:
    """Name a folder as a file in `base` does: relative, unless they have nothing in common."""
    here, there = os.path.realpath(base), os.path.realpath(folder)
    if os.path.commonpath((here, there)) in (os.sep, ""):
        return there
    return Path(os.path.relpath(there, here)).as_posix()


def _lines(found: Inspection, meaning: Meaning, name: str, root: str) -> Iterator[str]:
    yield "# Written by `cag-uda domains new`, partly by guessing: read and correct it, then run"
    yield "# `cag-uda check` on this file, which reads every image and label."
    yield f"name = {_quoted(name)}"
    yield f"root = {_quoted(root)}"
    yield from _images(found.images)
    if found.labels is None and found.annotations is None:
        yield "# No labels were found: this domain can be a target."
    else:
        yield from _classes(found, meaning)
        yield from _labels(found, meaning)
    for split in found.splits:
        yield ""
        yield from _split(split)


def _images(look: ImagesLook) -> Iterator[str]:
    """Yield the lines of `[images]`, where it is not the default."""
    if look.scale is None and look.bands is None:
        return
    yield ""
    yield "[images]"
    if look.scale is not None:
        low, high = look.scale
        yield f"scale = [{low:g}, {high:g}]  # {look.why}: black and white, the same for all images"
    if look.bands is not None:
        yield f"bands = {list(look.bands)}  # red, green and blue; the first is 0"


def _classes(found: Inspection, meaning: Meaning) -> Iterator[str]:
    """Yield the lines of `label_space`, or of `[[classes]]` with statistics of each."""
    if meaning.label_space is not None:
        yield f"label_space = {_quoted(meaning.label_space)}  # {meaning.why}"
        return
    yield ""
    why = f"{meaning.why[0].upper()}{meaning.why[1:]}"
    advice = "." if meaning.is_named else ": give each its name, and a color if you like."
    yield f"# {why}{advice}"
    yield "# Their order is that of train ids; the domains of a recipe need the same classes."
    fitting = [] if meaning.is_named or found.labels is None else fitting_spaces(found.labels)
    if fitting:
        yield f"# Built-in label spaces with such ids: {', '.join(fitting)}. If the classes are"
        yield "# the same (see `cag-uda domains spaces`), write this file anew: `domains new` with"
        yield f"# --label-space {fitting[0]} --overwrite."
    for each in meaning.classes:
        yield "[[classes]]"
        yield f"name = {_quoted(each.name)}" + (f"  # {each.seen}" if each.seen else "")
        if each.color is not None:
            yield f"color = {list(each.color)}"


def _labels(found: Inspection, meaning: Meaning) -> Iterator[str]:
    seen: dict[str, str] = {}
    yield ""
    yield "[labels]"
    if found.annotations is not None:
        yield f"encoding = {_quoted(found.annotations.encoding)}"
    if meaning.background is not None:
        yield f"background = {_quoted(meaning.background)}  # pixels outside all shapes"
    if (look := found.labels) is not None:
        seen = {look.written(entry.code): look.described(entry) for entry in look.codes}
        yield f"encoding = {_quoted(look.encoding)}"
        if look.channel is not None:
            yield f"channel = {look.channel}  # the first channel is 0, red"
        if look.tolerance:
            yield f"tolerance = {look.tolerance}  # edges are soft: the class of the nearest code"
            if meaning.other is None:
                yield 'other = "ignore"  # what is further from all codes, in files not looked at'
    if meaning.other is not None:
        yield f"other = {_quoted(meaning.other)}  # whatever the map and the classes leave out"
    yield from (f"# left out: {seen[code]}" for code in meaning.left_out)
    if meaning.map:
        yield ""
        yield "[labels.map]"
        for code, value in meaning.map.items():
            key = code if code.isdigit() else _quoted(code)
            comment = f"  # {seen.get(code, 'not seen')}" if meaning.label_space else ""
            yield f"{key} = {_quoted(value)}{comment}"


def _split(split: FoundSplit) -> Iterator[str]:
    yield f"[splits.{split.name}]  # {split.count} images"
    yield f"images = {_one_or_more(split.images)}"
    if split.labels:
        # One pattern may stand for the labels of all patterns of images.
        alike = set(split.labels) if len(split.images) == 1 else split.labels
        yield f"labels = {_one_or_more(tuple(alike))}"
    if split.list_file is not None:
        yield f"list = {_quoted(split.list_file)}"


def _problems(domain: Domain, found: Inspection, meaning: Meaning) -> Iterator[str]:
    """Doubt a black that is ignored, and splits whose patterns find other images than were seen."""
    look = found.labels
    if look is not None and look.encoding == "rgb" and meaning.map.get("#000000") == "ignore":
        share = sum(entry.share for entry in look.codes if entry.code == 0)
        yield (
            f"black (#000000), {100 * share:.0f} % of the pixels, is ignored; if it is the "
            'background, list a class for it and map "#000000" to it'
        )
    for split in found.splits:
        try:
            # Files of tools are drawn when they are first used.
            count = len(domain.items(split.name, with_labels=found.annotations is None))
        except DataError as error:
            yield from error.problems
            continue
        if count != split.count:
            yield f"split {split.name!r} has {count} images where {split.count} were seen"


def _one_or_more(values: tuple[str, ...]) -> str:
    return _quoted(values[0]) if len(values) == 1 else f"[{', '.join(map(_quoted, values))}]"


def _quoted(text: str) -> str:
    """Write a TOML string."""
    return tomli_w.dumps({"x": text}).removeprefix("x = ").strip()
