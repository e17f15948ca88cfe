"""Category anchors on disk: this package's safetensors, and the files of the released code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.errors import ModelError
from cag_uda.files import is_sound, write_with
from cag_uda.models.weight_files import read_torch_file

ANCHORS = "anchors.safetensors"
"""The file's name in the folder of a stage or of an imported model."""


def save_anchors(path: Path, anchors: CategoryAnchors) -> None:
    """Write `vectors` (K, D) float32 and `counts` (K,) int64; raises RunError as `whole_file`."""
    tensors = {"vectors": anchors.vectors, "counts": anchors.counts}
    on_host = {name: value.cpu().contiguous() for name, value in tensors.items()}
    write_with(path, lambda temporary: save_file(on_host, temporary), sealed=True)


def load_anchors(path: Path) -> CategoryAnchors:
    """Read what `save_anchors` wrote. Raises ModelError if it is missing, damaged or not finite."""
    mend = "restore it, or make the anchors anew by its stage or by `pseudo-label --source`"
    if path.exists() and is_sound(path) is False:
        raise ModelError(f"the anchors {path} are damaged: their checksum differs; {mend}")
    try:
        tensors = load_file(path)
        anchors = CategoryAnchors.from_vectors(tensors["vectors"], tensors["counts"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"cannot read the anchors {path}: {error}; {mend}") from error
    if not anchors.vectors[anchors.counts > 0].isfinite().all():
        raise ModelError(f"the anchors {path} hold values that are not finite; {mend}")
    return anchors


def read_released_anchors(path: Path, num_classes: int, feature_channels: int) -> CategoryAnchors:
    """Read an anchor file of the released CAG-UDA code, in either of its forms.

    Args:
        path: a `torch.save` of the dict `objective_vectors` and `objective_num`, as shipped, or of
            the bare array of vectors, as its anchor script writes it. A vector of zeros is a class
            never seen: the script starts from zeros.
        num_classes: K of the network that the anchors are for.
        feature_channels: D of it.

    Raises:
        ModelError: if it is missing, damaged, wants to run code, or is of another network.
    """
    content = read_torch_file(path)
    is_dict = isinstance(content, Mapping)
    vectors = _numbers(content.get("objective_vectors") if is_dict else content)
    if vectors is None or vectors.ndim != 2:
        raise ModelError(
            f"{path} holds no anchors: want a dict of objective_vectors and objective_num, or an "
            "array of one vector a class"
        )
    if vectors.shape != (num_classes, feature_channels):
        raise ModelError(
            f"{path} has {len(vectors)} anchors of {vectors.shape[1]} channels; the network has "
            f"{num_classes} classes and features of {feature_channels} channels; give the anchors "
            "that were made with it"
        )
    counts = _numbers(content.get("objective_num")) if is_dict else None
    if counts is None:
        counts = torch.ones(num_classes)
    if counts.shape != (num_classes,):
        raise ModelError(f"{path}: objective_num has the shape {tuple(counts.shape)}, not (K,)")
    seen = vectors.ne(0).any(dim=1) & vectors.isfinite().all(dim=1)
    return CategoryAnchors.from_vectors(vectors, torch.where(seen, counts.round().long(), 0))


def _numbers(value: Any) -> Tensor | None:
    """Convert numbers to a tensor of float64; None for anything else."""
    if isinstance(value, Tensor | np.ndarray):
        return torch.as_tensor(value).double()
    if isinstance(value, list | tuple) and all(isinstance(each, int | float) for each in value):
        return torch.tensor(value, dtype=torch.float64)
    return None
