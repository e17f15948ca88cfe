"""Adaptation as tensor maths: anchors, pseudo-labels, margins, losses.

Needs torch alone, so that it works inside anybody's training loop. Knows no network, data set or
loop.
"""

from cag_uda.adaptation.anchors import Average, CategoryAnchors
from cag_uda.adaptation.losses import (
    adversarial,
    anchor_distance,
    centroid_distance,
    class_balance,
    cross_entropy,
    entropy,
    pixel_mean,
)
from cag_uda.adaptation.margins import (
    AbsoluteMargin,
    Margin,
    MarginStatistics,
    RelativeMargin,
    two_nearest,
)
from cag_uda.adaptation.pseudo_labels import by_anchor, by_confidence, intersection, union
from cag_uda.adaptation.tensors import downsample

__all__ = [
    "AbsoluteMargin",
    "Average",
    "CategoryAnchors",
    "Margin",
    "MarginStatistics",
    "RelativeMargin",
    "adversarial",
    "anchor_distance",
    "by_anchor",
    "by_confidence",
    "centroid_distance",
    "class_balance",
    "cross_entropy",
    "downsample",
    "entropy",
    "intersection",
    "pixel_mean",
    "two_nearest",
    "union",
]
