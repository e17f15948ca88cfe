"""Alignment of pseudo-labels with the source's class shares, so that no class floods the target.

Distances know no prior, and a teacher's mistakes feed on themselves: a class that is over-predicted
is over-trained next. So the running shares of the classes among the labels are drawn towards the
source's.

Knows logits and shares; not who labels, nor how the source was counted.

Source: distribution alignment is Berthelot et al., *ReMixMatch*, ICLR 2020, section 3.1 (there at
full strength, with shares known); a strength below 1 is the τ of the logit adjustment of Menon et
al., *Long-tail Learning via Logit Adjustment*, ICLR 2021: two domains differ in their shares.
"""

import torch
from torch import Tensor, nn

_LEAST_SHARE = 1e-6
"""Of a class that is nowhere: its logarithm shall be finite."""


class ClassPrior(nn.Module):
    """The classes' shares of the source, and their running shares of the target's labels.

    Until `begin`, all classes are equal and nothing is changed.

    Args:
        num_classes: K.
    """

    source: Tensor
    """(K,) float32 shares, summing to 1."""
    target: Tensor
    """(K,) float32 shares of the labels before their alignment, summing to 1."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("source", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("target", torch.full((num_classes,), 1 / num_classes))

    @torch.no_grad()
    def begin(self, source: Tensor, target: Tensor) -> None:
        """Set both shares.

        Args:
            source: (K,) pixels of each class in the source.
            target: (K,) pixels, or sums of probabilities, of each class among the target's labels.
        """
        self.source.copy_(source / source.sum())
        self.target.copy_(target / target.sum())

    @torch.no_grad()
    def follow(self, latest: Tensor, momentum: float) -> None:
        """Draw the target's shares towards those of the latest batch.

        Args:
            latest: (K,) sums of probabilities over all processes' pixels, before alignment.
            momentum: of the running mean, in [0, 1].
        """
        self.target.lerp_(latest.to(self.target) / latest.sum(), 1 - momentum)

    @torch.no_grad()
    def align(self, logits: Tensor, strength: float) -> Tensor:
        """Multiply probabilities by (source share / target share) to the power of `strength`.

        Args:
            logits: (B, K, h, w) of the labels.
            strength: in [0, 1]; 0 changes nothing, 1 wants the source's shares.

        Returns:
            (B, K, h, w) logits; their softmax is the aligned label.
        """
        wanted = self.source.clamp(min=_LEAST_SHARE).log()
        found = self.target.clamp(min=_LEAST_SHARE).log()
        return logits + (strength * (wanted - found))[:, None, None]
