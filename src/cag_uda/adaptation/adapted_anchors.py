"""Category anchors adapted to the target by expectation-maximisation (EM), and p(f | c) by them.

The features f (D,) of class c are taken as a Gaussian around its anchor A_c, with one covariance Σ
for all classes. A temperature T, fitted to labelled source pixels, keeps them from being surer than
they are right, since features are no Gaussians:

    log p(f | c) = −(f − A_c)ᵀ Σ⁻¹ (f − A_c) / (2 T) + const.

What differs between the classes is linear in f: anchors are a linear classifier, as the network's
own. EM fits them to labelled pixels of the source and N unlabelled ones of the target together:

    M-step   A_c ← (Σ_n q_n(c) f_n + s_c · A_c of the source) / (Σ_n q_n(c) + s_c)
             Σ   ← the covariance of the same pixels around these anchors
    E-step   q_n(c) ∝ p(c | x_n) · p(f_n | c)

p(c | x) is the network's classifier, and q before the first E-step. s_c are the source's class
shares times N: all of the source counts as much as all of the target. A small multiple of the
identity is added to Σ.

Where a few pixels of the target have labels, a labelled pixel counts in the M-step as w pixels of
its class.

The classifier knows the source's class shares already, so that only p(f | c) is multiplied with it,
here and in an answer. Labels that a classifier learns from at every step take p(c | f), with the
shares: else the classifier unlearns them, step by step.

Sources: classes with one covariance are linear discriminant analysis (Fisher, 1936); EM with
labelled and unlabelled samples is Nigam, McCallum, Thrun, Mitchell, *Text Classification from
Labeled and Unlabeled Documents using EM*, Machine Learning 2000; centroids of the target that start
from a source classifier are Liang, Hu, Feng, *SHOT*, ICML 2020, and Iwasawa & Matsuo, *T3A*,
NeurIPS 2021; the anchors are Zhang et al., *CAG-UDA*, NeurIPS 2019. How it compares with variances
by channel and with EM by sure pixels alone: docs/LOG.md.
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
_LEAST_SHARE = 1e-6
"""Share of a class that was not seen: its logarithm stays finite."""
_SAMPLED = 50_000
"""Most labelled source pixels that a sweep keeps."""
_MOST_NUMBERS = 1 << 26
"""Most numbers that a sample of pixels holds: 256 MiB."""
_TEMPERATURES = torch.logspace(0, 3, 61)
"""T is looked for among these: a Gaussian's would be 1."""
_SHRINKAGE = 0.05
"""Multiple of the identity in Σ, as a share of the channels' mean variance."""

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


def most_pixels(channels: int) -> int:
    """Bound the pixels that are kept of a sweep, by the memory that so many channels take."""
    return min(200_000, _MOST_NUMBERS // channels)


def source_sample(feature_channels: int) -> FeatureSample:
    """Make a sample for labelled pixels of the source, of D channels."""
    return FeatureSample(min(_SAMPLED, most_pixels(feature_channels)))


class SourceFeatures:
    """Collect anchors and a sample of pixels over a sweep of the labelled source.

    Args:
        num_classes: K.
        feature_channels: D.
        device: where the sums are kept.
        sample: takes the pixels; None: a new one, `source_sample`.
    """

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        device: torch.device,
        sample: FeatureSample | None = None,
    ) -> None:
        self.anchors = CategoryAnchors(num_classes, feature_channels).to(device)
        self.sample = source_sample(feature_channels) if sample is None else sample

    @torch.no_grad()
    def update(self, features: Tensor, label: Tensor) -> None:
        """Count the labelled pixels of one batch in.

        Args:
            features: (B, D, h, w), any floating type, finite.
            label: (B, h, w) int64 train ids on their grid, IGNORE where unlabelled.

        Raises:
            ShapeError: if the two do not lie on one grid, or the channels are not D.
        """
        # Ids that are no class are left out of both, as anchors leave them out.
        is_class = (label >= 0) & (label < self.anchors.num_classes)
        label = torch.where(is_class, label, IGNORE)
        self.anchors.update(features, label)
        self.sample.update(features, label)

    @torch.no_grad()
    def reduce(self, all_reduce: AllReduce) -> None:
        """Sum over processes that each saw a part of the images; once, at the end of a sweep."""
        self.anchors.reduce(all_reduce)


class SourceFigures(NamedTuple):
    """All that adapted anchors know of the source: figures of its classes, and no image."""

    vectors: Tensor
    """(K, D) float32 anchors; 0 for a class that the source never showed."""
    counts: Tensor
    """(K,) int64 labelled pixels of each class, on the feature grid."""
    covariance: Tensor
    """(D, D) float32 covariance within classes."""
    temperature: Tensor
    """() float32 T."""


class AdaptedAnchors(nn.Module):
    """Gaussians around category anchors: of the source after `fit`, of both after `adapt`.

    Args:
        num_classes: K.
        feature_channels: D.
    """

    source: Tensor
    """(K, D) float32 anchors of the source; 0 for a class that it never showed."""
    source_covariance: Tensor
    """(D, D) covariance of the source within classes."""
    source_share: Tensor
    """(K,) class shares of the source's labelled pixels."""
    temperature: Tensor
    """() T."""
    vectors: Tensor
    """(K, D) float32 anchors in force."""
    covariance: Tensor
    """(D, D) Σ in force, without the multiple of the identity."""
    share: Tensor
    """(K,) class shares in force: the source's, then those of the target by EM."""
    weight: Tensor
    """(K, D) weights of log p(f | c) for features around `centre`."""
    bias: Tensor
    """(K,) their biases."""
    centre: Tensor
    """(D,) mean anchor: in a product with features far from the origin differences would drown."""

    def __init__(self, num_classes: int, feature_channels: int) -> None:
        super().__init__()
        for name in ("source", "vectors", "weight"):
            self.register_buffer(name, torch.zeros(num_classes, feature_channels))
        for name in ("source_covariance", "covariance"):
            self.register_buffer(name, torch.eye(feature_channels))
        for name in ("source_share", "share"):
            self.register_buffer(name, torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("bias", torch.zeros(num_classes))
        self.register_buffer("centre", torch.zeros(feature_channels))
        self.register_buffer("temperature", torch.ones(()))

    @property
    def spread(self) -> Tensor:
        """Standard deviation (D,) of each channel within classes, above 0."""
        variance = self.covariance.diagonal()
        return (variance + _SHRINKAGE * variance.mean() + 1e-12).sqrt()

    @torch.no_grad()
    def fit(self, source: SourceFeatures, all_reduce: AllReduce) -> None:
        """Take the source's anchors, covariance and shares; fit T to its labelled pixels.

        T minimises −log p(y | f), the mean over the sampled pixels, with
        p(c | f) ∝ share_c · p(f | c).

        Args:
            source: of a whole sweep, already reduced over processes.
            all_reduce: gives the sum of a tensor over all processes.

        Raises:
            UserError: if no source pixel was labelled.
        """
        counts = source.anchors.counts
        if not bool(counts.any()):
            raise UserError("the source has no labelled pixel; see `cag-uda check`")
        vectors = source.anchors.vectors.nan_to_num(nan=0.0)
        features, label = source.sample.rows(len(self.centre), self.source)
        around = features - vectors[label]
        total = all_reduce(features.new_tensor(float(len(features))))
        covariance = all_reduce(around.t() @ around) / total.clamp(min=1)
        one = torch.ones_like(self.temperature)
        self.begin(SourceFigures(vectors, counts, covariance, one))
        scores, shares = self._scores(features), self.share.log()
        losses = torch.stack(
            [
                nn.functional.cross_entropy(scores / float(t) + shares, label, reduction="sum")
                for t in _TEMPERATURES
            ]
        )
        best = int(all_reduce(losses.double()).argmin())
        self.temperature.fill_(float(_TEMPERATURES[best]))
        self._solve()

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
        self.source_covariance.copy_(figures.covariance)
        self.temperature.copy_(figures.temperature)
        counts = figures.counts.double()
        self.source_share.copy_(counts / counts.sum())
        self.vectors.copy_(self.source)
        self.covariance.copy_(self.source_covariance)
        self.share.copy_(self.source_share)
        self._solve()

    def figures(self, counts: Tensor) -> SourceFigures:
        """Give what is known of the source; `counts` (K,) are its labelled pixels of each class."""
        found = (self.source, counts, self.source_covariance, self.temperature)
        return SourceFigures(*(each.clone() for each in found))

    @torch.no_grad()
    def adapt(
        self,
        target: FeatureSample,
        all_reduce: AllReduce,
        *,
        rounds: int = 5,
        labelled: FeatureSample | None = None,
        labelled_weight: float = 10.0,
    ) -> None:
        """Fit the anchors to source and target by EM.

        Args:
            target: pixels of a sweep with D + K channels, features and then the classifier's
                logits; each process has sampled its own images.
            all_reduce: gives the sum of a tensor over all processes.
            rounds: number of M-steps and E-steps.
            labelled: features of labelled pixels of the target; None: there are none.
            labelled_weight: w.
        """
        num_classes, channels = self.source.shape
        rows, _ = target.rows(channels + num_classes, self.source)
        total = all_reduce(rows.new_tensor(float(len(rows))))
        if not bool(total):
            return
        # Around one place, the same in all processes: an offset would take digits from the sums.
        centre = self.source_share @ self.source
        features, classifier = rows[:, :channels] - centre, rows[:, channels:].log_softmax(dim=1)
        held, own = total * self.source_share, self.source - centre
        known, label = (labelled or FeatureSample()).rows(channels, self.source)
        known = known - centre
        certain = one_hot(label[None].to(known.device), num_classes, known.dtype)[0]
        certain = labelled_weight * certain
        # The same in each round: sums of the source and of labelled pixels, and Σ_n f_n f_nᵀ.
        sums = held[:, None] * own + all_reduce(certain @ known)
        counts = held + all_reduce(certain.sum(dim=1))
        products = all_reduce(
            features.t() @ features + known.t() @ (certain.sum(dim=0)[:, None] * known)
        )
        products += total * self.source_covariance + own.t() @ (held[:, None] * own)
        found = classifier.exp()
        for _ in range(rounds):
            number = counts + all_reduce(found.sum(dim=0))
            mean = (sums + all_reduce(found.t() @ features)) / number.clamp(min=1e-6)[:, None]
            between = mean.t() @ (number[:, None] * mean)
            self.covariance.copy_((products - between) / number.sum())
            self.vectors.copy_(torch.where(number[:, None] > 0, mean + centre, self.source))
            self._solve()
            found = (classifier + self._scores(rows[:, :channels])).softmax(dim=1)
        self.share.copy_(all_reduce(found.sum(dim=0)) / total)

    @torch.no_grad()
    def linear(self) -> tuple[Tensor, Tensor]:
        """Give weights (K, D) and biases (K,) of log p(f | c), up to what all classes share."""
        return self.weight, self.bias - self.weight @ self.centre

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
        check_features(features, len(self.centre), "anchors")
        features = at_least_float32(features)
        with without_autocast(features):
            flat = features.flatten(2) - self.centre[:, None]
            weight = self.weight.expand(len(flat), -1, -1)
            scores = torch.baddbmm(self.bias[:, None], weight, flat)
        return scores.view(len(features), len(self.weight), *features.shape[2:])

    @torch.no_grad()
    def log_posterior(self, features: Tensor) -> Tensor:
        """Compute log p(c | f) of each pixel with the class shares in force, up to a constant.

        Arguments, result and errors are those of `log_likelihood`.
        """
        shares = self.share.clamp(min=_LEAST_SHARE).log()
        return self.log_likelihood(features) + shares[:, None, None]

    def _solve(self) -> None:
        """Find weights and biases of the anchors and the covariance in force."""
        self.centre.copy_(self.vectors.mean(dim=0))
        apart = self.vectors - self.centre
        variance = self.covariance.diagonal().mean()
        ridge = (_SHRINKAGE * variance + 1e-12).expand(len(self.covariance)).diag()
        weight = torch.linalg.solve(self.covariance + ridge, apart.t()).t() / self.temperature
        self.weight.copy_(weight)
        bias = -(weight * apart).sum(dim=1) / 2
        self.bias.copy_(torch.where(self.source_share > 0, bias, _NEVER))

    def _scores(self, rows: Tensor) -> Tensor:
        """Compute log-likelihoods (N, K) of features (N, D)."""
        return self.log_likelihood(rows.t()[None, :, :, None])[0, :, :, 0].t()


@torch.no_grad()
def pool(logits: Tensor, of_anchors: Tensor, weight: float = 0.5) -> Tensor:
    """Multiply the classifier's p(c | x)^(1 − weight) by the anchors' p(f | c)^weight.

    The logarithmic opinion pool: with equal weights its argmax is that of the plain product, and
    the root keeps it from counting twice what both have seen in the same features.

    Args:
        logits: (B, K, h, w) of the classifier, any floating type.
        of_anchors: (B, K, h, w) of `AdaptedAnchors.log_likelihood`; or another network's logits.
        weight: of the anchors, in [0, 1].

    Returns:
        (B, K, h, w) logits, at least float32.

    Raises:
        ShapeError: if the two are not on one grid.

    Source: Genest & Zidek, *Combining Probability Distributions*, 1986.
    """
    if logits.shape != of_anchors.shape:
        raise ShapeError(
            f"pool wants logits of one grid, got {tuple(logits.shape)} and "
            f"{tuple(of_anchors.shape)}"
        )
    return torch.lerp(at_least_float32(logits), of_anchors, weight)
