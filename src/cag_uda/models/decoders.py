"""Decoders: a backbone's maps to the D-channel features that the classifier and the anchors see."""

from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cag_uda.models.backbone import middle_maps
from cag_uda.models.inference import upsample
from cag_uda.models.windows import Window


def _conv_norm_relu(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Decoder(nn.Module):
    """Base of the decoders: a backbone's maps to features, with the classifier on top of them."""

    feature_channels: int
    """Number D of channels of the features."""
    stride: float
    """Image pixels per cell of the features."""
    dropout: float
    """Dropout probability at the classifier's input, in training; features are taken before it."""
    align_corners: ClassVar[bool] = True
    """True to resize coarse maps to the finest with the centres of corner cells aligned, as
    `align_corners` of torch's `interpolate`; False to align the outer edges."""
    window: Window | None = None
    """Place in a larger image of the window that is decoded; None for a whole image."""

    def resized(self, x: Tensor, like: Tensor, strides: tuple[float, float]) -> Tensor:
        """Resize a map (B, C, h, w) to the grid of another one; strides of both in pixels."""
        if self.window is not None and self.align_corners:
            return self.window.resized(x, like, strides)
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=self.align_corners)

    def on_finest(self, levels: Sequence[Tensor], strides: Sequence[float]) -> list[Tensor]:
        """Resize maps (B, C_i, h_i, w_i), finest first, to (B, C_i, h, w) on the finest's grid."""
        (finest, own), *coarser = zip(levels, strides, strict=True)
        return [finest, *(self.resized(x, finest, (stride, own)) for x, stride in coarser)]

    def classifier(self, num_classes: int) -> nn.Module:
        """Make a classifier (B, D, h, w) to (B, K, h, w), new and with random weights."""
        return nn.Conv2d(self.feature_channels, num_classes, 1)


class SkipScores(nn.Module):
    """Logits that are linear in a backbone's middle maps, to be added to a decoder's.

    They begin at 0. Source: the skip layers of Long et al., *Fully Convolutional Networks for
    Semantic Segmentation*, CVPR 2015.
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        of_maps = [nn.Conv2d(count, num_classes, 1, bias=False) for count in middle_maps(channels)]
        self.of_maps = nn.ModuleList(of_maps)
        for each in self.parameters():
            nn.init.zeros_(each)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Score maps (B, C_i, h_i, w_i), finest first, on a grid of a size (h, w): (B, K, h, w)."""
        scores = [score(x) for score, x in zip(self.of_maps, middle_maps(maps), strict=True)]
        return torch.stack([upsample(each, size) for each in scores]).sum(dim=0)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling with an image-level branch.

    Source: Chen et al., *Encoder-Decoder with Atrous Separable Convolution* (DeepLab v3+), 2018,
    with dense convolutions, dilations 1, 6, 12, 18 at output stride 16, 5 × 256 → 256 and dropout
    0.5, as the released CAG-UDA code has it.
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
        """Map (B, C, h, w) to (B, outputs, h, w)."""
        context = self.pooled(x).expand(-1, -1, *x.shape[-2:])
        branches = [branch(x) for branch in self.branches]
        return cast(Tensor, self.project(torch.cat([*branches, context], dim=1)))


class DeepLabV3Plus(Decoder):
    """The decoder of the released CAG-UDA code: ASPP, then a refinement with stride-4 details.

    `feature_channels` is 256 at stride 4; the dropout of 0.1 before the classifier stands in
    `Segmenter`, so that anchors never see its noise.

    Source: the released code: low-level → 48, concatenated to 304 → 3×3 256, dropout 0.5, 3×3 256.
    """

    feature_channels = 256
    dropout = 0.1

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.stride, self._strides = strides[0], (strides[-1], strides[0])
        self.aspp = ASPP(channels[-1], 256, strides[-1])
        self.details = _conv_norm_relu(channels[0], 48)
        self.refine = nn.Sequential(
            _conv_norm_relu(304, 256, 3), nn.Dropout(0.5), _conv_norm_relu(256, 256, 3)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn maps (B, C_i, h_i, w_i), finest first, into features (B, 256, h, w) at stride 4."""
        details = self.details(maps[0])
        context = self.resized(self.aspp(maps[-1]), details, self._strides)
        return cast(Tensor, self.refine(torch.cat([context, details], dim=1)))


class DeepLabV3(Decoder):
    """DeepLab v3: ASPP on the last map, and a 3×3 convolution; no details.

    Source: Chen et al., *Rethinking Atrous Convolution for Semantic Image Segmentation*, 2017, as
    torchvision (models/segmentation/deeplabv3.py) and segmentation_models_pytorch have it.
    """

    feature_channels = 256
    dropout = 0.0

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.stride = strides[-1]
        self.aspp = ASPP(channels[-1], 256, strides[-1])
        self.refine = _conv_norm_relu(256, 256, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn maps (B, C_i, h_i, w_i), finest first, into features (B, 256, h, w) of the last."""
        return cast(Tensor, self.refine(self.aspp(maps[-1])))


class FCN(Decoder):
    """A 3×3 convolution on the last map, to a quarter of its channels.

    Source: Long et al., *Fully Convolutional Networks for Semantic Segmentation*, CVPR 2015, as
    torchvision has it on a dilated ResNet (models/segmentation/fcn.py).
    """

    dropout = 0.1

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.stride = strides[-1]
        self.feature_channels = channels[-1] // 4
        self.refine = _conv_norm_relu(channels[-1], self.feature_channels, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn maps (B, C_i, h_i, w_i), finest first, into features (B, C_4 / 4, h, w)."""
        return cast(Tensor, self.refine(maps[-1]))


class LightDecoder(Decoder):
    """A small decoder for small machines: all levels projected to stride 4 and mixed once.

    Source: the fusion of SegFormer's all-MLP head (Xie et al., 2021), with one 3×3 convolution at
    the end in place of a 1×1, and an image-level branch as in ASPP.
    """

    feature_channels = 128
    dropout = 0.1
    _level_channels = 48

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.stride, self._strides = strides[0], tuple(strides)
        width = self._level_channels
        self.levels = nn.ModuleList([_conv_norm_relu(count, width) for count in channels])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), _conv_norm_relu(channels[-1], width))
        self.mix = _conv_norm_relu(width * (len(channels) + 1), self.feature_channels, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn maps (B, C_i, h_i, w_i), finest first, into features (B, 128, h, w) at stride 4."""
        levels = [level(x) for level, x in zip(self.levels, maps, strict=True)]
        context = self.pooled(maps[-1]).expand(-1, -1, *levels[0].shape[-2:])
        side_by_side = [*self.on_finest(levels, self._strides), context]
        return cast(Tensor, self.mix(torch.cat(side_by_side, dim=1)))


class SegFormerDecoder(Decoder):
    """SegFormer's decoder: all levels projected, side by side, and mixed cell by cell.

    Source: Xie et al., *SegFormer*, NeurIPS 2021, the all-MLP decoder, with the 256 channels of its
    B0 and B1.
    """

    feature_channels: int = 256
    dropout = 0.1

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.stride, self._strides = strides[0], tuple(strides)
        width = self.feature_channels
        self.levels = nn.ModuleList([self.level(count) for count in channels])
        self.mix = _conv_norm_relu(width * len(channels), width)

    def level(self, inputs: int) -> nn.Module:
        """Make the projection of a map of so many channels."""
        return nn.Conv2d(inputs, self.feature_channels, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn maps (B, C_i, h_i, w_i), finest first, into features (B, D, h, w) on its grid."""
        levels = [level(x) for level, x in zip(self.levels, maps, strict=True)]
        return cast(Tensor, self.mix(torch.cat(self.on_finest(levels, self._strides), dim=1)))


class PublishedSegFormer(SegFormerDecoder):
    """The decoder that published weights of SegFormer-B0 and B1 are of.

    Source: Xie et al., *SegFormer*, NeurIPS 2021, and its released code (segformer_head.py):
    levels are resized with their edges on each other. That of transformers is the same.
    """

    align_corners = False


class PublishedWideSegFormer(PublishedSegFormer):
    """The decoder that published weights of SegFormer-B2 to B5 are of: 768 channels."""

    feature_channels = 768


class MMSegFormer(PublishedSegFormer):
    """SegFormer's decoder as mmsegmentation has it: each projection with norm and ReLU.

    Source: mmsegmentation, mmseg/models/decode_heads/segformer_head.py; 256 channels for all sizes.
    """

    def level(self, inputs: int) -> nn.Module:
        """Make the projection of a map of so many channels."""
        return _conv_norm_relu(inputs, self.feature_channels)


class AtrousClassifier(nn.Module):
    """DeepLab v2's classifier: 3×3 convolutions of several dilations on the same map, summed.

    Source: Chen et al., *DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous
    Convolution, and Fully Connected CRFs* (DeepLab v2), 2017; weights start from a normal
    distribution of deviation 0.01 as in AdaptSegNet.
    """

    def __init__(self, inputs: int, num_classes: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.Conv2d(inputs, num_classes, 3, padding=rate, dilation=rate) for rate in dilations]
        )
        for branch in self.branches:
            nn.init.normal_(cast(Tensor, branch.weight), std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to logits (B, K, h, w)."""
        logits: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            logits = logits + branch(x)
        return logits


class DeepLabV2(Decoder):
    """DeepLab v2 as domain adaptation uses it: nothing between the backbone and its classifier.

    The features, which anchors are made of, are what enters the last classifier layer: here the
    backbone's last map itself, of 2048 channels with ResNet-50 and 101, at its output stride
    (8 as published).

    Source: Tsai et al., *AdaptSegNet*, CVPR 2018; Vu et al., *ADVENT*, CVPR 2019.
    """

    dropout = 0.0
    dilations: ClassVar[tuple[int, ...]] = (6, 12, 18, 24)

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.stride = strides[-1]
        self.feature_channels = channels[-1]

    def classifier(self, num_classes: int) -> nn.Module:
        """Sum dilated convolutions of the features."""
        return AtrousClassifier(self.feature_channels, num_classes, self.dilations)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn maps (B, C_i, h_i, w_i), finest first, into the last of them."""
        return maps[-1]


class DeepLabV2OfAdaptSegNet(DeepLabV2):
    """DeepLab v2 with the classifier that AdaptSegNet's released weights depend on.

    Of the dilations 6, 12, 18 and 24 its code sums the first two alone: it returns from inside the
    loop.

    Source: released code of AdaptSegNet, model/deeplab_multi.py, Classifier_Module.forward.
    """

    dilations = (6, 12)


class DAFormerDecoder(Decoder):
    """DAFormer's decoder: all levels side by side, fused by separable convolutions of context.

    A plain ViT has maps of one stride. Each is first brought to a level of its own: a quarter of
    the stride, a half, the same, and twice.

    Source: Hoyer et al., *DAFormer*, CVPR 2022, section 3.2 and its released code: levels of 256
    channels, depthwise separable ASPP of dilations 1, 6, 12 and 18 without an image-level branch.
    The levels of a plain ViT are those of Li et al., *Exploring Plain Vision Transformer Backbones
    for Object Detection* (ViTDet), ECCV 2022, after the projection in place of before it.
    """

    feature_channels = 256
    dropout = 0.1
    rates: ClassVar[tuple[int, ...]] = (1, 6, 12, 18)

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        width = self.feature_channels
        is_plain = len(set(strides)) == 1
        factors = (1 / 4, 1 / 2, 1, 2) if is_plain else (1, 1, 1, 1)
        self._strides = [stride * factor for stride, factor in zip(strides, factors, strict=True)]
        self.stride = self._strides[0]
        steps = [_up(width, 2), _up(width, 1), nn.Identity(), _down(width)]
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(count, width, 1), step if is_plain else nn.Identity())
            for count, step in zip(channels, steps, strict=True)
        )
        inputs = width * len(channels)
        self.context = nn.ModuleList(
            _conv_norm_relu(inputs, width) if rate == 1 else _separable(inputs, width, rate)
            for rate in self.rates
        )
        self.fuse = _conv_norm_relu(width * len(self.rates), width, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn maps (B, C_i, h_i, w_i), finest first, into features (B, 256, h, w).

        Their stride is that of the finest map, or a quarter of it where all maps have one stride.
        """
        levels = [level(x) for level, x in zip(self.levels, maps, strict=True)]
        stacked = torch.cat(self.on_finest(levels, self._strides), dim=1)
        return cast(Tensor, self.fuse(torch.cat([each(stacked) for each in self.context], 1)))


class PublishedDAFormer(DAFormerDecoder):
    """The decoder that the released weights of DAFormer, and of MIC on it, are of.

    Source: released code of DAFormer, mmseg/models/decode_heads/daformer_head.py, whose settings
    resize levels with their edges on each other.
    """

    align_corners = False


def _separable(inputs: int, outputs: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False
        ),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        *_conv_norm_relu(inputs, outputs),
    )


def _up(channels: int, times: int) -> nn.Sequential:
    """Double height and width, so many times."""
    doubled = [
        (nn.ConvTranspose2d(channels, channels, 2, 2), nn.BatchNorm2d(channels), nn.ReLU())
        for _ in range(times)
    ]
    return nn.Sequential(*(layer for layers in doubled for layer in layers))


def _down(channels: int) -> nn.Sequential:
    """Halve height and width."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
    )


DECODERS: dict[str, Callable[[Sequence[int], Sequence[int]], Decoder]] = {
    "deeplab-v3plus": DeepLabV3Plus,
    "deeplab-v3": DeepLabV3,
    "deeplab-v2": DeepLabV2,
    "deeplab-v2-adaptsegnet": DeepLabV2OfAdaptSegNet,
    "fcn": FCN,
    "light": LightDecoder,
    "segformer": SegFormerDecoder,
    "daformer": DAFormerDecoder,
    # What published weights are of, for `cag-uda import`.
    "segformer-published": PublishedSegFormer,
    "segformer-published-768": PublishedWideSegFormer,
    "segformer-mmseg": MMSegFormer,
    "daformer-published": PublishedDAFormer,
}
"""Every decoder by the name that recipes use; each is built of the channels and strides of a
backbone's maps. A new one is one row here."""
