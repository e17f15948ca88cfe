"""Read ResNets in torchvision's layout inside checkpoints of other people's code."""

from collections.abc import Mapping

from torch import Tensor

from cag_uda.models.backbones import find_resnet
from cag_uda.models.foreign.network import wanted
from cag_uda.models.published import resnet_depths, transformers_name
from cag_uda.models.resnet import ResNet


def resnet_row(state: Mapping[str, Tensor], kind: type[ResNet]) -> str:
    """Find the row of `BACKBONES` whose network has a ResNet's tensors.

    Args:
        state: tensors by their names in torchvision's layout, without a prefix.
        kind: its class, which decides strides and dilation: the weights do not tell them.

    Raises:
        ModelError: if there is none, or a tensor is missing.
    """
    depths = resnet_depths(state)
    is_bottleneck = any(".conv3." in name for name in state)
    last = "conv3" if is_bottleneck else "conv2"
    sizes = [wanted(state, f"layer{i}.0.{last}.weight").shape[0] for i in range(1, 5)]
    stem = wanted(state, "conv1.weight").shape[0]
    return find_resnet(depths, "bottleneck" if is_bottleneck else "basic", sizes, stem, kind)


def in_backbone(name: str, tensor: Tensor) -> dict[str, Tensor] | None:
    """Rename a tensor from torchvision's layout to a segmenter's; None if no backbone has it."""
    known = transformers_name(name)
    return None if known is None else {f"backbone.network.{known}": tensor}
