"""The schema of a domain file: what may stand in it, and every problem of one at once.

Knows TOML tables; looks at no image folder.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, ValidationError

from cag_uda.data.annotations.formats import FORMATS, AnnotationFormat, FormatName
from cag_uda.data.domains.label_map import ImageEncoding, LabelMap, build_label_map
from cag_uda.data.domains.label_space import LabelClass, LabelSpace
from cag_uda.data.domains.schema_errors import is_only_unknown_keys, problems_of
from cag_uda.data.domains.shape_names import ShapeNames, build_shape_names
from cag_uda.data.files.images import ImageReader
from cag_uda.data.files.patterns import label_pattern_problem, outside_problem, pattern_problem
from cag_uda.data.files.toml import parse_toml, text_of
from cag_uda.errors import DataError
from cag_uda.types import Config

T = TypeVar("T")

_MOST_SCENES = 1_000_000


def _one_or_more(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise ValueError(f"want a string or a list of strings, got {value!r}")
    return value


def _checked(problem_of: Callable[[T], str | None]) -> AfterValidator:
    """Make a validator of a function that says what is wrong with a value."""

    def check(value: T) -> T:
        if problem := problem_of(value):
            raise ValueError(problem)
        return value

    return AfterValidator(check)


def _root_problem(root: str) -> str | None:
    if all(ord(letter) >= ord(" ") for letter in root):
        return None
    return (
        f"{root!r} holds a control character: in double quotes, a backslash begins one; write "
        "paths with / or in single quotes"
    )


def _slice_problem(text: str) -> str | None:
    match = re.fullmatch(r"\s*(-?\d*)\s*:\s*(-?\d*)\s*(?::\s*(-?\d*)\s*)?", text)
    if not match or any(part == "-" for part in match.groups()):
        return f"{text!r} is no slice; want for example '0:100', '100:' or '::10'"
    return f"{text!r} has step 0" if match[3] and int(match[3]) == 0 else None


def _scenes_problem(scenes: tuple[int, int]) -> str | None:
    if not scenes[0] < scenes[1]:
        return f"{list(scenes)} is empty; want [first, stop] with 0 ≤ first < stop"
    if scenes[1] > _MOST_SCENES:
        return f"{list(scenes)} goes beyond scene {_MOST_SCENES:,}, the last"
    return None


def _label_space_problem(name: str) -> str | None:
    try:
        LabelSpace.load(name)
    except DataError as error:
        return str(error)
    return None


def one_or_more_schema(schema: dict[str, Any]) -> None:
    """Tell editors that a list may be given as its only item."""
    several = {key: schema.pop(key) for key in list(schema) if key != "description"}
    schema["anyOf"] = [several["items"], several]


OneOrMore = Annotated[
    tuple[T, ...],
    BeforeValidator(_one_or_more),
    Field(min_length=1, json_schema_extra=one_or_more_schema),
]
Encoding: TypeAlias = Literal[ImageEncoding, FormatName]
Pattern = Annotated[str, Field(min_length=1), _checked(pattern_problem)]
InsidePath = Annotated[str, _checked(outside_problem)]
Positive = Annotated[StrictInt, Field(ge=1)]
FromZero = Annotated[StrictInt, Field(ge=0)]


class LabelsTable(Config):
    """`[labels]`: how labels are stored; the rules of the map stand in `label_map`."""

    encoding: Encoding = "ids"
    """Images: ids: one channel of 8 or 16 bits; palette: indices of a palette image; rgb: colours;
    channel: the id is in one of several channels; npy: an array of ids of NumPy. Files of
    annotation tools, drawn once into the cache: coco, yolo, labelme, cvat, label-studio,
    cityscapes-polygons."""
    channel: Annotated[FromZero, Field(le=3)] | None = None
    """Number of the channel that holds the id, for encoding = "channel" only; red is 0."""
    map: dict[str, Any] = Field(default_factory=dict)
    """Id, or colour as "R,G,B" or "#rrggbb" → train id, class name or "ignore"."""
    other: Any = None
    """Class of codes outside the map: "ignore", a class, or "keep"; None: an error."""
    background: Any = None
    """Class, or "ignore", of pixels outside all shapes, for files of annotation tools; None: the
    class that is called background."""
    tolerance: Annotated[StrictInt, Field(ge=0, le=127)] = 0
    """Most that each channel of a code may differ from the nearest mapped one to be taken for it:
    for soft edges, and masks that were once JPEGs. 0: not at all."""
    divide: Annotated[StrictInt, Field(ge=1)] = 1
    """Ids of instances are divided by this to give those of classes: 1000 for Cityscapes'
    instanceIds, 256 for KITTI's and Mapillary's. The map is of what comes out."""
    divide_from: FromZero = 0
    """Ids below this are those of classes already: 1000 for Cityscapes' instanceIds."""

    @property
    def format(self) -> AnnotationFormat | None:
        """The annotation format that the encoding names; None for labels that are images."""
        return next((row for name, row in FORMATS.items() if name == self.encoding), None)


class SplitTable(Config):
    """`[splits.NAME]`: which images, and which labels go with them."""

    images: OneOrMore[Pattern] | None = None
    """Patterns below the root; all of them together are the split."""
    labels: OneOrMore[Pattern] | None = None
    """One for each pattern of images, or one for all; the n-th wildcard stands for what the n-th
    of the image's pattern matched."""
    exclude: OneOrMore[InsidePath] | None = None
    """Images to leave out because they are broken as published: paths below the root without
    extension. Taken before `list`."""
    published: Positive | None = None
    """Number of images that the data set was published with, with those in `exclude`; `check` says
    when there are fewer or more."""
    list_file: InsidePath | None = Field(None, alias="list")
    """Text file below the root with the images to keep, one a line: path or end of a path, with or
    without extension."""
    slice: Annotated[str, _checked(_slice_problem)] | None = None
    """Python slice, such as "0:500", of the images sorted by path that are kept; taken after
    `list`."""
    scenes: Annotated[tuple[FromZero, FromZero], _checked(_scenes_problem)] | None = None
    """First and one past the last scene, for rendered domains only."""

    def patterns(self) -> Iterator[tuple[str, str]]:
        """Yield each image pattern with its label pattern, "" where the split has no labels."""
        images, labels = self.images or (), self.labels or ("",)
        yield from zip(images, labels if len(labels) > 1 else labels * len(images), strict=True)

    def sliced(self, items: list[T]) -> list[T]:
        """Apply `slice`."""
        if self.slice is None:
            return items
        parts = [int(part) if part.strip() else None for part in self.slice.split(":")]
        return items[slice(*parts)]


class RenderedTable(Config):
    """`[rendered]`: made-up scenes instead of a root."""

    look: Literal["clean", "hard"]
    height_px: Annotated[Positive, Field(ge=32)]
    width_px: Annotated[Positive, Field(ge=32)]
    seed: FromZero = 0


class DomainFile(Config):
    """A whole domain file."""

    name: Annotated[str, Field(min_length=1)]
    root: OneOrMore[Annotated[str, _checked(_root_problem)]] | None = None
    """Folder names, of which the first that exists is the root."""
    label_space: Annotated[str, _checked(_label_space_problem)] | None = None
    """Name of a built-in label space; or the classes are listed below."""
    classes: tuple[LabelClass, ...] | None = None
    images: ImageReader = ImageReader()
    labels: LabelsTable = LabelsTable()
    rendered: RenderedTable | None = None
    splits: Annotated[dict[str, SplitTable], Field(min_length=1)]

    def space(self) -> LabelSpace | None:
        """Return the label space, or None where the domain has none. Raises DataError."""
        if self.label_space is not None:
            return LabelSpace.load(self.label_space)
        if self.classes is not None:
            return LabelSpace.from_dict({"name": self.name, "classes": self.classes})
        return None

    def meaning(self, space: LabelSpace) -> tuple[LabelMap, ShapeNames | None, list[str]]:
        """Make the tables of codes and, for annotation tools, of names of shapes.

        With them comes every problem of `[labels]` and its map; tables with problems are of no use.
        """
        table = self.labels
        if table.format is not None:  # What is drawn of shapes holds train ids.
            names, problems = build_shape_names(table.map, table.other, table.background, space)
            return build_label_map("ids", {}, None, space)[0], names, problems
        encoding = cast(ImageEncoding, table.encoding)
        found = build_label_map(encoding, table.map, table.other, space, table.tolerance)
        return found[0], None, found[1]

    def problems(self) -> list[str]:
        """List what is wrong between tables that are each right by themselves."""
        problems = [*self._space_problems(), *self._labels_problems()]
        if (self.root is None) == (self.rendered is None):
            problems.append("give either root, the folder of the images, or a [rendered] table")
        for name, split in self.splits.items():
            wrong = _scene_problems(split) if self.rendered else _file_problems(split, self.labels)
            problems += [f"splits.{name}.{problem}" for problem in wrong]
        return problems

    def _space_problems(self) -> list[str]:
        if self.label_space is not None and self.classes is not None:
            return ["give either label_space, a built-in name, or [[classes]], not both"]
        try:
            space = self.space()
        except DataError as error:
            return error.problems
        if space is not None:
            problems = self.meaning(space)[2]
            return problems if space.num_classes > 1 else [_single_class_problem(space), *problems]
        has_labels = any(split.labels for split in self.splits.values())
        if self.rendered or has_labels or "labels" in self.model_fields_set:
            return ["labels need their classes: give label_space a built-in name, or [[classes]]"]
        return []

    def _labels_problems(self) -> list[str]:
        table = self.labels
        if table.encoding == "channel" and table.channel is None:
            return ["labels.channel: missing; say which channel holds the id, 0 is the first (red)"]
        wrong = {
            "channel": table.channel is not None and table.encoding != "channel",
            "background": table.background is not None and table.format is None,
            "tolerance": bool(table.tolerance) and table.encoding not in ("ids", "rgb"),
            "divide": table.divide > 1 and table.encoding not in ("ids", "channel", "npy"),
        }
        problems = [
            f"labels.{key} means nothing with encoding = {table.encoding!r}"
            for key, is_wrong in wrong.items()
            if is_wrong
        ]
        if table.tolerance and table.encoding == "ids" and not table.map:
            problems.append("labels.tolerance wants a map: the ids that others are near to")
        return problems


def parse_domain_file(text: str, shown_as: str) -> DomainFile:
    """Read the TOML of a domain file.

    Raises DataError with all problems of the file; `shown_as` is how messages name it.
    """
    tables = parse_toml(text, shown_as)
    if "stages" in tables and "splits" not in tables:
        raise DataError(f"{shown_as} is a recipe; want a domain, such as its source or target")
    try:
        description = DomainFile.model_validate(tables)
        problems = []
    except ValidationError as error:
        problems = problems_of(error, DomainFile)
        if not is_only_unknown_keys(error):
            raise DataError([f"{shown_as}: {problem}" for problem in problems]) from error
        # A misspelt key shall not hide the problems between tables.
        description = DomainFile.model_validate(_without_unknown(tables, error))
    problems += description.problems()
    if problems:
        raise DataError([f"{shown_as}: {problem}" for problem in problems])
    return description


def read_domain_file(path: Path) -> DomainFile:
    """Read a domain file. Raises DataError as `parse_domain_file` does, or if it cannot be read."""
    return parse_domain_file(text_of(path, "domain file"), str(path))


def _scene_problems(split: SplitTable) -> list[str]:
    problems = [
        f"{key}: a rendered domain takes scenes = [first, stop] alone"
        for key in split.model_dump(by_alias=True, exclude_none=True, exclude={"scenes"})
    ]
    return problems if split.scenes else [*problems, "scenes: missing; want [first, stop]"]


def _single_class_problem(space: LabelSpace) -> str:
    (only,) = space.names
    return (
        f"one class alone, {only!r}, cannot be learnt: every pixel would be it; list a second one "
        f'before it, for example [[classes]] name = "background", and map what is not {only} to '
        'it, for example map = { "#000000" = "background" } with colours, or '
        '{ 0 = "background" } with ids'
    )


def _file_problems(split: SplitTable, table: LabelsTable) -> list[str]:
    if split.scenes is not None:
        return ["scenes: only a domain with a [rendered] table has scenes"]
    if split.images is None:
        return ["images: missing; want a pattern such as 'images/*'"]
    if split.labels and len(split.labels) not in (1, len(split.images)):
        return [
            f"labels: {len(split.labels)} patterns for {len(split.images)} of images; want one for "
            "each, or one for all"
        ]
    pairs = [(images, labels) for images, labels in split.patterns() if labels]
    if table.format is not None and table.format.is_of_split:
        return [
            f"labels: {labels!r}: with encoding = {table.encoding!r} one file describes all images "
            "of the split; name it without *"
            for _, labels in pairs
            if "*" in labels
        ]
    problems = [label_pattern_problem(labels, images) for images, labels in pairs]
    return [f"labels: {problem}" for problem in problems if problem]


def _without_unknown(tables: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """Leave out of tables the keys that the schema does not know; `tables` is used up."""
    for detail in error.errors():
        *folders, key = detail["loc"]
        table: Any = tables
        for part in folders:
            table = table[part]
        del table[key]
    return tables
