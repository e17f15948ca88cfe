"""Category anchors adapted to the target by expectation-maximisation (EM), and p(c | f) by them.

The features f (D,) of class c are taken as a Gaussian around its anchor A_c. Its variance σ²_d per
channel is the source's within-class variance, the same for all classes; a temperature T, fitted to
labelled source pixels, makes up for channels that are correlated:

    log p(f | c) = −Σ_d (f_d − A_cd)² / (2 T σ²_d) + const.

What differs between the classes is linear in f: anchors are a linear classifier, as the network's
own. EM moves the anchors from the source's to the target's:

    E-step   p(c | f) ∝ π_c · p(f | c) for N pixels of the target
    M-step   A_c ← A_c of the source + n_c / (n_c + κN) · (m_c − r_c)
             π   ← half the source's class shares, half the mean of p(c | f)

m_c is the mean of the n_c target pixels with p(c | f) > 0.9, and r_c that of the source pixels that
pass the same test by the source's anchors. Sure pixels lie farther from the other classes than all
pixels of a class do; the difference of two such means is free of that, so that nothing moves where
the domains are one.

Where a few pixels of the target have labels, a labelled pixel of class c counts in the M-step as w
pixels whose class is only inferred. No test has chosen it, so that A_c of the source takes the
place of r_c. Class shares are left to EM: whoever chose the images to label may have looked for
rare classes.

    A_c ← A_c of the source
          + (n_c (m_c − r_c) + w l_c (m′_c − A_c of the source)) / (n_c + w l_c + κN)

The network's classifier knows the source's class shares already: only p(f | c) is multiplied with
it (`pool`).

Sources: Gaussians with one variance are linear discriminant analysis (Fisher, 1936); EM for class
shares is Saerens, Latinne, Decaestecker, *Adjusting the Outputs of a Classifier to New a Priori
Probabilities*, 2002; centroids of the target that start from a source classifier are Liang, Hu,
Feng, *SHOT*, ICML 2020, and Iwasawa & Matsuo, *T3A*, NeurIPS 2021; the anchors are Zhang et al.,
*CAG-UDA*, NeurIPS 2019.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.adaptation.tensors import (
    at_least_float32,
    check_features,
    check_grid,
    one_hot,
    without_autocast,
)
from cag_uda.errors import ShapeError, UserError
from cag_uda.types import IGNORE

_NEVER = -1e4
"""Log-likelihood of a class that the source never showed: finite, so that it can be resized."""
SAMPLED = 50_000
"""Most labelled source pixels that a sweep keeps."""
_TEMPERATURES = torch.logspace(0, 3, 61)
"""T is looked for among these: independent channels would have 1, equal ones D."""

AllReduce = Callable[[Tensor], Tensor]
"""Gives the sum of a tensor over all processes."""


class FeatureSample:
    """A bounded sample of the pixels of a sweep, every one of them with equal chance.

    Args:
        capacity: most pixels that are kept; at least half as many are, once that many came.
        seed: decides which ones.
    """

    def __init__(self, capacity: int = 200_000, seed: int = 0) -> None:
        self.capacity = capacity
        self._generator = torch.Generator().manual_seed(seed)
        self._stride, self._skip = 1, 0
        self._rows: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, features: Tensor, label: Tensor | None = None) -> None:
        """Consider the pixels of one batch.

        Args:
            features: (B, D, h, w), any floating type; kept in it.
            label: (B, h, w) int64 train ids: pixels of IGNORE are left out. None takes all pixels.

        Raises:
            ShapeError: if the two are not on one grid.
        """
        rows = features.movedim(1, -1).flatten(0, -2)
        classes = torch.full((len(rows),), IGNORE, device=rows.device)
        if label is not None:
            check_grid(label, features)
            known = (label != IGNORE).flatten()
            rows, classes = rows[known], label.flatten()[known]
        order = torch.randperm(len(rows), generator=self._generator)
        taken = order[self._skip :: self._stride].to(rows.device)
        self._skip = (self._skip - len(rows)) % self._stride
        self._rows.append((rows[taken], classes[taken]))
        while sum(len(some) for some, _ in self._rows) > self.capacity:
            self._halve()

    def rows(self, channels: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Give the kept pixels: features (N, D), on the device of `like`, and train ids (N,).

        The features are at least float32; `channels` is D, for a sample that has seen nothing.
        """
        if not self._rows:
            return like.new_empty(0, channels), torch.empty(0, dtype=torch.int64).to(like.device)
        features, classes = zip(*self._rows, strict=True)
        return at_least_float32(torch.cat(features)).to(like.device), torch.cat(classes)

    def _halve(self) -> None:
        """Keep every second pixel, and half as many of those that are still to come."""
        features, classes = (torch.cat(each) for each in zip(*self._rows, strict=True))
        self._skip += self._stride * (len(features) % 2)
        self._stride *= 2
        self._rows = [(features[::2], classes[::2])]


class SourceFeatures:
    """Collect anchors, within-class variance and a sample over a sweep of the labelled source.

    Args:
        num_classes: K.
        feature_channels: D.
        device: where the sums are kept.
        sample: takes the pixels; None: a new one of SAMPLED.
    """

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        device: torch.device,
        sample: FeatureSample | None = None,
    ) -> None:
        self.anchors = CategoryAnchors(num_classes, feature_channels).to(device)
        self.sample = FeatureSample(SAMPLED) if sample is None else sample
        self._squares = torch.zeros(feature_channels, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, features: Tensor, label: Tensor) -> None:
        """Count the labelled pixels of one batch in.

        Args:
            features: (B, D, h, w), any floating type, finite.
            label: (B, h, w) int64 train ids on their grid, IGNORE where unlabelled.

        Raises:
            ShapeError: if the two do not lie on one grid, or the channels are not D.
        """
        # Ids that are no class are left out of all three, as anchors leave them out.
        is_class = (label >= 0) & (label < self.anchors.num_classes)
        label = torch.where(is_class, label, IGNORE)
        self.anchors.update(features, label)
        self.sample.update(features, label)
        # Around one of the image's own pixels, as `CategoryAnchors` sums: an offset of the features
        # would take the variance from float32's mantissa.
        flat = at_least_float32(features).flatten(2)
        shift = flat[:, :, :1]
        known = (label != IGNORE).flatten(1)[:, None]
        around = torch.where(known, flat - shift, 0.0)
        offset, pixels = shift[:, :, 0].double(), known.sum(dim=2).double()
        squares = around.square().sum(dim=2).double()
        squares += 2 * offset * around.sum(dim=2).double() + pixels * offset.square()
        self._squares += squares.sum(dim=0)

    @torch.no_grad()
    def reduce(self, all_reduce: AllReduce) -> None:
        """Sum over processes that each saw a part of the images; once, at the end of a sweep."""
        self.anchors.reduce(all_reduce)
        self._squares = all_reduce(self._squares)

    def variance(self) -> Tensor:
        """Compute the within-class variance (D,) of each channel, float32, above 0.

        Raises:
            UserError: if no pixel was labelled.
        """
        counts = self.anchors.counts.double()
        if not bool(counts.any()):
            raise UserError("the source has no labelled pixel; see `cag-uda check`")
        means = torch.where(counts[:, None] > 0, self.anchors.sums / counts[:, None], 0.0)
        between = (counts[:, None] * means.square()).sum(dim=0)
        variance = (self._squares - between) / counts.sum()
        # A channel that is constant within classes would rule alone; the mean bounds it from below.
        return variance.clamp(min=1e-4 * float(variance.mean()) + 1e-12).float()


class SourceFigures(NamedTuple):
    """All that adapted anchors know of the source: figures of its classes, and no image."""

    vectors: Tensor
    """(K, D) float32 anchors; 0 for a class that the source never showed."""
    counts: Tensor
    """(K,) int64 labelled pixels of each class, on the feature grid."""
    reference: Tensor
    """(K, D) float32 r, means of the source's sure pixels; the anchor where there are none."""
    variance: Tensor
    """(D,) float32 within-class variance."""
    temperature: Tensor
    """() float32 T."""


class AdaptedAnchors(nn.Module):
    """Gaussians around category anchors: of the source after `fit`, of the target after `adapt`.

    Args:
        num_classes: K.
        feature_channels: D.
    """

    source: Tensor
    """(K, D) float32 anchors of the source; 0 for a class that it never showed."""
    vectors: Tensor
    """(K, D) float32 anchors in force."""
    reference: Tensor
    """(K, D) float32 r, means of the source's sure pixels; the anchor where there are none."""
    variance: Tensor
    """(D,) within-class variance of the source."""
    temperature: Tensor
    """() T."""
    source_share: Tensor
    """(K,) class shares of the source's labelled pixels."""
    share: Tensor
    """(K,) π, the class shares in force."""

    def __init__(self, num_classes: int, feature_channels: int) -> None:
        super().__init__()
        self.register_buffer("source", torch.zeros(num_classes, feature_channels))
        self.register_buffer("vectors", torch.zeros(num_classes, feature_channels))
        self.register_buffer("reference", torch.zeros(num_classes, feature_channels))
        self.register_buffer("variance", torch.ones(feature_channels))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("source_share", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("share", torch.full((num_classes,), 1 / num_classes))

    @torch.no_grad()
    def fit(
        self, source: SourceFeatures, all_reduce: AllReduce, *, confidence: float = 0.9
    ) -> None:
        """Take the source's anchors, variance and shares; fit T to its labelled pixels.

        T minimises −log p(y | f), the mean over the sampled pixels, with
        p(c | f) ∝ share_c · p(f | c).

        Args:
            source: of a whole sweep, already reduced over processes.
            all_reduce: gives the sum of a tensor over all processes.
            confidence: p(c | f) that a pixel must exceed to be in the reference r, as in `adapt`.

        Raises:
            UserError: if no source pixel was labelled.
        """
        vectors = source.anchors.vectors.nan_to_num(nan=0.0)
        one = torch.ones_like(self.temperature)
        counts = source.anchors.counts
        self.begin(SourceFigures(vectors, counts, vectors, source.variance(), one))
        features, label = source.sample.rows(len(self.variance), self.source)
        scores, shares = self._scores(features), self.share.log()
        losses = torch.stack(
            [
                nn.functional.cross_entropy(scores / float(t) + shares, label, reduction="sum")
                for t in _TEMPERATURES
            ]
        )
        best = int(all_reduce(losses.double()).argmin())
        self.temperature.fill_(float(_TEMPERATURES[best]))
        sums, counts, _ = self._sure(features, confidence, all_reduce)
        mean = sums / counts[:, None]
        self.reference.copy_(torch.where(counts[:, None] > 0, mean, self.source))

    @torch.no_grad()
    def begin(self, figures: SourceFigures) -> None:
        """Take the figures that `fit` found of a source whose images are not there.

        They are of the same network's features; ShapeError is raised for other classes or channels.
        """
        if figures.vectors.shape != self.source.shape:
            raise ShapeError(
                f"figures of anchors {tuple(figures.vectors.shape)} do not fit anchors "
                f"{tuple(self.source.shape)}"
            )
        self.source.copy_(figures.vectors)
        self.vectors.copy_(self.source)
        self.reference.copy_(figures.reference)
        self.variance.copy_(figures.variance)
        self.temperature.copy_(figures.temperature)
        counts = figures.counts.double()
        self.source_share.copy_(counts / counts.sum())
        self.share.copy_(self.source_share)

    def figures(self, counts: Tensor) -> SourceFigures:
        """Give what is known of the source; `counts` (K,) are its labelled pixels of each class."""
        found = (self.source, counts, self.reference, self.variance, self.temperature)
        return SourceFigures(*(each.clone() for each in found))

    @torch.no_grad()
    def adapt(
        self,
        target: FeatureSample,
        all_reduce: AllReduce,
        *,
        rounds: int = 6,
        confidence: float = 0.9,
        shrinkage: float = 0.02,
        labelled: FeatureSample | None = None,
        labelled_weight: float = 10.0,
    ) -> None:
        """Move the anchors to the target's features by EM, from where the source's are.

        Args:
            target: of a sweep; each process has sampled its own images.
            all_reduce: gives the sum of a tensor over all processes.
            rounds: number of E-steps and M-steps.
            confidence: p(c | f) that a pixel must exceed to move an anchor.
            shrinkage: κ, which holds an anchor back, as a share of all sampled pixels.
            labelled: pixels of the target with their classes; None: there are none.
            labelled_weight: w.
        """
        features, _ = target.rows(len(self.variance), self.source)
        total = all_reduce(features.new_tensor(float(len(features))))
        if not bool(total):
            return
        self.vectors.copy_(self.source)
        self.share.copy_(self.source_share)
        pseudo = shrinkage * total
        known_sums, known = self._labelled_sums(labelled or FeatureSample(), all_reduce)
        known_sums, known = labelled_weight * known_sums, labelled_weight * known
        for _ in range(rounds):
            sums, counts, found = self._sure(features, confidence, all_reduce)
            shift = sums - counts[:, None] * self.reference
            shift += known_sums - known[:, None] * self.source
            self.vectors.copy_(self.source + shift / (counts + known + pseudo)[:, None])
            self.share.copy_((self.source_share + found / total) / 2)

    @torch.no_grad()
    def linear(self) -> tuple[Tensor, Tensor]:
        """Give weights (K, D) and biases (K,) of log p(f | c), up to what all classes share."""
        weight, bias, centre = self._around_centre()
        return weight, bias - weight @ centre

    @torch.no_grad()
    def log_likelihood(self, features: Tensor) -> Tensor:
        """Compute log p(f | c) of each pixel, up to a constant that all of its classes share.

        Args:
            features: (B, D, h, w), any floating type; also under autocast.

        Returns:
            (B, K, h, w) at least float32; very low for a class that the source never showed. Its
            softmax is p(c | f) for classes of equal shares.

        Raises:
            ShapeError: if the features are not (B, D, h, w).
        """
        check_features(features, len(self.variance), "anchors")
        features = at_least_float32(features)
        weight, bias, centre = self._around_centre()
        with without_autocast(features):
            flat = features.flatten(2) - centre[:, None]
            scores = torch.baddbmm(bias[:, None], weight.expand(len(flat), -1, -1), flat)
        return scores.view(len(features), len(weight), *features.shape[2:])

    def _around_centre(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give weights (K, D) and biases (K,) for features around the mean anchor, and that (D,).

        Without it, a product with features far from the origin would lose the differences.
        """
        centre = self.vectors.mean(dim=0)
        apart = self.vectors - centre
        weight = apart / (self.variance * self.temperature)
        bias = -(weight * apart).sum(dim=1) / 2
        return weight, torch.where(self.source_share > 0, bias, _NEVER), centre

    def _sure(
        self, features: Tensor, confidence: float, all_reduce: AllReduce
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sum features (N, D) by the class that they surely are, over all processes.

        Returns:
            Sums (K, D) and counts (K,) of the pixels with p(c | f) above `confidence`, and the sums
            (K,) of p(c | f) over all pixels.
        """
        posterior = (self._scores(features) + self.share.log()).softmax(dim=1)
        sure = (posterior > confidence).float()
        sums, counts = all_reduce(sure.t() @ features), all_reduce(sure.sum(dim=0))
        return sums, counts, all_reduce(posterior.sum(dim=0))

    def _labelled_sums(
        self, labelled: FeatureSample, all_reduce: AllReduce
    ) -> tuple[Tensor, Tensor]:
        """Sum labelled pixels by class over all processes: sums (K, D) and counts (K,)."""
        features, label = labelled.rows(len(self.variance), self.source)
        rows = one_hot(label[None].to(features.device), len(self.source), features.dtype)[0]
        return all_reduce(rows @ features), all_reduce(rows.sum(dim=1))

    def _scores(self, rows: Tensor) -> Tensor:
        """Compute log-likelihoods (N, K) of features (N, D)."""
        return self.log_likelihood(rows.t()[None, :, :, None])[0, :, :, 0].t()


@torch.no_grad()
def pool(logits: Tensor, log_likelihood: Tensor, weight: float = 0.5) -> Tensor:
    """Multiply the classifier's p(c | x)^(1 − weight) by the anchors' p(f | c)^weight.

    The logarithmic opinion pool: with equal weights its argmax is that of the plain product, and
    the root keeps it from counting twice what both have seen in the same features.

    Args:
        logits: (B, K, h, w) of the classifier, any floating type.
        log_likelihood: (B, K, h, w) of `AdaptedAnchors.log_likelihood`.
        weight: of the anchors, in [0, 1].

    Returns:
        (B, K, h, w) logits, at least float32.

    Raises:
        ShapeError: if the two are not on one grid.

    Source: Genest & Zidek, *Combining Probability Distributions*, 1986.
    """
    if logits.shape != log_likelihood.shape:
        raise ShapeError(
            f"pool wants logits of one grid, got {tuple(logits.shape)} and "
            f"{tuple(log_likelihood.shape)}"
        )
    return torch.lerp(at_least_float32(logits), log_likelihood, weight)
