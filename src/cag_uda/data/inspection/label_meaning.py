"""Guess the classes of unknown labels from their ids or colours, or from the names of shapes.

Colours are evidence: those of a built-in label space hardly occur by chance. Ids alone are none,
unless file names tell the data set: their classes get placeholders as names.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cag_uda.data.domains.builtin import label_space_files
from cag_uda.data.domains.label_map import packed
from cag_uda.data.domains.label_space import MAX_CLASSES, LabelSpace
from cag_uda.data.domains.shape_names import BACKGROUNDS
from cag_uda.data.inspection.annotation_looks import FoundAnnotations
from cag_uda.data.inspection.class_names import ClassNames
from cag_uda.data.inspection.label_looks import LabelLook, SeenCode
from cag_uda.errors import DataError
from cag_uda.types import IGNORE

_LEAST_SHARE = 0.9
_LEAST_NAMED = 0.5
_LEAST_CODES = 3
_LEAST_CLASSES = 2
_CITYSCAPES = "cityscapes-19"
_CITYSCAPES_IDS = range(34)


@dataclass(frozen=True)
class GuessedClass:
    """A class of the labels, with its name, or a placeholder if that is not known."""

    name: str
    color: tuple[int, int, int] | None
    seen: str
    """How often it occurs, for people; "" where that is not known."""


@dataclass(frozen=True)
class Meaning:
    """Content of `label_space`, `[[classes]]` and `[labels]` of a domain file."""

    label_space: str | None = None
    """Built-in label space, where one is recognised by its colours or by the names of the files."""
    classes: tuple[GuessedClass, ...] = ()
    """Classes of the domain itself, where no built-in space is recognised."""
    map: dict[str, str] = field(default_factory=dict)
    """Code, as a domain file writes it, or name of a shape → class or "ignore"; empty where codes
    are train ids, or the colours or names of the classes."""
    other: str | None = None
    """Class of codes, or of names of shapes, outside the map."""
    background: str | None = None
    """Class of pixels outside all shapes; None: the class of that name."""
    left_out: tuple[str, ...] = ()
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
    """Guess the classes of labels.

    `words` are those of their folders and file names; `label_space` is the built-in one that the
    user named; `names` come from a file beside the labels. Raises DataError if there are too many
    ids or colours, or no label space of the name.
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
    ids = _ids(look)
    spaces = [LabelSpace.load(name) for name in label_space_files()]
    return [s.name for s in spaces if len(ids) >= _LEAST_CODES and max(ids) <= s.num_classes]


def _by_colour(look: LabelLook) -> Meaning | None:
    """Find a label space whose colours the labels have, in the pixels or in their palette."""
    for name in label_space_files():
        space = LabelSpace.load(name)
        if look.encoding == "rgb":
            colours = _colours(space)
            if _are_most(look.codes, [entry for entry in look.codes if entry.code in colours]):
                return _of_colours(look, space, f"the colours are those of {name}")
            continue
        labelled = [entry for entry in look.codes if entry.code != IGNORE]
        for ids, are_train_ids in ((range(space.num_classes), True), (_server_ids(space), False)):
            expected = dict(zip(ids, space.palette.tolist(), strict=False))
            agreeing = [
                entry
                for entry in look.codes
                if list(look.palette.get(entry.code, ())) == expected.get(entry.code)
            ]
            if _are_most(labelled, agreeing):
                why = f"the palette has the colours of {name}"
                return _of_space(look, space, are_train_ids, why)
    return None


def _by_file_names(look: LabelLook, words: frozenset[str]) -> Meaning | None:
    """Take Cityscapes' classes, where the names of the files say that the ids are theirs."""
    if look.encoding == "rgb":
        return None
    space = LabelSpace.load(_CITYSCAPES)
    ids = _ids(look)
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
    ids = _ids(look)
    # One id after the last class is what many data sets give to unlabelled pixels.
    are_train_ids = space.label_ids is None or max(ids, default=0) <= space.num_classes
    return _of_space(look, space, are_train_ids, why)


def _of_colours(look: LabelLook, space: LabelSpace, why: str) -> Meaning:
    known = {0, *_colours(space)}
    unknown = tuple(look.written(e.code) for e in look.codes if e.code not in known)
    other = "ignore" if unknown else None
    return Meaning(label_space=space.name, other=other, left_out=unknown, why=why)


def _colours(space: LabelSpace) -> set[int]:
    return {packed(*color) for color in space.palette.tolist()}


def _of_space(look: LabelLook, space: LabelSpace, are_train_ids: bool, why: str) -> Meaning:
    if are_train_ids:
        others = [e.code for e in look.codes if e.code not in (*range(space.num_classes), IGNORE)]
        mapped = {str(code): "ignore" for code in others}
        return Meaning(label_space=space.name, map=mapped, why=why)
    mapped = {str(code): name for code, name in zip(_server_ids(space), space.names, strict=True)}
    left_out = tuple(str(entry.code) for entry in look.codes if str(entry.code) not in mapped)
    return Meaning(label_space=space.name, map=mapped, other="ignore", left_out=left_out, why=why)


def _server_ids(space: LabelSpace) -> list[int]:
    """List the ids that a data set's test server wants back; none where there are none."""
    return [] if space.label_ids is None else space.label_ids.tolist()


def _by_class_names(look: LabelLook, names: ClassNames | None) -> Meaning | None:
    """Take the classes of a file of names, if it names all codes that were seen."""
    if names is None:
        return None
    by_code = names.colours if look.encoding == "rgb" else names.by_id
    unnamed = [entry.code for entry in look.codes if entry.code not in by_code]
    nothing = _nothing(look)
    if not by_code or any(code != nothing for code in unnamed):
        return None
    kept = [code for code, name in by_code.items() if name != "ignore"]
    names_of = dict(by_code) | ({nothing: "ignore"} if unnamed else {})
    is_plain = kept == list(range(len(by_code)))
    return _of_codes(look, names_of, f"{names.file} names the classes", is_plain, is_named=True)


def _unnamed(look: LabelLook) -> Meaning:
    """Make classes whose names are placeholders with numbers."""
    ids, nothing = [entry.code for entry in look.codes], _nothing(look)
    codes = [code for code in ids if code != nothing]
    if look.encoding != "rgb" and ids == [0, IGNORE]:
        return _mask(look, "the ids 0 and 255 look like a mask")
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
            f"the labels hold {', '.join(map(look.written, ids))} alone, and one "
            "class cannot be learnt; give a folder whose labels hold two classes at least"
        )
    numbers = range(len(codes)) if look.encoding == "rgb" else codes
    names = {code: f"class-{number}" for code, number in zip(codes, numbers, strict=True)}
    if nothing in ids:
        names[nothing] = "ignore"
    return _of_codes(
        look, names, "no file here names the classes", is_plain=codes == list(range(len(codes)))
    )


def _mask(look: LabelLook, why: str) -> Meaning:
    """Make the two classes of a mask: the background (black, 0 or 255) and the foreground."""
    codes = [entry.code for entry in look.codes]
    nothing = 0 if look.encoding == "rgb" or codes[0] == 0 else IGNORE
    behind, front = sorted(codes, key=lambda code: code != nothing)
    return _of_codes(look, {behind: "background", front: "foreground"}, why, is_plain=False)


def _of_codes(
    look: LabelLook, names: dict[int, str], why: str, is_plain: bool, is_named: bool = False
) -> Meaning:
    """Make a class of each code by its name, or "ignore"; plain ids are train ids by themselves."""
    return Meaning(
        classes=tuple(_class(look, code, name) for code, name in names.items() if name != "ignore"),
        map={}
        if is_plain and look.encoding != "rgb"
        else {look.written(code): name for code, name in names.items()},
        why=why,
        is_named=is_named,
    )


def _ids(look: LabelLook) -> set[int]:
    return {entry.code for entry in look.codes} - {IGNORE}


def _nothing(look: LabelLook) -> int:
    """Return the code that stands for no class, where nothing else is known: black, or 255."""
    return 0 if look.encoding == "rgb" else IGNORE


def _class(look: LabelLook, code: int, name: str) -> GuessedClass:
    color = look.palette.get(code)
    if look.encoding == "rgb":
        color = code >> 16, code >> 8 & 255, code & 255
    seen = next((entry for entry in look.codes if entry.code == code), SeenCode(code, 0.0, 0))
    return GuessedClass(name, color, look.described(seen))


def _are_most(codes: Iterable[SeenCode], agreeing: list[SeenCode]) -> bool:
    """Tell whether enough codes agree, which make up nearly all labelled pixels."""
    total = sum(entry.share for entry in codes)
    share = sum(entry.share for entry in agreeing)
    return len(agreeing) >= _LEAST_CODES and share >= _LEAST_SHARE * total


# ---- shapes of annotation tools ---------------------------------------------------------------


def meaning_of_shapes(look: FoundAnnotations, names: ClassNames | None) -> Meaning:
    """Guess the classes of shapes; a file of names beside them serves formats of numbers."""
    if look.encoding == "yolo":
        return _of_numbers(look, names)
    for each in label_space_files():
        space = LabelSpace.load(each)
        known = [name for name in look.names if name in space.names]
        if len(known) >= max(_LEAST_CODES, _LEAST_NAMED * space.num_classes):
            why = "the shapes have its names"
            return Meaning(label_space=each, background="ignore", other="ignore", why=why)
    classes = [name for name in look.names if name not in ("ignore", "__ignore__")]
    mapped = {name: "ignore" for name in look.names if name == "__ignore__"}
    for place, name in enumerate(classes):
        if name.isdigit() or name != name.strip() or not name:
            classes[place] = mapped[name] = f"class-{name.strip() or place}"
    if not set(look.names) & set(BACKGROUNDS):
        classes.insert(0, BACKGROUNDS[0])
    return _of_classes(look, classes, mapped)


def _of_numbers(look: FoundAnnotations, names: ClassNames | None) -> Meaning:
    """Order YOLO's classes by their numbers; the background, which has none, comes last."""
    count = 1 + max((int(name) for name in look.names), default=0)
    by_id = names.by_id if names is not None and len(names.by_id) >= count else {}
    named = [by_id.get(number, f"class-{number}") for number in range(max(count, len(by_id)))]
    mapped = {str(number): name for number, name in enumerate(named) if name == "ignore"}
    classes = [name for name in named if name != "ignore"]
    if mapped and named[-1] != "ignore":
        # After an ignored number, the numbers are no longer the places of the classes.
        mapped = {str(number): name for number, name in enumerate(named)}
    if not set(classes) & set(BACKGROUNDS):
        classes.append(BACKGROUNDS[0])
    return _of_classes(look, classes, mapped)


def _of_classes(look: FoundAnnotations, classes: list[str], mapped: dict[str, str]) -> Meaning:
    counts = {name: f"{count} shapes" for name, count in look.names.items() if count}
    return Meaning(
        classes=tuple(GuessedClass(name, None, counts.get(name, "")) for name in classes),
        map=mapped,
        why="as shapes are called, and what lies outside all of them",
        is_named=True,
    )
