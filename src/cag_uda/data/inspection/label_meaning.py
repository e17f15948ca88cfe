"""Guess the classes of unknown labels from their ids or colours.

Colours are evidence: those of a built-in label space hardly occur by chance. Ids alone are none,
unless file names tell the data set: their classes get placeholders as names.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cag_uda.data.domains.builtin import label_space_names
from cag_uda.data.domains.label_space import MAX_CLASSES, LabelSpace
from cag_uda.data.inspection.class_names import ClassNames
from cag_uda.data.inspection.label_looks import LabelLook, SeenCode
from cag_uda.errors import DataError
from cag_uda.types import IGNORE

_LEAST_SHARE = 0.9
_LEAST_CODES = 3
_LEAST_CLASSES = 2
_CITYSCAPES = "cityscapes-19"
_CITYSCAPES_IDS = range(34)


@dataclass(frozen=True)
class GuessedClass:
    """A class of the labels, with its name, or a placeholder if that is not known."""

    name: str
    color: tuple[int, int, int] | None
    seen: SeenCode


@dataclass(frozen=True)
class Meaning:
    """Content of `label_space`, `[[classes]]` and `[labels]` of a domain file."""

    label_space: str | None = None
    """Built-in label space, where one is recognised by its colours or by the names of the files."""
    classes: tuple[GuessedClass, ...] = ()
    """Classes of the domain itself, where no built-in space is recognised."""
    map: dict[str, str] = field(default_factory=dict)
    """Code, as a domain file writes it → class or "ignore"; empty where codes are train ids, or the
    colours of the classes."""
    other: str | None = None
    """Class of codes outside the map."""
    left_out: tuple[int, ...] = ()
    """Codes that were seen and become `other`."""
    why: str = ""
    """Reason for the guess, for people."""
    is_named: bool = False
    """True if the classes have names of their own, False for placeholders."""


def meaning_of(
    look: LabelLook,
    words: frozenset[str],
    label_space: str | None = None,
    names: ClassNames | None = None,
) -> Meaning:
    """Guess the classes.

    Args:
        look: encoding and codes of the labels.
        words: of the labels' folders and file names.
        label_space: built-in label space that the user named; None: to be guessed.
        names: of a file beside the labels.

    Raises:
        DataError: if there are more ids or colours than classes can be, or no label space of the
            name.
    """
    if label_space is not None:
        return _of_named_space(look, LabelSpace.load(label_space))
    return (
        _by_colour(look)
        or _by_file_names(look, words)
        or _by_class_names(look, names)
        or _unnamed(look)
    )


def fitting_spaces(look: LabelLook) -> list[str]:
    """List built-in label spaces whose train ids, 255 and one id more contain all ids seen."""
    if look.encoding == "rgb":
        return []
    ids = {entry.code for entry in look.codes} - {IGNORE}
    spaces = [LabelSpace.load(name) for name in label_space_names()]
    return [s.name for s in spaces if len(ids) >= _LEAST_CODES and max(ids) <= s.num_classes]


def written(look: LabelLook, code: int) -> str:
    """Write a code as a domain file does."""
    return f"#{code:06x}" if look.encoding == "rgb" else str(code)


def _by_colour(look: LabelLook) -> Meaning | None:
    """Find a label space whose colours the labels have, in the pixels or in their palette."""
    for name in label_space_names():
        space = LabelSpace.load(name)
        if look.encoding == "rgb":
            colours = _colours(space)
            if _are_most(look.codes, [entry for entry in look.codes if entry.code in colours]):
                return _of_colours(look, space, f"the colours are those of {name}")
            continue
        ids_of_servers = [] if space.label_ids is None else space.label_ids.tolist()
        for ids, are_train_ids in ((range(space.num_classes), True), (ids_of_servers, False)):
            expected = dict(zip(ids, space.palette.tolist(), strict=False))
            agreeing = [
                entry
                for entry in look.codes
                if list(look.palette.get(entry.code, ())) == expected.get(entry.code)
            ]
            if _are_most([e for e in look.codes if e.code != IGNORE], agreeing):
                why = f"the palette has the colours of {name}"
                return _of_space(look, space, are_train_ids, why)
    return None


def _by_file_names(look: LabelLook, words: frozenset[str]) -> Meaning | None:
    """Take Cityscapes' classes, where the names of the files say that the ids are theirs."""
    if look.encoding == "rgb":
        return None
    space = LabelSpace.load(_CITYSCAPES)
    ids = {entry.code for entry in look.codes} - {IGNORE}
    if words & {"labeltrainids", "trainids"} and ids <= set(range(space.num_classes)):
        return _of_space(look, space, True, "the files are named as Cityscapes' train ids are")
    if "labelids" in words and ids <= set(_CITYSCAPES_IDS):
        return _of_space(look, space, False, "the files are named as Cityscapes' label ids are")
    return None


def _of_named_space(look: LabelLook, space: LabelSpace) -> Meaning:
    """Take the space that the user named, with its label ids where the ids are no train ids."""
    why = f"{space.name} was asked for"
    if look.encoding == "rgb":
        return _of_colours(look, space, why)
    ids = {entry.code for entry in look.codes} - {IGNORE}
    # One id after the last class is what many data sets give to unlabelled pixels.
    are_train_ids = space.label_ids is None or max(ids, default=0) <= space.num_classes
    return _of_space(look, space, are_train_ids, why)


def _of_colours(look: LabelLook, space: LabelSpace, why: str) -> Meaning:
    known = {0, *_colours(space)}
    unknown = tuple(entry.code for entry in look.codes if entry.code not in known)
    other = "ignore" if unknown else None
    return Meaning(label_space=space.name, other=other, left_out=unknown, why=why)


def _colours(space: LabelSpace) -> set[int]:
    return {(r << 16 | g << 8 | b) for r, g, b in space.palette.tolist()}


def _of_space(look: LabelLook, space: LabelSpace, are_train_ids: bool, why: str) -> Meaning:
    if are_train_ids:
        others = [e.code for e in look.codes if e.code not in (*range(space.num_classes), IGNORE)]
        mapped = {str(code): "ignore" for code in others}
        return Meaning(label_space=space.name, map=mapped, why=why)
    ids = space.label_ids.tolist() if space.label_ids is not None else []
    mapped = {str(code): name for code, name in zip(ids, space.names, strict=True)}
    left_out = tuple(entry.code for entry in look.codes if entry.code not in ids)
    return Meaning(label_space=space.name, map=mapped, other="ignore", left_out=left_out, why=why)


def _by_class_names(look: LabelLook, names: ClassNames | None) -> Meaning | None:
    """Take the classes of a file of names, if it names all codes that were seen."""
    if names is None:
        return None
    seen = {entry.code: entry for entry in look.codes}
    by_code = names.colours if look.encoding == "rgb" else names.by_id
    unnamed = [entry for entry in look.codes if entry.code not in by_code]
    nothing = 0 if look.encoding == "rgb" else IGNORE
    if not by_code or any(entry.code != nothing for entry in unnamed):
        return None
    classes, mapped = [], {}
    for code, name in by_code.items():
        if name == "ignore":
            mapped[written(look, code)] = name
            continue
        found = seen.get(code, SeenCode(code, 0.0, 0))
        classes.append(GuessedClass(name, _colour_of(look, code), found))
        mapped[written(look, code)] = name
    kept = [code for code, name in by_code.items() if name != "ignore"]
    is_plain = look.encoding != "rgb" and kept == list(range(len(by_code)))
    if unnamed and not is_plain:
        mapped[written(look, nothing)] = "ignore"
    why = f"{names.file} names the classes"
    return Meaning(classes=tuple(classes), map={} if is_plain else mapped, why=why, is_named=True)


def _unnamed(look: LabelLook) -> Meaning:
    """Make classes whose names are placeholders with numbers."""
    ids = [entry.code for entry in look.codes]
    if look.encoding != "rgb" and ids == [0, IGNORE]:
        return _mask(look, "the ids 0 and 255 look like a mask")
    nothing = 0 if look.encoding == "rgb" else IGNORE
    codes = [entry for entry in look.codes if entry.code != nothing]
    if len(codes) == 1 and len(ids) == 2:
        return _mask(look, "two colours look like a mask" if look.encoding == "rgb" else "two ids")
    if len(codes) > MAX_CLASSES:
        raise DataError(
            f"the labels hold {len(codes)} different ids or colours, more than {MAX_CLASSES}: they "
            "look like instances or depth, not like classes; give a folder with labels of classes, "
            "or divide the ids of instances (`divide` in [labels])"
        )
    if len(codes) < _LEAST_CLASSES:
        raise DataError(
            f"the labels hold {', '.join(written(look, code) for code in ids)} alone, and one "
            "class cannot be learnt; give a folder whose labels hold two classes at least"
        )
    classes = tuple(_unnamed_class(look, entry, place) for place, entry in enumerate(codes))
    is_plain = look.encoding != "rgb" and [entry.code for entry in codes] == list(range(len(codes)))
    mapped = {written(look, each.seen.code): each.name for each in classes}
    if any(entry.code == nothing for entry in look.codes):
        mapped[written(look, nothing)] = "ignore"
    return Meaning(
        classes=classes, map={} if is_plain else mapped, why="no file here names the classes"
    )


def _mask(look: LabelLook, why: str) -> Meaning:
    """Make the two classes of a mask: the background (black, 0 or 255) and the foreground."""
    nothing = 0 if look.encoding == "rgb" or look.codes[0].code == 0 else IGNORE
    behind, front = sorted(look.codes, key=lambda entry: entry.code != nothing)
    classes = (
        GuessedClass("background", _colour_of(look, behind.code), behind),
        GuessedClass("foreground", _colour_of(look, front.code), front),
    )
    mapped = {written(look, each.seen.code): each.name for each in classes}
    return Meaning(classes=classes, map=mapped, why=why)


def _colour_of(look: LabelLook, code: int) -> tuple[int, int, int] | None:
    if look.encoding == "rgb":
        return code >> 16, code >> 8 & 255, code & 255
    return look.palette.get(code)


def _unnamed_class(look: LabelLook, entry: SeenCode, place: int) -> GuessedClass:
    number = place if look.encoding == "rgb" else entry.code
    return GuessedClass(f"class-{number}", _colour_of(look, entry.code), entry)


def _are_most(codes: Iterable[SeenCode], agreeing: list[SeenCode]) -> bool:
    """Tell whether enough codes agree, which make up nearly all labelled pixels."""
    total = sum(entry.share for entry in codes)
    share = sum(entry.share for entry in agreeing)
    return len(agreeing) >= _LEAST_CODES and share >= _LEAST_SHARE * total
