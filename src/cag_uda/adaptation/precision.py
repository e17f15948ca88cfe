"""The numeric precision of this package's maths: at least float32, whatever the networks use.

Knows nothing of classes, anchors or losses.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Give `tensor` in float32, or as it is where it is float32 or float64.

    Args:
        tensor: any shape, any floating type.

    Returns:
        The same values; no copy where none is needed.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off for the device of `tensor`, which would make matrix products bfloat16.

    Args:
        tensor: any tensor on the device that the block computes on.

    Returns:
        The context manager.
    """
    return torch.autocast(device_type=tensor.device.type, enabled=False)
