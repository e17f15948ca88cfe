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
from cag_uda.data.inspection.label_looks import LabelLook, SeenCode
from cag_uda.data.inspection.label_meaning import Meaning, fitting_spaces, meaning_of, written
from cag_uda.data.inspection.shape_draft import annotation_lines
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
    inspection = inspect_folder(folder)
    meaning = Meaning()
    if inspection.labels is not None:
        meaning = meaning_of(
            inspection.labels, inspection.label_words, label_space, inspection.names
        )
    text = domain_text(inspection, meaning, name, _relative(folder, file.parent))
    domain = Domain(parse_domain_file(text, str(file)), str(file), file.parent)
    problems = (*_note_on_black(inspection.labels, meaning), *_problems(domain, inspection))
    return Draft(text, inspection, meaning, problems)


def name_of(folder: Path) -> str:
    """Make a domain's name from a folder's: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "domain"


def domain_text(inspection: Inspection, meaning: Meaning, name: str, root: str) -> str:
    """Write the TOML of a domain, with statistics of the data as comments.

    Args:
        inspection: of the folder.
        meaning: classes of its labels.
        name: of the domain.
        root: the folder, as the file shall name it.
    """
    lines = [
        "# Written by `cag-uda domains new`, partly by guessing: read and correct it, then run",
        "# `cag-uda check` on this file, which reads every image and label.",
        f"name = {_quoted(name)}",
        f"root = {_quoted(root)}",
    ]
    lines += _images(inspection.images)
    if inspection.annotations is not None:
        lines += annotation_lines(inspection.annotations, inspection.names)
    elif inspection.labels is None:
        lines += ["# No labels were found: this domain can be a target."]
    else:
        lines += [*_classes(inspection.labels, meaning), *_labels(inspection.labels, meaning)]
    for split in inspection.splits:
        lines += ["", *_split(split)]
    return "\n".join(lines) + "\n"


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


def _classes(look: LabelLook, meaning: Meaning) -> Iterator[str]:
    """Yield the lines of `label_space`, or of `[[classes]]` with statistics of each."""
    if meaning.label_space is not None:
        yield f"label_space = {_quoted(meaning.label_space)}  # {meaning.why}"
        return
    yield ""
    why = f"{meaning.why[0].upper()}{meaning.why[1:]}"
    advice = "." if meaning.is_named else ": give each its name, and a color if you like."
    yield f"# {why}{advice}"
    yield "# Their order is that of train ids; the domains of a recipe need the same classes."
    if not meaning.is_named and (fitting := fitting_spaces(look)):
        yield f"# Built-in label spaces with such ids: {', '.join(fitting)}. If the classes are"
        yield "# the same (see `cag-uda domains spaces`), write this file anew: `domains new` with"
        yield f"# --label-space {fitting[0]} --overwrite."
    for each in meaning.classes:
        yield "[[classes]]"
        yield f"name = {_quoted(each.name)}  # {_seen(look, each.seen)}"
        if each.color is not None:
            yield f"color = {list(each.color)}"


def _labels(look: LabelLook, meaning: Meaning) -> Iterator[str]:
    """Yield the lines of `[labels]` and its map."""
    yield ""
    yield "[labels]"
    yield f"encoding = {_quoted(look.encoding)}"
    if look.channel is not None:
        yield f"channel = {look.channel}  # the first channel is 0, red"
    if look.tolerance:
        yield f"tolerance = {look.tolerance}  # edges are soft: the class of the nearest code"
    if meaning.other is not None:
        yield f"other = {_quoted(meaning.other)}  # whatever the map leaves out"
    elif look.tolerance:
        yield 'other = "ignore"  # what is further from all codes, in files not looked at'
    seen = {written(look, entry.code): _seen(look, entry) for entry in look.codes}
    yield from (f"# left out: {seen[written(look, code)]}" for code in meaning.left_out)
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


def _seen(look: LabelLook, entry: SeenCode) -> str:
    what = written(look, entry.code)
    kind = "colour" if look.encoding == "rgb" else "id"
    return f"{kind} {what}: {100 * entry.share:.2f} % of pixels, in {entry.images} of {look.images}"


def _problems(domain: Domain, inspection: Inspection) -> Iterator[str]:
    """List splits whose patterns find other images than the inspection."""
    for split in inspection.splits:
        try:
            # Files of tools are drawn when they are first used.
            found = len(domain.items(split.name, with_labels=inspection.annotations is None))
        except DataError as error:
            yield from error.problems
            continue
        if found != split.count:
            yield f"split {split.name!r} has {found} images where {split.count} were seen"


def _note_on_black(look: LabelLook | None, meaning: Meaning) -> Iterator[str]:
    if look is None or look.encoding != "rgb" or meaning.map.get("#000000") != "ignore":
        return
    share = sum(entry.share for entry in look.codes if entry.code == 0)
    yield (
        f"black (#000000), {100 * share:.0f} % of the pixels, is ignored; if it is the background, "
        'list a class for it and map "#000000" to it'
    )


def _relative(folder: Path, base: Path) -> str:
    """A folder as a file in `base` names it: relative, unless they have nothing in common."""
    here, there = os.path.realpath(base), os.path.realpath(folder)
    if os.path.commonpath((here, there)) in (os.sep, ""):
        return there
    return Path(os.path.relpath(there, here)).as_posix()


def _one_or_more(values: tuple[str, ...]) -> str:
    if len(values) == 1:
        return _quoted(values[0])
    return f"[{', '.join(map(_quoted, values))}]"


def _quoted(text: str) -> str:
    """A TOML string."""
    return tomli_w.dumps({"x": text}).removeprefix("x = ").strip()
