"""`cag-uda import`: a checkpoint of somebody else's code becomes a model folder."""

from pathlib import Path
from typing import cast, get_args

from rich.console import Console

from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.errors import UserError
from cag_uda.evaluation.protocols import find_protocol
from cag_uda.files import write_json
from cag_uda.models.config import Classes
from cag_uda.models.foreign import Family, Foreign, read_foreign
from cag_uda.runs.anchor_files import ANCHORS, read_released_anchors, save_anchors
from cag_uda.runs.scenario import classes_of

_RECORD = "import.json"
_SHOWN = 8
"""Names that the console shows of those left out for one reason; the record has them all."""


def import_checkpoint(
    console: Console,
    checkpoint: Path,
    out: Path,
    *,
    anchors: Path | None,
    family: str,
    domain: str | None,
) -> None:
    """Write a model folder of a checkpoint, with a record of where each tensor went.

    Args:
        console: where to say what was placed and what was left out.
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
    write_json(out / _RECORD, record | {"placed": foreign.placed, "left_out": foreign.left_out})
    if vectors is not None:
        save_anchors(out / ANCHORS, vectors)
    # Last: what makes the folder a model.
    segmenter.save_pretrained(out)
    _describe(console, foreign, out)
    if vectors is not None:
        seen = int((vectors.counts > 0).sum())
        console.print(f"anchors of {seen} of {shape[0]} classes in {out / ANCHORS}", soft_wrap=True)


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


def _describe(console: Console, foreign: Foreign, out: Path) -> None:
    """What was placed, and by reason what was not."""
    head = f"{foreign.family}: {foreign.config.decoder} on {foreign.config.backbone}"
    console.print(f"{head}, {foreign.num_classes} classes", highlight=False)
    console.print(f"placed: {len(foreign.placed)} tensors", highlight=False)
    reasons: dict[str, list[str]] = {}
    for name, why in foreign.left_out.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        console.print(f"left out: {len(names)} ({why}): {shown}", highlight=False, soft_wrap=True)
    for note in foreign.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    console.print(f"network: {out}; each name in {out / _RECORD}", highlight=False, soft_wrap=True)
