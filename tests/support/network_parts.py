"""Parts of networks by name, with the types that tests look at."""

from pathlib import Path
from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel

from cag_uda.models.backbone import Backbone
from cag_uda.models.segmenter import Segmenter

Part = TypeVar("Part", bound=nn.Module)


def part(network: nn.Module, name: str, kind: type[Part]) -> Part:
    """The module of a dotted name below a network, which is of a kind."""
    found = network.get_submodule(name)
    assert isinstance(found, kind), f"{name} is a {type(found).__name__}"
    return found


def stem(segmenter: Segmenter) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """The first convolution of a segmenter's ResNet, and the batch norm after it."""
    embedder = segmenter.backbone.network.get_submodule("embedder.embedder")
    convolution = part(embedder, "convolution", nn.Conv2d)
    return convolution, part(embedder, "normalization", nn.BatchNorm2d)


def publish(backbone: Backbone, folder: Path) -> None:
    """Write a backbone's weights in the layout of transformers, as the hub gives them."""
    assert isinstance(backbone.network, PreTrainedModel)
    backbone.network.save_pretrained(folder)
