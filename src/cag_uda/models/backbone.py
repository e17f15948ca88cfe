"""The interface of backbones: pixels to feature maps at several strides, finest first."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from cag_uda.errors import ModelError

T = TypeVar("T")


class Backbone(nn.Module, ABC):
    """A network of transformers as the segmenter wants it: images of any size to several maps.

    Args of every family:
        config: the row of `BACKBONES`, as keywords of the family's configuration in transformers.
        weights: hub id, local folder or local file of published weights, or None for random ones.
        output_stride: image pixels per cell of the last map, 8, 16 or 32; without effect where the
            family has strides of its own.
        multi_grid: a factor of the dilation for each block of the last stage; None is 1 for each,
            and all that a family without dilation takes.

    Raises:
        ModelError: if the weights cannot be found or read, or the multi-grid does not fit.
    """

    network: nn.Module
    channels: tuple[int, ...]
    """Number of channels of each map, the finest map first."""
    strides: tuple[int, ...]
    """Image pixels per cell of each map."""
    multiple: ClassVar[int] = 1
    """Heights and widths in pixels that the network takes are multiples of this."""
    blocks: ClassVar[tuple[type[nn.Module], ...]]
    """The modules that make up its depth."""
    origin: str = ""
    """One line on which published weights it has; empty for random ones."""

    @abstractmethod
    def maps(self, image: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W) of a size that the network takes to its (B, C_i, h_i, w_i)."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, H, W) of any size to (B, C_i, h_i, w_i), finest first.

        Where the network takes multiples of some pixels alone, the last row and column are repeated
        below and to the right; the maps are then of the enlarged image.
        """
        if self.multiple > 1:
            below, right = (
                multiples(side, self.multiple) * self.multiple - side for side in image.shape[-2:]
            )
            # By nothing too: an exported graph serves sizes that fit and sizes that do not.
            image = F.pad(image, (0, right, 0, below), mode="replicate")
        return self.maps(image)

    def layers(self) -> list[list[nn.Parameter]]:
        """List parameters by depth: what precedes the first block, then one list a block.

        What stands between two blocks, or behind the last, goes with the block before it.
        """
        blocks = [module for module in self.network.modules() if isinstance(module, self.blocks)]
        place = {
            id(parameter): number
            for number, block in enumerate(blocks, start=1)
            for parameter in block.parameters()
        }
        layers: list[list[nn.Parameter]] = [[] for _ in range(len(blocks) + 1)]
        number = 0
        for parameter in self.network.parameters():
            number = place.get(id(parameter), number)
            layers[number].append(parameter)
        return layers


def middle_maps(maps: Sequence[T]) -> Sequence[T]:
    """Choose of a backbone's maps, or their channels, all but the finest and the coarsest.

    All, where there are no more than two.
    """
    return maps[1:-1] or maps


def multiples(side_px: int, multiple: int) -> int:
    """Count the multiples of some pixels in a side that is enlarged to whole ones.

    Exported graphs know sizes as formulas of the image's: in this form those of enlarged sides,
    and whatever divides them, simplify.
    """
    return (side_px + multiple - 1) // multiple


def refuse_multi_grid(family: str, multi_grid: object) -> None:
    """Raise ModelError if a network that has no dilation is to have a multi-grid."""
    if multi_grid is not None:
        raise ModelError(
            f"segmenter.multi_grid dilates the last stage of a ResNet, and {family} has no "
            "dilation; leave it out"
        )
