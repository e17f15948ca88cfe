"""Arrays of single images as batches of tensors: 8 bits as long as possible, then on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cag_uda.data.files.resizing import Image
from cag_uda.types import Batch, Labelled, Unlabelled


def stack_images(images: Sequence[Image]) -> Tensor:
    """Stack (H, W, 3) images to (B, 3, H, W) uint8, channels last in memory."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def stack_labels(labels: Sequence[Image]) -> Tensor:
    """Stack (H, W) label maps to (B, H, W) uint8."""
    return torch.from_numpy(np.stack(labels))


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch of 8-bit tensors and give it the types that `Batch` documents."""
    labelled = None if batch.labelled is None else labelled_on(batch.labelled, device)
    return Batch(labelled_on(batch.source, device), unlabelled_on(batch.target, device), labelled)


def labelled_on(batch: Labelled, device: torch.device) -> Labelled:
    """Move a labelled part of a batch; see `on_device`."""
    label = batch.label.to(device, non_blocking=True).long()
    return Labelled(_floats_on(batch.image, device), label)


def unlabelled_on(batch: Unlabelled, device: torch.device) -> Unlabelled:
    """Move the target's part of a batch; see `on_device`."""
    image = _floats_on(batch.image, device)
    if batch.plain is batch.image:
        return Unlabelled(image, image)
    return Unlabelled(image, _floats_on(batch.plain, device))


def _floats_on(image: Tensor, device: torch.device) -> Tensor:
    return image.to(device, non_blocking=True).float().div_(255)
