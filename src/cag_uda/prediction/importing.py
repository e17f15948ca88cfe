"""Make a model folder of a checkpoint of other people's released code."""

from pathlib import Path
from typing import NamedTuple, cast, get_args

from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.errors import UserError
from cag_uda.evaluation.protocols import find_protocol
from cag_uda.files import write_json
from cag_uda.models.config import Classes
from cag_uda.models.foreign import Family, Foreign, read_foreign
from cag_uda.runs.anchor_files import ANCHORS, read_released_anchors, save_anchors
from cag_uda.runs.scenario import classes_of

RECORD = "import.json"


class Imported(NamedTuple):
    """What became of a checkpoint."""

    foreign: Foreign
    """Which tensors were placed, and which were left out for what reason."""
    classes_with_anchors: int | None
    """None where no anchor file was given."""


def import_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    anchors: Path | None = None,
    family: str = "auto",
    domain: str | None = None,
) -> Imported:
    """Write a model folder of a checkpoint, with a record of where each tensor went.

    Args:
        checkpoint: a file of the released code of CAG-UDA, AdaptSegNet, ADVENT or DACS.
        out: the new model folder.
        anchors: an anchor file of the released CAG-UDA code.
        family: whose checkpoint it is, or "auto".
        domain: a domain that has the network's classes; None: those of Cityscapes, 19 or 16.

    Raises:
        UserError: if a file cannot be used, or the folder holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; choose another --out")
    foreign = read_foreign(checkpoint, _family(family))
    segmenter = foreign.build(_classes(foreign.num_classes, domain))
    shape = segmenter.num_classes, segmenter.feature_channels
    vectors = None if anchors is None else read_released_anchors(anchors, *shape)
    record = {"file": checkpoint.name, "family": foreign.family, "notes": list(foreign.notes)}
    write_json(out / RECORD, record | {"placed": foreign.placed, "left_out": foreign.left_out})
    if vectors is not None:
        save_anchors(out / ANCHORS, vectors)
    # Last: what makes the folder a model.
    segmenter.save_pretrained(out)
    return Imported(foreign, None if vectors is None else int((vectors.counts > 0).sum()))


def _family(name: str) -> Family | None:
    if name == "auto":
        return None
    if name not in get_args(Family):
        raise UserError(f"--family is auto, {', '.join(get_args(Family))}, got {name!r}")
    return cast(Family, name)


def _classes(num_classes: int, domain: str | None) -> Classes:
    """The classes of a domain, or the 19 or 16 of Cityscapes by their number."""
    if domain is not None:
        space = Domain.open(domain).label_space
        if space is None:
            raise UserError(
                f"domain {domain!r} has no label space, so it names no classes; give a labelled one"
            )
        return classes_of(space)
    cityscapes = LabelSpace.load("cityscapes-19")
    for protocol in ("cityscapes-19", "synthia-16"):
        learned = find_protocol(protocol).truth
        if len(learned) == num_classes:
            return classes_of(cityscapes.only(learned))
    raise UserError(
        f"the checkpoint tells {num_classes} classes apart; which they are is known for 19 and 16 "
        "alone: name a domain that has its classes, in its order, by --domain"
    )
