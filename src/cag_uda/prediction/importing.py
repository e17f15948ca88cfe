"""Make a model folder of a checkpoint of other people's code."""

from pathlib import Path
from typing import NamedTuple, cast

from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.errors import DataError, UserError
from cag_uda.evaluation.protocols import find_protocol
from cag_uda.files import write_json
from cag_uda.models.config import Classes
from cag_uda.models.foreign import Family, Foreign, read_foreign
from cag_uda.runs.anchor_files import ANCHORS, read_released_anchors, save_anchors
from cag_uda.runs.scenario import classes_of

RECORD = "import.json"


class Imported(NamedTuple):
    """Result of importing a checkpoint."""

    foreign: Foreign
    classes_with_anchors: int | None
    """Number of classes that have an anchor; None where no anchor file was given."""


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
        checkpoint: a file of the released code of CAG-UDA, AdaptSegNet, ADVENT, DACS, DAFormer or
            SegFormer, or a SegFormer of mmsegmentation or, as file or folder, of transformers.
        out: the new model folder.
        anchors: an anchor file of the released CAG-UDA code.
        family: whose checkpoint it is, or "auto".
        domain: a domain that has the network's classes; None: those that the checkpoint names, or
            those of Cityscapes, 19 or 16.

    Raises:
        UserError: if a file cannot be used, or the folder holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; choose another --out")
    foreign = read_foreign(checkpoint, None if family == "auto" else cast(Family, family))
    segmenter = foreign.build(_classes(foreign, domain))
    shape = segmenter.num_classes, segmenter.feature_channels
    vectors = None if anchors is None else read_released_anchors(anchors, *shape)
    record = {"file": checkpoint.name, "family": foreign.family, "notes": list(foreign.notes)}
    write_json(out / RECORD, record | {"placed": foreign.placed, "left_out": foreign.left_out})
    if vectors is not None:
        save_anchors(out / ANCHORS, vectors)
    # Written last: only then is the folder a model.
    segmenter.save_pretrained(out)
    return Imported(foreign, None if vectors is None else int((vectors.counts > 0).sum()))


def _classes(foreign: Foreign, domain: str | None) -> Classes:
    """Return the classes of a domain, or those of the checkpoint, or the 19 or 16 of Cityscapes."""
    if domain is not None:
        space = Domain.open(domain).label_space
        if space is None:
            raise UserError(
                f"domain {domain!r} has no label space, so it names no classes; give a labelled one"
            )
        return classes_of(space)
    named = tuple(each.name for each in foreign.classes)
    named = named if len(named) == foreign.num_classes else ()
    cityscapes = LabelSpace.load("cityscapes-19")
    for protocol in ("cityscapes-19", "synthia-16"):
        learned = find_protocol(protocol).truth
        space = cityscapes.only(learned)
        if len(learned) == foreign.num_classes and named in ((), space.names):
            return classes_of(space)
    if named:
        return classes_of(_label_space(foreign))
    raise UserError(
        f"the checkpoint tells {foreign.num_classes} classes apart and does not name them; which "
        "they are is known for 19 and 16 alone: name a domain that has its classes, in its order, "
        "by --domain"
    )


def _label_space(foreign: Foreign) -> LabelSpace:
    classes = [
        {"name": each.name} | ({} if each.color is None else {"color": each.color})
        for each in foreign.classes
    ]
    try:
        return LabelSpace.from_dict({"name": "checkpoint", "classes": classes})
    except DataError as error:
        raise UserError(
            f"the classes that the checkpoint names cannot be taken ({error.problems[0]}); name a "
            "domain that has its classes, in its order, by --domain"
        ) from error
