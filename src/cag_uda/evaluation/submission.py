"""Checks of a folder of predictions for a test server: names, sizes and ids."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cag_uda.data.domains.domain import Domain, Item
from cag_uda.data.files.ahead import ahead
from cag_uda.errors import DataError

_IMAGE_ENDING = "_leftImg8bit"
_AHEAD = 8
_SHOWN = 5


def submission_problems(
    folder: Path,
    domain: Domain,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[str]:
    """Check a folder of label-id PNGs of the split "test" before it is zipped and sent.

    The server wants, anywhere in the folder, one PNG for each image, named by the image's stem
    (`berlin_000000_000019*.png`), of the image's size, in one channel of 8 bits, of ids that it
    scores.

    Args:
        folder: the predictions, as `cag-uda predict --as label-ids` writes them.
        domain: the domain of their images; its label space has label ids.
        on_progress: called after each image with the numbers of images checked and to be checked.

    Returns:
        What the server would refuse, one line each; empty if the folder can be sent.

    Raises:
        DataError: if the folder or the images of the split are not there, or the domain's classes
            have no label ids.

    Source: cityscapesscripts, evaluation/evalPixelLevelSemanticLabeling.py, `getPrediction` and
        `evaluatePair`.
    """
    if domain.label_space is None or domain.label_space.label_ids is None:
        raise DataError(
            f"the classes of domain {domain.name!r} have no label ids, so no test server is known"
        )
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder}; write it by `cag-uda predict MODEL IMAGES --as label-ids`"
        )
    scored_ids = domain.label_space.label_ids
    items = domain.items("test", with_labels=False)
    files = sorted(((path.name, path) for path in folder.rglob("*.png")), key=lambda file: file[0])
    found = [_matching(files, item) for item in items]
    problems = list(_name_problems(folder, items, found))

    def checked(pair: tuple[Item, Path]) -> str | None:
        return _file_problem(*pair, scored_ids)

    pairs = [(item, matches[0]) for item, matches in zip(items, found, strict=True) if matches]
    wrong = []
    with closing(ahead(checked, pairs, depth=_AHEAD)) as results:
        for done, problem in enumerate(results, start=1):
            wrong += [problem] if problem else []
            if on_progress is not None:
                on_progress(done, len(pairs))
    return problems + _first(wrong)


def _stem(item: Item) -> str:
    return item.image.stem.removesuffix(_IMAGE_ENDING)


def _matching(files: list[tuple[str, Path]], item: Item) -> list[Path]:
    stem, matches = _stem(item), []
    for name, path in files[bisect_left(files, stem, key=lambda file: file[0]) :]:
        if not name.startswith(stem):
            break
        matches.append(path)
    return matches


def _name_problems(folder: Path, items: list[Item], found: list[list[Path]]) -> Iterator[str]:
    missing = [_stem(item) for item, matches in zip(items, found, strict=True) if not matches]
    if missing:
        wanted = ", ".join(f"{stem}*.png" for stem in missing[:_SHOWN])
        more = ", …" if len(missing) > _SHOWN else ""
        yield f"{len(missing)} of {len(items)} images have no PNG in {folder}: {wanted}{more}"
    for item, matches in zip(items, found, strict=True):
        if len(matches) > 1:
            names = " and ".join(str(path.relative_to(folder)) for path in matches[:2])
            yield f"{len(matches)} PNGs for {_stem(item)}, such as {names}; want one"


def _file_problem(item: Item, path: Path, scored_ids: npt.NDArray[np.uint8]) -> str | None:
    try:
        with Image.open(item.image) as image:
            width, height = image.size
    except (OSError, SyntaxError) as error:
        return f"cannot read the image {item.image}: {error}"
    try:
        with Image.open(path) as opened:
            ids: npt.NDArray[Any] = np.asarray(opened)
    except (OSError, SyntaxError, ValueError) as error:
        return f"{path} is damaged or no PNG: {error}"
    if ids.ndim != 2 or ids.dtype != np.uint8:
        return f"{path} is {ids.shape} {ids.dtype}; want ids in one channel of 8 bits"
    if ids.shape != (height, width):
        return (
            f"{path} is {ids.shape[1]}×{ids.shape[0]}; want the image's own size, {width}×{height}"
        )
    others = np.setdiff1d(np.flatnonzero(np.bincount(ids.ravel())), scored_ids)
    if others.size:
        listed = ", ".join(map(str, others[:_SHOWN])) + (", …" if others.size > _SHOWN else "")
        return (
            f"{path} holds ids that are not scored: {listed}; want label ids "
            f"({scored_ids.min()} to {scored_ids.max()}), not train ids: predict --as label-ids"
        )
    return None


def _first(problems: list[str]) -> list[str]:
    more = len(problems) - _SHOWN
    return problems[:_SHOWN] + ([f"and {more} more files like these"] if more > 0 else [])
