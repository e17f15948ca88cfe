"""Batch normalisation whose running statistics are kept apart for source and target.

Source: the idea of statistics per domain is Li et al., *Revisiting Batch Normalization For
Practical
Domain Adaptation* (AdaBN), 2016; sharing scale and shift while separating statistics follows it.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cag_uda.types import DomainName


class DomainBatchNorm2d(nn.BatchNorm2d):
    """Scale and shift shared by both domains, running mean and variance for each.

    The target's statistics bear the usual names (`running_mean`, `running_var`), so that the
    delivered
    network is an ordinary one; the source's stand beside them. `domain` says which are in use.
    """

    source_mean: Tensor
    source_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.domain: DomainName = "target"
        self.register_buffer("source_mean", torch.zeros(num_features))
        self.register_buffer("source_var", torch.ones(num_features))

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, h, w); in training also update the statistics of `domain`.

        One value a channel has no variance (the pooled features of a single image): it is then
        normalised by the running statistics.
        """
        mean, variance = running_statistics(self, self.domain)
        momentum = 0.0 if self.momentum is None else self.momentum
        is_training = self.training and input.numel() > self.num_features
        return F.batch_norm(
            input, mean, variance, self.weight, self.bias, is_training, momentum, self.eps
        )


def running_statistics(norm: nn.BatchNorm2d, domain: DomainName) -> tuple[Tensor, Tensor]:
    """Running mean and variance that a batch norm uses for a domain, each (channels,)."""
    if isinstance(norm, DomainBatchNorm2d) and domain == "source":
        return norm.source_mean, norm.source_var
    # A batch norm that tracks statistics (ours always does) has both.
    return cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)


def separate_statistics(network: nn.Module) -> None:
    """Give every `BatchNorm2d` below `network` statistics per domain; its weights are kept."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                separated = DomainBatchNorm2d(child.num_features, child.eps, child.momentum or 0.1)
                separated.load_state_dict(child.state_dict(), strict=False)
                setattr(module, name, separated)
    copy_statistics(network, "target", "source")


@torch.no_grad()
def copy_statistics(network: nn.Module, origin: DomainName, destination: DomainName) -> None:
    """Give one domain's running statistics to the other, in every norm that keeps them apart."""
    for module in network.modules():
        if isinstance(module, DomainBatchNorm2d):
            pairs = zip(
                running_statistics(module, destination),
                running_statistics(module, origin),
                strict=True,
            )
            for theirs, ours in pairs:
                theirs.copy_(ours)
