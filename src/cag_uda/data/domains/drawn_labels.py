"""Labels of annotation tools as label images: drawn once, then taken from the cache.

Finds the drawing of each image, by the name of its file or by what the file says; draws train ids.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2

from cag_uda.data.annotations.drawing import Drawing, paint
from cag_uda.data.annotations.formats import AnnotationFormat
from cag_uda.data.domains.placement import first_of
from cag_uda.data.domains.shape_names import ShapeNames
from cag_uda.data.files.cache import VARIABLE, cache_entry, warn_once
from cag_uda.data.files.images import ImageReader
from cag_uda.data.files.patterns import IMAGE_EXTENSIONS, composed, endings
from cag_uda.errors import DataError, RunError
from cag_uda.files import write_with

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class LabelArtist:
    """Draws the labels of one domain."""

    format: AnnotationFormat
    names: ShapeNames
    images: ImageReader
    described_in: str
    """The domain file, for messages."""

    def draw(self, wanted: Sequence[tuple[str, Path, Path]]) -> dict[str, Path]:
        """Draw the labels of images, or find them in the cache.

        `wanted` has the key of each image, its path, and the file that holds its shapes. The result
        has the label image of each key, train ids as PNG; images are left out of which a file for
        many images says nothing. Raises DataError if a file cannot be read, or shapes have names
        that no rule covers.
        """
        files = {
            path: _File(self.format.read(path)) for path in dict.fromkeys(w[2] for w in wanted)
        }
        jobs = []
        for key, image, path in wanted:
            file = files[path]
            drawing = file.drawing_of(key) if self.format.is_of_split else file.drawings[0]
            if drawing is not None:
                jobs.append((key, image, path, drawing))
        self._refuse([drawing for *_, drawing in jobs])
        return {key: self._drawn(image, path, drawing) for key, image, path, drawing in jobs}

    def _refuse(self, drawings: Sequence[Drawing]) -> None:
        shapes = [shape for drawing in drawings for shape in drawing.shapes]
        boxes = sum(shape.kind == "box" for shape in shapes)
        if boxes and 2 * boxes > len(shapes):
            raise DataError(
                f"{boxes} of {len(shapes)} shapes of {self.described_in} are boxes: they are made "
                "for detection; export segmentation"
            )
        if boxes:
            warn_once(f"{boxes} of {len(shapes)} shapes are boxes, and are drawn as such")
        counts = Counter(shape.name for shape in shapes)
        unknown = sorted(self.names.unknown(counts), key=lambda name: -counts[name])
        if unknown:
            listed = first_of([f"{name} ({counts[name]:,} shapes)" for name in unknown], 8)
            raise DataError(
                f"shapes with names that are neither mapped nor classes: {listed}; in [labels] of "
                f'{self.described_in}, map them (for example map = {{ "{unknown[0]}" = "ignore" '
                '}) or set other = "ignore"'
            )

    def _drawn(self, image: Path, path: Path, drawing: Drawing) -> Path:
        convention = drawing.convention or self.format.convention
        names = f"{sorted(self.names.values.items())} {self.names.other} {self.names.background}"
        salt = f"{_FORMAT} {self.format.extension} {convention} {names}"
        salt += f" {drawing.image} {drawing.size}"
        place = cache_entry("drawn", ".png", salt, (path, image))
        if place.is_file():
            return place
        size = drawing.size or self.images.size(image)
        label = paint(drawing, size, convention, self.names.background, self.names.value_of)
        encoded = cv2.imencode(".png", label)[1].tobytes()
        try:
            write_with(place, lambda temporary: temporary.write_bytes(encoded))
        except RunError as error:
            advice = f"labels are drawn into the folder that {VARIABLE} names"
            raise DataError([*error.problems, advice]) from error
        return place


class _File:
    """The drawings of one file, by image."""

    def __init__(self, drawings: list[Drawing]) -> None:
        self.drawings = drawings
        self._by_path = {_stem(drawing.image): drawing for drawing in drawings}
        self._by_name: dict[str, list[Drawing]] = defaultdict(list)
        for drawing in drawings:
            self._by_name[PurePosixPath(_stem(drawing.image)).name].append(drawing)

    def drawing_of(self, key: str) -> Drawing | None:
        """Read the drawing of the image of a key; None if the file does not speak of it."""
        ends = endings(key)
        for end in ends:
            if found := self._by_path.get(end):
                return found
        named_alike = self._by_name.get(ends[-1], [])
        return named_alike[0] if len(named_alike) == 1 else None


def _stem(image: str) -> str:
    """Give an image's path without extension, with forward slashes."""
    path = PurePosixPath(image.replace("\\", "/").removeprefix("./"))
    known = path.suffix.lower() in IMAGE_EXTENSIONS
    return composed(str(path.with_suffix("") if known else path))
