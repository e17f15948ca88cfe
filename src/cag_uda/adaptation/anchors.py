"""Category anchors: the mean feature of each class, and every pixel's distance to each of them."""

from collections.abc import Callable
from typing import Literal, Self, TypeAlias, get_args

import torch
from torch import Tensor, nn

from cag_uda.adaptation.tensors import (
    at_least_float32,
    check_features,
    check_grid,
    one_hot,
    without_autocast,
)
from cag_uda.errors import ShapeError, UserError

Average: TypeAlias = Literal["pixel", "image"]
"""The mean that an anchor is: over all pixels of the class, or over its mean features by image."""


class CategoryAnchors(nn.Module):
    """Mean feature per class over everything that `update` has seen.

    Sums are kept in float64: the order of the updates does not show in float32 anchors. The
    released code has `average="image"`, `min_pixels=10` and `max_count=3000`, with a label that is
    IGNORE wherever the prediction is wrong.

    Args:
        num_classes: K.
        feature_channels: D.
        average: "pixel", the paper's mean over all source pixels of a class, or "image", the mean
            over images of the mean over each image's pixels.
        min_pixels: least pixels of a class in one image; with fewer, that image does not count
            for that class.
        max_count: most that a class counts; what comes after enters a running mean that forgets, of
            weight 1 / (max_count + 1) for one image or pixel. The anchors then depend on the order
            of the images; processes that share a sweep cap their own parts. None: the mean of all.

    Raises:
        UserError: for an unknown `average` or sizes below 1.

    Source:
        Zhang et al., NeurIPS 2019, equation for the category anchors; released code cac.py.
    """

    sums: Tensor
    """(K, D) float64: summed features, or summed per-image means."""
    counts: Tensor
    """(K,) int64: pixels, or images with `average="image"`; 0 for a class never seen."""

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        average: Average = "pixel",
        min_pixels: int = 1,
        max_count: int | None = None,
    ) -> None:
        super().__init__()
        if average not in get_args(Average):
            raise UserError(f"anchors average over 'pixel' or 'image', got {average!r}")
        least_count = 1 if max_count is None else max_count
        if min(num_classes, feature_channels, min_pixels, least_count) < 1:
            raise UserError(
                "anchors want at least one class, one channel, one pixel and one to count, got "
                f"num_classes={num_classes}, feature_channels={feature_channels}, "
                f"min_pixels={min_pixels}, max_count={max_count}"
            )
        self.num_classes = num_classes
        self.feature_channels = feature_channels
        self.average = average
        self.min_pixels = min_pixels
        self.max_count = max_count
        self.register_buffer(
            "sums", torch.zeros(num_classes, feature_channels, dtype=torch.float64)
        )
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    @classmethod
    def from_vectors(cls, vectors: Tensor, counts: Tensor | None = None) -> Self:
        """Make anchors of known vectors, for example of a file.

        Args:
            vectors: (K, D) one anchor per class; a row that is not finite is a class never seen.
                The anchors are on their device.
            counts: (K,) how many pixels (or images) each vector is the mean of, for a later
                `update`; 0 is a class never seen. None: 1 each.

        Raises:
            ShapeError: if the shapes do not fit.
        """
        if vectors.ndim != 2 or (counts is not None and counts.shape != vectors.shape[:1]):
            got = None if counts is None else tuple(counts.shape)
            raise ShapeError(
                f"anchors want vectors (K, D) and counts (K,), got {tuple(vectors.shape)} and {got}"
            )
        anchors = cls(*vectors.shape).to(vectors.device)
        finite = vectors.isfinite().all(dim=1)
        given = torch.ones_like(finite) if counts is None else counts.to(vectors.device)
        anchors.counts = torch.where(finite, given.long(), 0)
        known = torch.where(finite[:, None], vectors, 0.0).double()
        anchors.sums = known * anchors.counts[:, None]
        return anchors

    @property
    def vectors(self) -> Tensor:
        """(K, D) float32 anchors; NaN for a class never seen."""
        return (self.sums / self.counts[:, None]).float()

    def reset(self) -> None:
        """Forget everything seen."""
        self.sums.zero_()
        self.counts.zero_()

    @torch.no_grad()
    def update(self, features: Tensor, label: Tensor) -> None:
        """Count the labelled pixels of one batch in.

        Args:
            features: (B, D, h, w), any floating type, finite: one NaN spoils the anchors of all
                classes, also at an unlabelled pixel.
            label: (B, h, w) int64 train ids at feature resolution; ids outside 0 … K-1, IGNORE
                among them, are left out.

        Raises:
            ShapeError: if the two do not lie on one grid, or the channels are not D.
        """
        check_features(features, self.feature_channels, "anchors")
        check_grid(label, features)
        flat = features.flatten(2)
        # Sums of float32 lose what an offset of the features takes from the mantissa, so each
        # image is summed around one of its own pixels. This is also where bfloat16 becomes
        # float32, at no extra pass.
        shift = at_least_float32(flat[:, :, :1])
        rows = one_hot(label, self.num_classes, shift.dtype)
        with without_autocast(features):
            around = torch.bmm(rows, (flat - shift).transpose(1, 2)).double()  # (B, K, D)
        pixels = rows.sum(dim=2, dtype=torch.int64)  # (B, K)
        pixels = torch.where(pixels >= self.min_pixels, pixels, 0)
        back = shift.double().transpose(1, 2)  # (B, 1, D)
        if self.average == "pixel":
            totals = around + pixels[:, :, None] * back
            totals = torch.where(pixels[:, :, None] > 0, totals, 0.0)
            counted = pixels
        else:
            means = around / pixels[:, :, None] + back
            totals = torch.where(pixels[:, :, None] > 0, means, 0.0)
            counted = (pixels > 0).long()
        if self.max_count is None:
            self._count_in(totals.sum(dim=0), counted.sum(dim=0))
            return
        for total, count in zip(totals, counted, strict=True):
            self._count_in(total, count)
            # The mean stays what it is with the latest in it, and stands for no more than the most.
            self.sums *= (self.max_count / self.counts.double()).clamp(max=1.0)[:, None]
            self.counts.clamp_(max=self.max_count)

    @torch.no_grad()
    def reduce(self, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """Sum over processes that each saw a part of the images; once, at the end of a sweep."""
        self.sums.copy_(all_reduce(self.sums))
        self.counts.copy_(all_reduce(self.counts))

    @torch.no_grad()
    def distances(self, features: Tensor) -> Tensor:
        """Measure how far each pixel's feature is from each anchor.

        One matrix product: ‖f−A‖² = ‖f'‖² − 2 f'·A' + ‖A'‖² with f', A' around the mean anchor.
        Without that centring, features far from the origin lose the difference to rounding.
        No gradient flows; `losses.anchor_distance` is the one to train on.

        Args:
            features: (B, D, h, w), any floating type; also under autocast.

        Returns:
            (B, K, h, w) float32 (float64 for float64 features), Euclidean, in feature units; +inf
            for a class never seen, NaN where a feature is not finite. The relative error is at most
            1e-3, unless a feature nearly coincides with an anchor.

        Raises:
            ShapeError: if the features are not (B, D, h, w).
        """
        check_features(features, self.feature_channels, "anchors")
        dtype = torch.promote_types(features.dtype, torch.float32)
        seen = self.counts > 0
        exact = torch.where(seen[:, None], self.sums / self.counts[:, None], 0.0)
        # The centre is rounded first and then used on both sides, so that its rounding cancels.
        centre = (exact.sum(dim=0) / seen.sum().clamp(min=1)).to(dtype)
        around = torch.where(seen[:, None], exact - centre, 0.0)
        squares = torch.where(seen, around.square().sum(dim=1), torch.inf).to(dtype)[:, None]
        batch = features.shape[0]
        centred = features.flatten(2) - centre[:, None]
        with without_autocast(features):
            products = torch.baddbmm(
                squares, around.mul_(-2).to(dtype).expand(batch, -1, -1), centred
            )
        products += centred.square_().sum(dim=1, keepdim=True)
        return products.clamp_(min=0).sqrt_().view(batch, -1, *features.shape[2:])

    def extra_repr(self) -> str:
        """Describe the sizes and the kind of mean."""
        return (
            f"num_classes={self.num_classes}, feature_channels={self.feature_channels}, "
            f"average={self.average!r}, min_pixels={self.min_pixels}, max_count={self.max_count}"
        )

    def _count_in(self, total: Tensor, count: Tensor) -> None:
        """Add sums (K, D) of `count` (K,) pixels or images."""
        self.sums += total
        self.counts += count
