"""Decoders: a backbone's maps to the D-channel features that the classifier and the anchors see."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv_norm_relu(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling with an image-level branch.

    Source: Chen et al., *Encoder-Decoder with Atrous Separable Convolution* (DeepLab v3+), 2018,
    with
    dense convolutions, dilations 1, 6, 12, 18 at output stride 16, 5 × 256 → 256 and dropout 0.5,
    as
    the released CAG-UDA code has it.
    """

    def __init__(self, inputs: int, outputs: int, output_stride: int) -> None:
        super().__init__()
        rates = [max(1, rate * 16 // output_stride) for rate in (6, 12, 18)]
        self.branches = nn.ModuleList(
            [_conv_norm_relu(inputs, outputs)]
            + [_conv_norm_relu(inputs, outputs, 3, rate) for rate in rates]
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), _conv_norm_relu(inputs, outputs))
        self.project = nn.Sequential(
            _conv_norm_relu(outputs * (len(rates) + 2), outputs), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, outputs, h, w)."""
        context = self.pooled(x).expand(-1, -1, *x.shape[-2:])
        branches = [branch(x) for branch in self.branches]
        projected: Tensor = self.project(torch.cat([*branches, context], dim=1))
        return projected


class DeepLabV3Plus(nn.Module):
    """The decoder of the released CAG-UDA code: ASPP, then a refinement with stride-4 details.

    `feature_channels` is 256 at stride 4; the dropout of 0.1 before the classifier stands in
    `Segmenter`, so that anchors never see its noise.

    Source: METHOD "network": low-level → 48, concatenated to 304 → 3×3 256, dropout 0.5, 3×3 256.
    """

    feature_channels = 256
    dropout = 0.1
    needs_two_per_batch = True

    def __init__(self, channels: Sequence[int], output_stride: int) -> None:
        super().__init__()
        self.aspp = ASPP(channels[-1], 256, output_stride)
        self.details = _conv_norm_relu(channels[0], 48)
        self.refine = nn.Sequential(
            _conv_norm_relu(304, 256, 3), nn.Dropout(0.5), _conv_norm_relu(256, 256, 3)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps (B, C_i, h_i, w_i), finest first, to features (B, 256, h, w) at stride 4."""
        details = self.details(maps[0])
        context = _resize(self.aspp(maps[-1]), details)
        features: Tensor = self.refine(torch.cat([context, details], dim=1))
        return features


class LightDecoder(nn.Module):
    """A small decoder for small machines: all levels projected to stride 4 and mixed once.

    Source: the fusion of SegFormer's all-MLP head (Xie et al., 2021), with one 3×3 convolution at
    the end in place of a 1×1, and an image-level branch as in ASPP.
    """

    feature_channels = 128
    dropout = 0.1
    needs_two_per_batch = True
    _level_channels = 48

    def __init__(self, channels: Sequence[int], output_stride: int) -> None:
        super().__init__()
        width = self._level_channels
        self.levels = nn.ModuleList([_conv_norm_relu(count, width) for count in channels])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), _conv_norm_relu(channels[-1], width))
        self.mix = _conv_norm_relu(width * (len(channels) + 1), self.feature_channels, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps (B, C_i, h_i, w_i), finest first, to features (B, 128, h, w) at stride 4."""
        finest = self.levels[0](maps[0])
        coarser = [
            _resize(level(x), finest) for level, x in zip(self.levels[1:], maps[1:], strict=True)
        ]
        context = self.pooled(maps[-1]).expand(-1, -1, *finest.shape[-2:])
        features: Tensor = self.mix(torch.cat([finest, *coarser, context], dim=1))
        return features


DECODERS: dict[str, type[DeepLabV3Plus] | type[LightDecoder]] = {
    "deeplab-v3plus": DeepLabV3Plus,
    "light": LightDecoder,
}
"""Every decoder by the name that recipes use. A new one is one row here."""
