"""Several centroids a class, by k-means: how far a feature is from all that is known.

A class that looks different by day and by night has two places in feature space; a pixel in neither
is new, though it may lie near their mean, the class's anchor.

Source: several anchors of both domains that tell which target images to label are Ning et al.,
*Multi-Anchor Active Domain Adaptation for Semantic Segmentation* (MADA), ICCV 2021, there by
k-means over images; starting points far apart are Arthur & Vassilvitskii, *k-means++*, 2007.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from cag_uda.adaptation.tensors import at_least_float32, check_features, without_autocast
from cag_uda.errors import ShapeError

_ROUNDS = 10
_MOST_PIXELS = 5_000
"""Most pixels of a class from which its centroids are computed: more change them little."""


class Centroids(NamedTuple):
    """Places in feature space where pixels of a class were seen."""

    vectors: Tensor
    """(N, D) float, in units of `spread`."""
    spread: Tensor
    """(D,) what each channel is divided by: the within-class standard deviation."""

    @classmethod
    def of(
        cls, features: Tensor, label: Tensor, spread: Tensor, per_class: int = 4, seed: int = 0
    ) -> Self:
        """Find the centroids of each class that has a pixel.

        Args:
            features: (P, D) pixels, at least float32.
            label: (P,) int64 class of each; the values need not be consecutive.
            spread: (D,) above 0.
            per_class: most centroids of a class; one with few pixels has fewer.
            seed: of the starting points.

        Raises:
            ShapeError: if the shapes do not fit.
        """
        if features.ndim != 2 or label.shape != features.shape[:1]:
            raise ShapeError(
                "centroids want features (P, D) and labels (P,), got "
                f"{tuple(features.shape)} and {tuple(label.shape)}"
            )
        generator = torch.Generator().manual_seed(seed)
        found = []
        for value in label.unique().tolist():
            rows = features[label == value] / spread
            some = torch.randperm(len(rows), generator=generator)[:_MOST_PIXELS]
            found.append(_k_means(rows[some.to(rows.device)], per_class, generator))
        none = features.new_empty(0, features.shape[1])
        return cls(torch.cat(found) if found else none, spread)

    def joined(self, other: Self) -> Self:
        """Add the centroids of another domain, of the same spread."""
        return self._replace(vectors=torch.cat([self.vectors, other.vectors]))

    def distance(self, features: Tensor) -> Tensor:
        """Measure how far each pixel (B, h, w) is from the nearest centroid of any class.

        Of features (B, D, h, w), any floating type, also under autocast, it is the root mean square
        over the channels, in standard deviations within a class. Raises ShapeError for another D.
        """
        check_features(features, len(self.spread), "centroids")
        batch, channels, *grid = features.shape
        with without_autocast(features):
            rows = at_least_float32(features).movedim(1, -1).reshape(-1, channels) / self.spread
            nearest = _squares(rows, self.vectors).amin(dim=1)
        return (nearest / channels).sqrt().view(batch, *grid)


def _k_means(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Find up to `count` centroids of rows (P, D), P of at least 1."""
    first = int(torch.randint(len(rows), (), generator=generator))
    centroids = rows[first : first + 1]
    while len(centroids) < min(count, len(rows)):
        nearest = _squares(rows, centroids).amin(dim=1).cpu()
        if not bool(nearest.any()):
            break  # All pixels are alike.
        drawn = int(torch.multinomial(nearest, 1, generator=generator))
        centroids = torch.cat([centroids, rows[drawn : drawn + 1]])
    for _ in range(_ROUNDS):
        owner = _squares(rows, centroids).argmin(dim=1)
        sums = torch.zeros_like(centroids).index_add_(0, owner, rows)
        counts = torch.bincount(owner, minlength=len(centroids))[:, None]
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
    return centroids


def _squares(rows: Tensor, centroids: Tensor) -> Tensor:
    """Compute squared distances (P, N), at least 0."""
    # Around the centroids' mean: far from the origin a product would lose the differences.
    middle = centroids.mean(dim=0)
    rows, centroids = rows - middle, centroids - middle
    lengths = rows.square().sum(dim=1, keepdim=True) + centroids.square().sum(dim=1)
    return torch.addmm(lengths, rows, centroids.t(), alpha=-2).clamp_(min=0)
