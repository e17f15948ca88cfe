"""Colour transfer: source images recoloured as if they were of the target domain.

Reinhard et al. give one image the mean and deviation of another's colours. Between two random crops
that transfers content too: a crop of sky turns a crop of road blue. So statistics of *domains* are
matched here: an image is described by mean and log deviation of its luma and chromas; what differs
between the domains' means of these six numbers is added to each source image, and where the
target's images vary more than the source's, random draws make up for the difference. Between
domains that look alike nothing changes. Luma and chromas are those of the logits of RGB, so that a
shift darkens like less light does, and no pixel is cut off at black or white. A mean is shifted by
one deviation of the source's images at most: where domains lie further apart, as bright cells on
dark ground and dark ones on bright, colours do not mean the same.

Sources: Reinhard et al., *Color Transfer between Images*, IEEE CG&A 2001; between domains, Ma et
al., *Coarse-to-Fine Domain Adaptive Semantic Segmentation with Photometric Alignment and
Category-Center Regularization*, CVPR 2021 (by pairs of images, in CIELAB); variances merged as Chan
et al., *Updating Formulae and a Pairwise Algorithm for Computing Sample Variances*, 1979.
"""

import torch
from torch import Tensor, nn

from cag_uda.adaptation.tensors import over_processes, without_autocast
from cag_uda.types import Batch, Labelled

TO_YIQ = torch.tensor([(0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
FROM_YIQ: Tensor = torch.linalg.inv(TO_YIQ)
_LEAST_LIGHT = 1 / 255
"""Bound on RGB, from below and from 1 − it above, for its logit: one step of 8 bits."""
_LEAST_DEVIATION = 1e-2
"""Of a flat image, which has no contrast to raise."""
_MOST_CONTRAST = 1.6
"""Bound on the logarithm of what a deviation is multiplied by: a factor of 5."""


class ColourTransfer(nn.Module):
    """Recolours source images by the statistics of all images of both domains so far."""

    count: Tensor
    """Scalar: images of each domain that were counted in, over all processes."""
    mean: Tensor
    """(2, 6): mean over the source's and over the target's images of `colour_statistics`."""
    variance: Tensor
    """(2, 6): their variance over images."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(2, 6))
        self.register_buffer("variance", torch.zeros(2, 6))

    @torch.no_grad()
    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Labelled:
        """Recolour a batch's source images, after its images are counted in.

        Every process must call it. Random draws are made on the CPU, by `generator` if one is
        given.
        """
        source = batch.source.image
        seen = colour_statistics(source)
        self.update(seen, colour_statistics(batch.target.plain))
        drawn = torch.randn(seen.shape, generator=generator).to(seen, non_blocking=True)
        shift = self.difference() + drawn * (self.variance[1] - self.variance[0]).relu().sqrt()
        return batch.source._replace(image=recolour(source, seen, shift))

    def difference(self) -> Tensor:
        """Compute how far the domains' statistics (6,) differ; means by a deviation at most."""
        mean, log_deviation = (self.mean[1] - self.mean[0]).chunk(2)
        most = self.mean[0, 3:].exp()
        return torch.cat([mean.clamp(-most, most), log_deviation])

    def update(self, source: Tensor, target: Tensor) -> None:
        """Count in statistics (B, 6) of source images and of as many target images."""
        new = torch.stack([source, target])
        sums = torch.stack([torch.ones_like(new), new, new.square()]).sum(dim=2)
        number, total, squares = over_processes(sums)
        mean = total / number
        share = number / (self.count + number)
        change = mean - self.mean
        spread = squares / number - mean.square()
        self.variance.lerp_(spread + (1 - share) * change.square(), share)
        self.mean.addcmul_(share, change)
        self.count.add_(number[0, 0])


def colour_statistics(image: Tensor) -> Tensor:
    """Describe images (B, 3, H, W) by means and log deviations of Y, I and Q of logits: (B, 6)."""
    with without_autocast(image):
        flat = TO_YIQ.to(image, non_blocking=True) @ _logits(image)
    deviation = flat.std(dim=2, correction=0).clamp_min(_LEAST_DEVIATION)
    return torch.cat([flat.mean(dim=2), deviation.log()], dim=1)


def recolour(image: Tensor, statistics: Tensor, shift: Tensor) -> Tensor:
    """Shift the colour statistics of images: one 3×3 matrix and one offset each, of logits.

    Args:
        image: (B, 3, H, W) float in [0, 1].
        statistics: (B, 6) of them, by `colour_statistics`.
        shift: (B, 6), what is added to them; a deviation is multiplied by 5 at most.

    Returns:
        (B, 3, H, W) float in (0, 1); contiguous as `image` is.
    """
    to_yiq, from_yiq = (m.to(image, non_blocking=True) for m in (TO_YIQ, FROM_YIQ))
    brighter, log_gain = shift.chunk(2, dim=1)
    gain = log_gain.clamp(-_MOST_CONTRAST, _MOST_CONTRAST).exp()[:, :, None]
    mean = statistics[:, :3, None]
    with without_autocast(image):
        matrix = from_yiq @ (gain * to_yiq)
        offset = from_yiq @ ((1 - gain) * mean + brighter[:, :, None])
        recoloured = torch.baddbmm(offset, matrix, _logits(image))
    return recoloured.sigmoid_().view(image.shape)


def _logits(image: Tensor) -> Tensor:
    """Take the logits (B, 3, H·W) of images in [0, 1]."""
    return image.flatten(2).logit(eps=_LEAST_LIGHT)
