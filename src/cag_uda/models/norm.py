"""Batch normalisation whose running statistics are kept apart for source and target, and mixed.

Sources: statistics per domain are Li et al., *Revisiting Batch Normalization For Practical Domain
Adaptation* (AdaBN), 2016; sharing scale and shift while separating statistics follows it. Mixing
both domains' statistics at test time is Schneider et al., *Improving robustness against common
corruptions by covariate shift adaptation*, NeurIPS 2020, and You et al., *Test-time Batch
Statistics Calibration* (α-BN), 2021.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from cag_uda.types import DomainName


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that can look at the images of all processes.

    While `is_shared`, in training, mean and variance are those of all processes together: several
    with a part of a batch each normalise as one with the whole. Works on every device and backend,
    which torch's own synchronised batch norm does not. Where one process stands for several
    (`cag-uda plan`) a single image's pooled features, which have no variance, are normalised by the
    running statistics.
    """

    is_shared = False

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, h, w); in training also update the running statistics."""
        statistics = running_statistics(self, "target")
        if self.training and self.is_shared:
            cast(Tensor, self.num_batches_tracked).add_(1)
            return self.normalise_together(input, *statistics)
        if self.training and input.numel() == self.num_features:
            return F.batch_norm(input, *statistics, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(input)

    def normalise_together(
        self, input: Tensor, running_mean: Tensor, running_var: Tensor
    ) -> Tensor:
        """Normalise by the statistics of all processes, which are added to the running ones."""
        output, mean, variance = _Together.apply(  # type: ignore[no-untyped-call]  # torch has no types for it
            input, self.weight, self.bias, self.eps
        )
        momentum = 0.0 if self.momentum is None else self.momentum
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance, momentum)
        return cast(Tensor, output)


class DomainBatchNorm2d(SharedBatchNorm2d):
    """Scale and shift shared by both domains, running mean and variance for each.

    The target's statistics bear the usual names (`running_mean`, `running_var`); the source's stand
    beside them. `domain` says whose images are normalised. In evaluation the target's are
    normalised by the statistics of both mixed, the target with a share α; in training each
    domain's by its own batch.

    Args:
        num_features: channels.
        eps: added to the variance.
        momentum: of the running statistics.
        target_share: α, in [0, 1]; 1 is AdaBN, 0 the source's statistics alone.
    """

    source_mean: Tensor
    source_var: Tensor

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, target_share: float = 1.0
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.domain: DomainName = "target"
        self.target_share = target_share
        self.register_buffer("source_mean", torch.zeros(num_features))
        self.register_buffer("source_var", torch.ones(num_features))

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, h, w); in training also update the statistics of `domain`.

        One value a channel has no variance (the pooled features of a single image): it is then
        normalised by the running statistics.
        """
        mean, variance = running_statistics(self, self.domain)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.is_shared:
            return self.normalise_together(input, mean, variance)
        is_training = self.training and input.numel() > self.num_features
        if not is_training and self.domain == "target" and self.target_share < 1:
            mean, variance = self.mixed_statistics()
        return F.batch_norm(
            input, mean, variance, self.weight, self.bias, is_training, momentum, self.eps
        )

    def mixed_statistics(self) -> tuple[Tensor, Tensor]:
        """Mix mean and variance as the target's images are normalised, each (channels,).

        The mixed mean stays within (1 − α) / α mixed standard deviations of the target's: one at
        α = 1/2, none at 1, any at 0. The sources know no such bound: without it, channels in which
        the domains lie far apart (inverted contrast) are normalised to values that no later layer
        has seen.
        """
        mean, variance = running_statistics(self, "target")
        share = self.target_share
        if share == 0:
            return self.source_mean, self.source_var
        mixed = torch.lerp(self.source_mean, mean, share)
        variance = torch.lerp(self.source_var, variance, share)
        bound = (1 - share) / share * (variance + self.eps).sqrt()
        return mean + (mixed - mean).clamp(-bound, bound), variance


class _Together(Function):
    """Batch norm over the images of all processes; as Ioffe and Szegedy (2015), sums exchanged."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised input, mean, and unbiased variance of all processes."""
        values = input.float()
        # Filled on the device: a number that comes from the host would be waited for.
        count = values.new_full((1,), values.numel() / values.shape[1])
        *total, count = _summed(values.sum((0, 2, 3)), count)
        mean = total[0] / count
        # Around the mean of all: the difference of two large squares would lose the variance.
        (squares,) = _summed((values - _spread(mean)).square().sum((0, 2, 3)))
        variance = squares / count
        ctx.save_for_backward(input, weight, mean, (variance + eps).rsqrt(), count)
        output = F.batch_norm(input, mean, variance, weight, bias, False, 0.0, eps)
        unbiased = squares / (count - 1).clamp(min=1)
        ctx.mark_non_differentiable(mean, unbiased)
        return output, mean, unbiased

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for this process's input, and its share of those for weight and bias."""
        input, weight, mean, inverse, count = ctx.saved_tensors
        gradient = gradients[0].float()
        normalised = (input.float() - _spread(mean)) * _spread(inverse)
        of_bias = gradient.sum((0, 2, 3))
        of_weight = (gradient * normalised).sum((0, 2, 3))
        offset, slope = (each / count for each in _summed(of_bias.clone(), of_weight.clone()))
        inner = gradient - _spread(offset) - normalised * _spread(slope)
        of_input = _spread(weight * inverse) * inner
        return of_input.to(input.dtype), of_weight, of_bias, None


def _summed(*parts: Tensor) -> Sequence[Tensor]:
    """Sum vectors over all processes, in one exchange."""
    together = torch.cat(parts)
    dist.all_reduce(together)
    return torch.split(together, [len(part) for part in parts])


def _spread(per_channel: Tensor) -> Tensor:
    return per_channel[None, :, None, None]


def make_shareable(network: nn.Module) -> None:
    """Let every plain `BatchNorm2d` below `network` be one that processes can share."""
    for module, name, plain in _plain_norms(network):
        shared = SharedBatchNorm2d(plain.num_features, plain.eps, plain.momentum)
        shared.load_state_dict(plain.state_dict())
        shared.train(plain.training)
        setattr(module, name, shared.to(plain.weight.device))


def _plain_norms(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.BatchNorm2d]]:
    """Yield each plain batch norm below a network: the module that holds it, and its name."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                yield module, name, child


def domain_norms(network: nn.Module) -> list[DomainBatchNorm2d]:
    """Return the norms of a network that keep the domains' statistics apart."""
    return [module for module in network.modules() if isinstance(module, DomainBatchNorm2d)]


def share_statistics(network: nn.Module, is_shared: bool) -> None:
    """Say whether the batch norms below `network` look at the images of all processes.

    While they do, all processes must call the network equally often.
    """
    for module in network.modules():
        if isinstance(module, SharedBatchNorm2d):
            module.is_shared = is_shared


def running_statistics(norm: nn.BatchNorm2d, domain: DomainName) -> tuple[Tensor, Tensor]:
    """Return a batch norm's running mean and variance of a domain, each (channels,)."""
    if isinstance(norm, DomainBatchNorm2d) and domain == "source":
        return norm.source_mean, norm.source_var
    # A batch norm that tracks statistics (ours always does) has both.
    return cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)


def separate_statistics(network: nn.Module, target_share: float = 1.0) -> None:
    """Give every `BatchNorm2d` below `network`, in place, statistics per domain; weights are kept.

    `target_share` is the α of `DomainBatchNorm2d`.
    """
    for module, name, plain in _plain_norms(network):
        separated = DomainBatchNorm2d(
            plain.num_features, plain.eps, plain.momentum or 0.1, target_share
        )
        separated.load_state_dict(plain.state_dict(), strict=False)
        setattr(module, name, separated)
    copy_statistics(network, "target", "source")


@torch.no_grad()
def settle_mixed_statistics(network: nn.Module) -> None:
    """Make the mixture of both domains' statistics the target's own, in every norm that mixes."""
    for norm in domain_norms(network):
        _replace(running_statistics(norm, "target"), norm.mixed_statistics())
        norm.target_share = 1.0


@torch.no_grad()
def copy_statistics(network: nn.Module, origin: DomainName, destination: DomainName) -> None:
    """Give one domain's running statistics to the other, in every norm that keeps them apart."""
    for norm in domain_norms(network):
        _replace(running_statistics(norm, destination), running_statistics(norm, origin))


def _replace(statistics: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> None:
    for own, other in zip(statistics, others, strict=True):
        own.copy_(other)


@torch.no_grad()
def carry_source_statistics(network: nn.Module, before: nn.Module) -> None:
    """Move the source's running statistics along with the target's, in every norm that has both.

    When weights change without images of the source, what its channels would measure now is not
    known. Each channel's is taken to have changed by the same shift and scale as the target's.

    Args:
        network: whose source statistics are replaced; its target's are of its weights.
        before: a network of the same form with both domains' statistics, as the weights were.
    """
    for now, then in zip(domain_norms(network), domain_norms(before), strict=True):
        mean, variance = running_statistics(now, "target")
        mean_then, variance_then = running_statistics(then, "target")
        scale = (variance + now.eps) / (variance_then + now.eps)
        now.source_mean.copy_(mean + scale.sqrt() * (then.source_mean - mean_then))
        now.source_var.copy_(then.source_var * scale)
