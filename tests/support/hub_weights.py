"""Files of weights as the hub has them."""

from pathlib import Path

from safetensors.torch import save_file

from cag_uda.models.backbones import build_backbone

_PREFIXES = {"resnet": "resnet.", "mit": "segformer."}
"""How the names of tensors on the hub begin, by family of backbones."""


def write_weights(folder: Path, backbone: str) -> Path:
    """Write a backbone's file with random weights; returns its path."""
    path = folder / f"{backbone}.safetensors"
    tensors = build_backbone(backbone, None, 16).state_dict()
    prefix = _PREFIXES[backbone.partition("-")[0]]
    save_file({key.replace("network.", prefix, 1): each for key, each in tensors.items()}, path)
    return path
