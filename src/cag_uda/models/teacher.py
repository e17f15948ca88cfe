"""A teacher: a copy of a segmenter that follows it slowly, with statistics of what it looks at.

Source: the moving average of weights is Tarvainen & Valpola, *Mean teachers are better role
models*, NeurIPS 2017.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cag_uda.models.norm import DomainBatchNorm2d, running_statistics
from cag_uda.models.segmenter import Segmenter


@torch.no_grad()
def follow(teacher: Segmenter, student: Segmenter, momentum: float) -> None:
    """Update the teacher by the moving average of the student's weights (EMA), in place.

    All weights follow, and where statistics are per domain those of the source. The target's (or
    the common ones) do not: the student's are of mixed images, the teacher's of the plain ones that
    it labels, see `statistics_follow`; over processes, which each saw their own, they are averaged.

    Args:
        teacher: a copy of the student.
        student: as the optimiser has just left it.
        momentum: m of teacher ← m·teacher + (1 − m)·student, in [0, 1].
    """
    ours: list[Tensor] = [*teacher.parameters()]
    theirs: list[Tensor] = [*student.parameters()]
    if student.config.norm == "per-domain":
        ours += teacher.statistics("source")
        theirs += student.statistics("source")
    for one, other in zip(ours, theirs, strict=True):
        one.lerp_(other, 1 - momentum)
    if student.config.norm != "frozen" and dist.is_available() and dist.is_initialized():
        for statistic in teacher.statistics("target"):
            dist.all_reduce(statistic)
            statistic.div_(dist.get_world_size())


@contextmanager
def statistics_follow(teacher: Segmenter) -> Iterator[None]:
    """Update running statistics by what a network in evaluation mode normalises.

    Each norm takes the batch into its running mean and variance first, and normalises by these. So
    labels do not shake with the batch, as they do in training mode (of four crops, an image-level
    branch has four values to normalise), and statistics do not stay behind the weights, as they do
    in evaluation mode. It costs what training mode does. Frozen norms stay as they are.

    Source: running statistics that follow the target are Mirza et al., *The Norm Must Go On* (DUA),
        CVPR 2022.
    """
    with ExitStack() as hooks:
        if teacher.config.norm != "frozen":
            for module in teacher.modules():
                if isinstance(module, nn.BatchNorm2d):
                    hooks.enter_context(module.register_forward_pre_hook(_take_in))
        yield


@torch.no_grad()
def _take_in(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Move a batch norm's running statistics by its momentum, as training mode does."""
    norm = cast(nn.BatchNorm2d, norm)
    domain = norm.domain if isinstance(norm, DomainBatchNorm2d) else "target"
    mean, variance = running_statistics(norm, domain)
    image_maps: Tensor = inputs[0]
    if image_maps.numel() > image_maps.shape[1]:  # One value a channel has no variance.
        torch.batch_norm_update_stats(image_maps, mean, variance, norm.momentum or 0.1)
