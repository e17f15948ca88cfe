"""Helpers on tensors: labels on the feature grid, numeric precision, sums over processes.

Results are at least float32, whatever the networks use. What sums over processes must be called by
every process in the same order.
"""

from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor

from cag_uda.errors import ShapeError


def downsample(label: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Give every cell of a coarser grid the label of the pixel at the cell's centre.

    Ids are copied, never blended.

    Args:
        label: (B, H, W) int64 train ids.
        size: (h, w) of the feature grid, in cells.
        align_corners: read the pixel at each cell's first corner instead, for networks whose logits
            are resized with cells on corners: what `F.interpolate(mode="nearest")` reads, and with
            it the released CAG-UDA code. For others it is up to half a cell off.

    Returns:
        (B, h, w) int64; `label` itself where the sizes are equal.

    Raises:
        ShapeError: if the label has not three dimensions or the size is not positive.
    """
    if label.ndim != 3 or min(size) < 1:
        raise ShapeError(
            f"downsample wants a label (B, H, W) and a positive size, got {tuple(label.shape)} "
            f"and {tuple(size)}"
        )
    if label.shape[1:] == torch.Size(size):
        return label
    within = 0 if align_corners else 1
    rows, columns = (
        (2 * torch.arange(cells, device=label.device) + within) * pixels // (2 * cells)
        for cells, pixels in zip(size, label.shape[1:], strict=True)
    )
    return label[:, rows[:, None], columns]


def one_hot(label: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn a label map into one row of zeros and ones per class, ready for a matrix product.

    Args:
        label: (B, h, w) int64 train ids; any id outside 0 … K-1, IGNORE among them, gives zeros.
        num_classes: K.
        dtype: of the result.

    Returns:
        (B, K, h·w), 1 where the pixel is of the class.
    """
    flat = label.flatten(1)
    row = torch.where((flat >= 0) & (flat < num_classes), flat, num_classes)
    rows = torch.zeros(
        (flat.shape[0], num_classes + 1, flat.shape[1]), dtype=dtype, device=label.device
    )
    return rows.scatter_(1, row.unsqueeze(1), 1.0)[:, :num_classes]


def per_pixel(value: float | Tensor, label: Tensor) -> float | Tensor:
    """Look a number per class up by each pixel's class.

    Args:
        value: one number for all classes, or (K,).
        label: (B, h, w) int64 train ids, all of them in 0 … K-1.

    Returns:
        (B, h, w) for a (K,) value; a single number unchanged.
    """
    if isinstance(value, Tensor) and value.ndim == 1:
        return value.to(label.device, non_blocking=True)[label]
    return value


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
