"""The few types that every part of the package speaks in.

Letters used in every shape of the package:
    B batch, K classes, D feature channels;
    H W image pixels, h w cells of the feature grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = 255
"""Train id of a pixel without a label; never a class."""

DomainName: TypeAlias = Literal["source", "target"]
"""Domain that an image is from, which a segmenter with statistics per domain needs to know."""

CriterionName: TypeAlias = Literal[
    "entropy",
    "infomax",
    "expected-iou",
    "probe-iou",
    "snd",
    "snd-outputs",
    "agreement",
    "active-share",
    "source-miou",
]
"""Criteria that tell, without a label of the target, how good a network is there."""

OF_SOURCE: frozenset[CriterionName] = frozenset({"agreement", "active-share", "source-miou"})
"""Criteria that look at labelled images of the source too."""


class Config(BaseModel):
    """Base of every table of settings: frozen, no unknown keys, docstrings in its JSON schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Labelled(NamedTuple):
    """Images with a class for every pixel: the source, and what little of the target has labels."""

    image: Tensor
    """(B, 3, H, W) float32 in [0, 1], RGB."""
    label: Tensor
    """(B, H, W) int64 train ids, IGNORE where unlabelled."""


class Unlabelled(NamedTuple):
    """Images alone: the target. There is no label to leak."""

    image: Tensor
    """(B, 3, H, W) float32 in [0, 1], RGB, with every augmentation: what the student sees."""
    plain: Tensor
    """(B, 3, H, W) float32 in [0, 1], RGB, the same crop without photometric augmentation: what a
    labeller sees."""


class Batch(NamedTuple):
    """Images and labels of one training step."""

    source: Labelled
    """Images of the source and their labels; B = 0 where the method does not use the source."""
    target: Unlabelled
    labelled: Labelled | None = None
    """Images of the target whose labels the recipe lets into training by `[target] labelled`; None
    without that, which is the only way by which a label of the target gets into a batch."""


class Prediction(NamedTuple):
    """One pass of a segmenter."""

    features: Tensor
    """(B, D, h, w), the input of the last classifier layer."""
    logits: Tensor
    """(B, K, h, w), not upsampled."""


class PseudoLabels(NamedTuple):
    """Labels that a network gave to unlabelled pixels."""

    label: Tensor
    """(B, h, w) int64 train ids, IGNORE where not assigned."""
    weight: Tensor
    """(B, h, w) float32 in [0, 1], 0 where not assigned."""


Losses: TypeAlias = "dict[str, Tensor]"
"""Weighted scalars of one graph; keys are log keys, for example "target/anchor"."""
