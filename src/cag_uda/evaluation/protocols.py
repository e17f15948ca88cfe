"""Named ways in which the literature turns a confusion matrix into one number.

All protocols name classes as Cityscapes does, so that they hold for its label space of 19 classes
and for any smaller one that has the classes they need.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.errors import DataError, UserError

_CITYSCAPES = LabelSpace.load("cityscapes-19").names
_ABSENT_FROM_SYNTHIA = ("terrain", "truck", "train")
_HARD_IN_SYNTHIA = ("wall", "fence", "pole")
_SYNTHIA_16 = tuple(name for name in _CITYSCAPES if name not in _ABSENT_FROM_SYNTHIA)
_SYNTHIA_13 = tuple(name for name in _SYNTHIA_16 if name not in _HARD_IN_SYNTHIA)


@dataclass(frozen=True)
class Protocol:
    """Rules of an evaluation: the pixels that count, and the classes that the mean is over."""

    name: str
    truth: tuple[str, ...]
    """Classes whose pixels are counted; pixels of any other class are as if unlabelled. A
    prediction of a class that is not among them misses the pixel's true class."""
    averaged: tuple[str, ...]
    """Classes whose IoUs are reported and averaged; all of them among `truth`."""
    forgiven: tuple[str, ...] = ()
    """Classes of which a prediction removes the pixel from the count instead of missing it."""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # The official Cityscapes score.
        Protocol("cityscapes-19", truth=_CITYSCAPES, averaged=_CITYSCAPES),
        # Pixels of terrain, truck and train are unlabelled, as in ground truth of 16 classes.
        # Figures that divide a sum of IoUs of a 19-class matrix by 16 instead count those pixels
        # as false alarms of the other classes, and are a little lower.
        Protocol("synthia-16", truth=_SYNTHIA_16, averaged=_SYNTHIA_16),
        # ADVENT (Vu et al., CVPR 2019): 13 of the IoUs of synthia-16; pixels of wall, fence and
        # pole still count as false alarms and misses of the others.
        Protocol("synthia-13", truth=_SYNTHIA_16, averaged=_SYNTHIA_13),
        # CAG-UDA: the rows and the columns of wall, fence and pole are struck from the matrix, so
        # that the denominators of the other 13 shrink and each IoU is at least that of synthia-13
        # (the authors' explanation in issue 10 of their repository).
        Protocol(
            "synthia-13-ignored",
            truth=_SYNTHIA_13,
            averaged=_SYNTHIA_13,
            forgiven=_HARD_IN_SYNTHIA,
        ),
    )
}


class ProtocolCounts(NamedTuple):
    """A confusion matrix as a protocol sees it."""

    counts: npt.NDArray[np.int64]
    """(…, T, T + 1): the T counted classes, and the column of predictions of no counted class."""
    averaged: npt.NDArray[np.intp]
    """Rows of the classes that are reported and averaged."""
    names: tuple[str, ...]


def find_protocol(name: str) -> Protocol:
    """Look a protocol up; raises UserError, with those that there are, for an unknown name."""
    if name not in PROTOCOLS:
        raise UserError(f"no protocol {name!r}; choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def apply_protocol(
    counts: npt.NDArray[Any], names: Sequence[str], protocol: str | None
) -> ProtocolCounts:
    """Reduce confusion matrices to what a protocol counts.

    Args:
        counts: (…, K, K) or (…, K, K + 1), true classes × predicted classes (and "no class").
        names: the K class names of the label space.
        protocol: a name among `PROTOCOLS`; None counts every class and averages over all.

    Raises:
        UserError: for an unknown protocol.
        DataError: if the label space lacks a class that the protocol needs.
    """
    if protocol is None:
        return ProtocolCounts(counts, np.arange(len(names)), tuple(names))
    wanted = find_protocol(protocol)
    missing = [name for name in wanted.truth if name not in names]
    if missing:
        raise DataError(
            f"protocol {protocol} scores classes that the label space has not: "
            f"{', '.join(missing)}; it has {', '.join(names)}: leave the protocol out, or use a "
            "label space with these class names"
        )
    kept = np.array([index for index, name in enumerate(names) if name in wanted.truth])
    other = np.array(
        [index for index, name in enumerate(names) if name not in wanted.truth + wanted.forgiven]
        + list(range(len(names), counts.shape[-1])),
        dtype=np.intp,
    )
    rows = counts[..., kept, :]
    missed = rows[..., other].sum(axis=-1, keepdims=True)
    scored = tuple(names[index] for index in kept)
    averaged = np.array([row for row, name in enumerate(scored) if name in wanted.averaged])
    return ProtocolCounts(
        np.concatenate((rows[..., kept], missed), axis=-1),
        averaged,
        tuple(scored[row] for row in averaged),
    )
