"""Published backbone weights: by hub id, or from a local folder or file.

Knows where weights lie and in which layouts; what is built of them is in `backbones`.
"""

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from torch import nn

from cag_uda.errors import ModelError
from cag_uda.models.resnet_names import transformers_name
from cag_uda.models.weight_files import TORCH_SUFFIXES, fill, read_tensors

_FILES = ("model.safetensors", "pytorch_model.bin")
_HEADS = ("fc.", "classifier.")
"""Classifiers of ImageNet in torchvision's and in transformers' layout."""


def load_published(network: nn.Module, weights: str) -> str:
    """Give a `transformers.ResNetBackbone` its published weights, in place.

    Args:
        network: the backbone.
        weights: a file (safetensors or torch, in torchvision's layout or in that of
            transformers), a folder that holds one, or a hub id.

    Returns:
        One line on what was placed and what was left out: nothing but ImageNet's classifier.

    Raises:
        ModelError: if they cannot be found or read, or any tensor has no place.
    """
    path = _locate(weights)
    placed, left_out = {}, []
    for name, tensor in read_tensors(path).items():
        known = transformers_name(name)
        if known is None and name.startswith(_HEADS):
            left_out.append(name)
        else:
            placed[known or name] = tensor
    fill(network, placed, str(path))
    rest = f"; left out {', '.join(left_out)}" if left_out else ""
    return f"backbone: {len(placed)} tensors of {weights} placed{rest}"


def _locate(weights: str) -> Path:
    path = Path(weights)
    if path.is_file():
        return path
    if path.is_dir():
        for name in _FILES:
            if (path / name).is_file():
                return path / name
        raise ModelError(f"no backbone weights in the folder {weights}: want {' or '.join(_FILES)}")
    is_file_name = path.suffix in (".safetensors", *TORCH_SUFFIXES)
    if weights.count("/") != 1 or path.is_absolute() or is_file_name:
        raise ModelError(
            f"no backbone weights at {weights}: give a file or folder that exists, a hub id of the "
            'form owner/name, "imagenet", or leave `segmenter.weights` out for random weights'
        )
    return _fetched(weights)


def _fetched(hub_id: str) -> Path:
    try:
        try:
            return Path(hf_hub_download(hub_id, _FILES[0]))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # The hub could not be asked.
                raise
            return Path(hf_hub_download(hub_id, _FILES[1]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"cannot fetch backbone weights {hub_id!r}: {reason}") from error
