"""Names of a ResNet's tensors: torchvision's layout, which most checkpoints have, to transformers'.

Knows names alone.
"""

import re
from collections.abc import Iterable

_STEM = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
_PARTS = {"conv": "convolution", "bn": "normalization"}
_SHORTCUT = {"0": "convolution", "1": "normalization"}


def transformers_name(name: str) -> str | None:
    """What a tensor of a ResNet is called in `transformers.ResNetBackbone`.

    Args:
        name: in torchvision's layout (`layer1.0.conv1.weight`) or in that of transformers
            (`resnet.encoder.stages.0…`, `encoder.stages.0…`).

    Returns:
        The name (`encoder.stages.0.layers.0.layer.0.convolution.weight`), or None for a tensor
        that is no part of a backbone, such as the classifier of ImageNet.
    """
    module, _, leaf = name.removeprefix("resnet.").rpartition(".")
    if module.startswith(("embedder.", "encoder.")):
        return f"{module}.{leaf}"
    if module in _STEM:
        return f"{_STEM[module]}.{leaf}"
    if found := re.fullmatch(r"layer([1-4])\.(\d+)\.(conv|bn)([1-3])", module):
        stage, block, part, number = found.groups()
        layer = f"layer.{int(number) - 1}.{_PARTS[part]}"
    elif found := re.fullmatch(r"layer([1-4])\.(\d+)\.downsample\.([01])", module):
        stage, block, number = found.groups()
        layer = f"shortcut.{_SHORTCUT[number]}"
    else:
        return None
    return f"encoder.stages.{int(stage) - 1}.layers.{block}.{layer}.{leaf}"


def resnet_depths(names: Iterable[str]) -> list[int]:
    """Numbers of blocks in the four stages, told from names in torchvision's layout."""
    blocks: list[set[str]] = [set(), set(), set(), set()]
    for name in names:
        if found := re.match(r"layer([1-4])\.(\d+)\.", name):
            blocks[int(found[1]) - 1].add(found[2])
    return [len(stage) for stage in blocks]
