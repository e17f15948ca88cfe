"""Sums over the processes that share a batch; with one process, the tensor itself.

Every process must call them in the same order. Knows no network and no loss.
"""

import torch.distributed as dist
from torch import Tensor


def over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes.

    Args:
        tensor: any shape; it is not changed.

    Returns:
        The sum, the same on every process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total
