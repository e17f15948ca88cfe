"""Separation of classes in a network's features, and the shift between two domains' features.

Needs labels of both domains, so it is for the report alone: nothing in training may read it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cag_uda.errors import ShapeError
from cag_uda.evaluation.scores import or_none
from cag_uda.runs.records.stage import DomainSeparation


class ClassScatter:
    """Sums of features by class, from which means and scatter follow."""

    def __init__(self, num_classes: int, feature_channels: int) -> None:
        self.counts = torch.zeros(num_classes, dtype=torch.float64)
        """(K,) pixels."""
        self.sums = torch.zeros(num_classes, feature_channels, dtype=torch.float64)
        """(K, D) summed features."""
        self.squares = torch.zeros(num_classes, dtype=torch.float64)
        """(K,) summed squared lengths of features."""

    def update(self, features: Tensor, label: Tensor) -> None:
        """Count the labelled pixels of one batch in.

        Features are (B, D, h, w), labels integer train ids (B, h, w) on their grid, else ShapeError
        is raised; ids outside 0 … K-1 are left out.
        """
        if label.shape != (len(features), *features.shape[2:]):
            raise ShapeError(
                f"label {tuple(label.shape)} is not on the grid of features {tuple(features.shape)}"
            )
        flat, ids = features.movedim(1, -1).flatten(0, 2), label.flatten().long()
        counted = (ids >= 0) & (ids < len(self.counts))
        rows, ids = flat[counted].double().cpu(), ids[counted].cpu()
        self.counts.index_add_(0, ids, torch.ones_like(ids, dtype=torch.float64))
        self.sums.index_add_(0, ids, rows)
        self.squares.index_add_(0, ids, rows.square().sum(dim=1))

    @property
    def means(self) -> Tensor:
        """(K, D) centroids; NaN for a class without pixels."""
        return self.sums / self.counts[:, None]

    @property
    def variances(self) -> Tensor:
        """(K,) mean squared distance of a class's features to its centroid; NaN without pixels."""
        return (self.squares / self.counts - self.means.square().sum(dim=1)).clamp(min=0)


def separation(scatter: ClassScatter) -> DomainSeparation:
    """Measure how far apart the classes of one domain lie: more is better, without a unit.

    Both ratios are None where fewer than two classes have pixels.

    Source: Fisher, *The use of multiple measurements in taxonomic problems*, 1936; the ratio of
        traces.
    """
    seen = scatter.counts > 0
    if seen.sum() < 2:
        return DomainSeparation(by_pixels=None, balanced=None)
    means, variances = scatter.means[seen], scatter.variances[seen]
    ratios = []
    for weight in (scatter.counts[seen], torch.ones_like(variances)):
        share = weight / weight.sum()
        centre = share @ means
        between = share @ (means - centre).square().sum(dim=1)
        ratios.append(or_none(between / (share @ variances)))
    return DomainSeparation(by_pixels=ratios[0], balanced=ratios[1])


def centroid_shift(source: ClassScatter, target: ClassScatter) -> NDArray[np.float64]:
    """Measure how far each class's centroid lies in the target from where it lies in the source.

    Distances (K,) are over the mean distance between two classes' centroids in the source: 1 is as
    far as another class. NaN for a class that either domain lacks.
    """
    means = source.means
    distances = torch.cdist(means, means)
    apart = distances[~torch.eye(len(means), dtype=torch.bool)]
    scale = apart[apart.isfinite()].mean()
    return np.asarray((means - target.means).norm(dim=1) / scale, dtype=np.float64)
