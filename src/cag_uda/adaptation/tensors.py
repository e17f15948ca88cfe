"""Helpers on tensors: labels on the feature grid, checks of shapes, precision, sums over processes.

What sums over processes must be called by every process in the same order.
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
        align_corners: read the pixel at each cell's first corner, as `F.interpolate` does with
            mode "nearest", and so the released CAG-UDA code. This is right for networks whose
            logits are resized with cells on corners; for others it is up to half a cell off.

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

    Of train ids (B, h, w) int64 it makes (B, K, h·w), 1 where the pixel is of the class. An id
    outside 0 … K-1, IGNORE among them, gives zeros.
    """
    flat = label.flatten(1)
    row = torch.where((flat >= 0) & (flat < num_classes), flat, num_classes)
    rows = torch.zeros(
        (flat.shape[0], num_classes + 1, flat.shape[1]), dtype=dtype, device=label.device
    )
    return rows.scatter_(1, row.unsqueeze(1), 1.0)[:, :num_classes]


def check_features(features: Tensor, channels: int, name: str) -> None:
    """Raise ShapeError, saying that `name` wants them, unless features are (B, D, h, w)."""
    if features.ndim != 4 or features.shape[1] != channels:
        raise ShapeError(f"{name} want features (B, {channels}, h, w), got {tuple(features.shape)}")


def check_grid(label: Tensor, features: Tensor, name: str = "features") -> None:
    """Raise ShapeError unless a label is (B, h, w) on the grid of features (B, D, h, w).

    `name` is how the message calls what has the grid.
    """
    if label.shape != (features.shape[0], *features.shape[2:]):
        raise ShapeError(
            f"label {tuple(label.shape)} is not on the grid of {name} {tuple(features.shape)}; "
            f"use adaptation.downsample(label, {name}.shape[2:])"
        )


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert a tensor of any floating type to float32; float32 and float64 stay as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast, which would make matrix products bfloat16, off on the tensor's device."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes; it is not changed itself."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total
