"""Draft a recipe for two domains: commented, with sizes that fit their images."""

import os
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from cag_uda.data.domains.class_subset import with_classes
from cag_uda.data.domains.domain import Domain
from cag_uda.data.inspection.few_labels import draft_few_labels
from cag_uda.errors import UserError
from cag_uda.methods.anchor_classifier import is_linear
from cag_uda.models.pack import read_pack_header
from cag_uda.recipes import checked

_LAST_METHODS = ("cag-plus", "cag")
"""Methods with which a new recipe may end, the default first."""
_OF_PACK = "cag-plus-source-free"
"""Method with which a new recipe from a pack may end; by default it takes no training step."""

_SIZES_LOOKED_AT = 8
# Widths that images are brought to, and crops: what trains in an hour on two cores, and what the
# field uses on a GPU of 12 GB and more.
_WIDTH_PX = {"small": 256, "gpu": 1280}
_MOST_CROP_PX = {"small": (160, 192), "gpu": (512, 896)}
_CROP_SHARE = {"small": 0.67, "gpu": 0.8}


_TEMPLATES = Environment(
    loader=PackageLoader("cag_uda", "recipes"),
    undefined=StrictUndefined,
    autoescape=False,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


class FewLabels(NamedTuple):
    """The domain file of the target's labelled images."""

    file: str
    """Its name, beside the recipe."""
    text: str
    """TOML."""
    images: int
    """Number of images that it lists."""


class Drafted(NamedTuple):
    """A recipe that is not written yet."""

    name: str
    text: str
    """TOML."""
    labelled: FewLabels | None
    """The labelled images of the target; None where there are none."""


def draft_recipe(
    source_name: str,
    target_name: str,
    folder: Path,
    *,
    machine: str = "small",
    method: str | None = None,
    test_name: str | None = None,
    data_root: Path | None = None,
    labelled: Path | None = None,
) -> Drafted:
    """Draft a whole recipe for two domains.

    Args:
        source_name: the labelled domain, built-in or a file; or a pack, a file that ends in
            `.safetensors`, from which to adapt without the source.
        target_name: the domain to adapt to.
        folder: that the recipe will lie in; it names domain files relative to it.
        machine: "small" for two cores, "gpu" for one GPU.
        method: with which it ends: "cag-plus" or, in the paper's stages, "cag"; of a pack
            "cag-plus-source-free". None: "cag-plus"; of a pack, what takes no training step.
        test_name: the domain whose labelled images are scored; None: the target, where it has some.
        data_root: folder below which built-in domains lie.
        labelled: a file of an annotation tool, or a folder of files, with labels of some images of
            the target that may be trained on; None: the target has no label.

    Returns:
        The recipe's name, SOURCE-to-TARGET, and its TOML; with labels, a domain file that lists
        them, which the recipe names as lying beside it.

    Raises:
        UserError: if the source, or the domain to score, has no labels, the domains do not fit each
            other, or the labels are of other images.
    """
    if machine not in _WIDTH_PX:
        raise UserError(f"--machine is {' or '.join(_WIDTH_PX)}, got {machine!r}")
    is_pack = source_name.endswith(".safetensors")
    _refuse_other_methods(method, is_pack)
    if target_name.endswith(".safetensors"):
        raise UserError(
            f"{target_name} is a pack, which stands in place of the source: give it first, then "
            "the domain to adapt to"
        )
    target = Domain.open(target_name, data_root)
    tested = target if test_name is None else Domain.open(test_name, data_root)
    source = None if is_pack else Domain.open(source_name, data_root)
    few = None if labelled is None else _few_labels(source, target, labelled, folder)
    if source is None:
        name = f"{Path(source_name).stem}-to-{target.name}"
        template = "new-pack"
        told = _told_of_pack(Path(source_name), target, tested, folder, machine)
        told["trains"] = method == _OF_PACK
    else:
        name = f"{source.name}-to-{target.name}"
        template = f"new-{machine}"
        told = _told_of_source(source, target, tested, machine)
        told |= {"source": _named(source_name, folder), "method": method or _LAST_METHODS[0]}
    text = _TEMPLATES.get_template(f"{template}.toml.jinja").render(
        name=name,
        target=_named(target_name, folder),
        target_split=_train_split(target),
        labelled=None if few is None else few.file,
        test=_scored_split(tested, is_target=test_name is None),
        test_domain=None if test_name is None else _named(test_name, folder),
        **told,
    )
    checked(tomllib.loads(text))
    return Drafted(name, text, few)


def _refuse_other_methods(method: str | None, is_pack: bool) -> None:
    if method is None or method in ((_OF_PACK,) if is_pack else _LAST_METHODS):
        return
    if is_pack:
        raise UserError(
            f"--method {method} learns from the source's images, and of a pack there are none; "
            f"leave --method out, or give {_OF_PACK}"
        )
    raise UserError(
        f"--method is {' or '.join(_LAST_METHODS)}, got {method!r}; for the others, compare with "
        "`cag-uda compare`"
    )


def _few_labels(source: Domain | None, target: Domain, labelled: Path, folder: Path) -> FewLabels:
    space = target.label_space or (source.label_space if source else None)
    if space is None:
        raise UserError(
            f"nothing names the classes of the labels in {labelled}: give domain {target.name!r} "
            "a label_space, or its classes"
        )
    file = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', target.name)}-labelled.toml"
    text, count = draft_few_labels(target, _train_split(target), labelled, folder / file, space)
    return FewLabels(file, text, count)


def _train_split(target: Domain) -> str:
    return "train" if "train" in target.splits else target.splits[0]


def _told_of_source(source: Domain, target: Domain, tested: Domain, machine: str) -> dict[str, Any]:
    """Gather what the template needs for a recipe from a source: its split, and sizes in pixels."""
    _refuse_unequal_classes(source, target)
    _refuse_unequal_classes(source, tested)
    split = _labelled(source, ("train", *source.splits))
    if split is None:
        raise UserError(
            f"domain {source.name!r} has no labelled split; the source must have labels: give the "
            "labelled domain first"
        )
    width_px, crop_px = _sizes(((source, split), (target, _train_split(target))), machine)
    return {"source_split": split, "width_px": width_px, "crop_px": list(crop_px)}


def _told_of_pack(
    pack: Path, target: Domain, tested: Domain, folder: Path, machine: str
) -> dict[str, Any]:
    """Gather what the template needs for a recipe from a pack, whose width and network stay."""
    header = read_pack_header(pack)
    width_px = header.config.input_width_px
    for domain in (target, tested):
        if domain.label_space is not None and domain.label_space.names != header.classes.names:
            with_classes(domain, header.classes.names)  # Raises where it lacks some.
    _, crop_px = _sizes(((target, _train_split(target)),), machine, width_px)
    return {
        "pack": Path(os.path.relpath(os.path.realpath(pack), os.path.realpath(folder))).as_posix(),
        "packed_of": header.source,
        "network": f"{header.config.decoder} on {header.config.backbone}",
        "is_linear": is_linear(header.config),
        "machine": machine,
        "width_px": width_px,
        "crop_px": list(crop_px),
    }


def _scored_split(tested: Domain, *, is_target: bool) -> str | None:
    """Find the labelled split by which networks are scored; of the target, if it has one."""
    own = ("test", "val")  # Of the target, others may be what is adapted to.
    found = _labelled(tested, own if is_target else (*own, *tested.splits))
    if found is None and not is_target:
        raise UserError(
            f"domain {tested.name!r} has no labelled split; --test wants labelled images, which "
            "are scored"
        )
    return found


def _labelled(domain: Domain, splits: Iterable[str]) -> str | None:
    """Return the first of the splits that the domain has, with labels."""
    found = (each for each in splits if each in domain.splits and domain.is_labelled(each))
    return next(found, None)


def _refuse_unequal_classes(source: Domain, target: Domain) -> None:
    spaces = source.label_space, target.label_space
    if spaces[0] is None or spaces[1] is None or spaces[0].names == spaces[1].names:
        return
    listed = [", ".join(space.names) for space in spaces if space is not None]
    raise UserError(
        f"domain {source.name!r} has the classes {listed[0]}; {target.name!r} has {listed[1]}: "
        "give both the same classes in the same order"
    )


def _sizes(
    splits: Sequence[tuple[Domain, str]], machine: str, of_pack_px: int | None = None
) -> tuple[int | None, tuple[int, int]]:
    """Choose the width to bring images to, None for their own, and (height, width) of crops.

    The target's split comes last. `of_pack_px` is the width that a packed network wants, if any.
    """
    shapes = []
    for domain, split in splits:
        items = domain.items(split, with_labels=False)
        step = max(1, len(items) // _SIZES_LOOKED_AT)
        shapes.append([domain.read_image(item).shape[:2] for item in items[::step]])
    widest = max(int(np.median([width for _, width in each])) for each in shapes)
    height, width = np.median(shapes[-1], axis=0)
    width_px = of_pack_px or min(widest, _WIDTH_PX[machine])
    resized = (height * width_px / width, width_px)
    crop_px = tuple(
        max(32, min(most, round(_CROP_SHARE[machine] * side / 16) * 16))
        for side, most in zip(resized, _MOST_CROP_PX[machine], strict=True)
    )
    are_alike = all(shape == shapes[0][0] for each in shapes for shape in each)
    is_own_width = are_alike and widest <= _WIDTH_PX[machine]
    return None if is_own_width else width_px, (crop_px[0], crop_px[1])


def _named(domain: str, folder: Path) -> str:
    """Name a domain as a recipe in `folder` does: files relative to it."""
    if not (domain.endswith(".toml") or "/" in domain or os.sep in domain):
        return domain
    path = Path(os.path.relpath(os.path.realpath(domain), os.path.realpath(folder))).as_posix()
    return path if path.endswith(".toml") or "/" in path else f"./{path}"
