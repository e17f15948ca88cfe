"""The networks of other people's released code, as METHOD descriptions give them, in plain torch.

Written from the architectures' descriptions alone, with the original names, and independent of the
package: what imported weights must compute is measured against these.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CAFFE_MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with a residual; the stride in the first or in the second convolution."""

    def __init__(
        self, inputs: int, width: int, stride: int, dilation: int, *, strides_first: bool
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if strides_first else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        if stride != 1 or inputs != width * 4:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, width * 4, 1, stride=stride, bias=False),
                nn.BatchNorm2d(width * 4),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (self.downsample(x) if hasattr(self, "downsample") else x))


def stage(
    inputs: int, width: int, stride: int, dilations: list[int], *, strides_first: bool = False
) -> nn.Sequential:
    """One block a dilation; the first strides."""
    blocks = []
    for index, dilation in enumerate(dilations):
        step = stride if index == 0 else 1
        blocks.append(Bottleneck(inputs, width, step, dilation, strides_first=strides_first))
        inputs = width * 4
    return nn.Sequential(*blocks)


class Backbone(nn.Module):
    """The ResNet of the released CAG-UDA code: output stride 16, multi-grid 1, 2, 4."""

    def __init__(self, stem: int, width: int, depths: list[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = stage(stem, width, 1, [1] * depths[0])
        self.layer2 = stage(width * 4, width * 2, 2, [1] * depths[1])
        self.layer3 = stage(width * 8, width * 4, 2, [1] * depths[2])
        self.layer4 = stage(width * 16, width * 8, 1, [2 * grid for grid in (1, 2, 4)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        low = self.layer1(x)
        return self.layer4(self.layer3(self.layer2(low))), low


class Branch(nn.Module):
    """One branch of the pyramid."""

    def __init__(self, inputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        padding = 0 if kernel == 1 else dilation
        self.atrous_conv = nn.Conv2d(inputs, 256, kernel, 1, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(256)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))


class Pyramid(nn.Module):
    """Dilations 1, 6, 12, 18 and the image's mean; 5 × 256 to 256."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.aspp1, self.aspp2 = Branch(inputs, 1, 1), Branch(inputs, 3, 6)
        self.aspp3, self.aspp4 = Branch(inputs, 3, 12), Branch(inputs, 3, 18)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Conv2d(inputs, 256, 1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
        )
        self.conv1 = nn.Conv2d(1280, 256, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(256)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.interpolate(
            self.global_avg_pool(x), size=x.shape[2:], mode="bilinear", align_corners=True
        )
        branches = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), pooled]
        out: Tensor = self.dropout(F.relu(self.bn1(self.conv1(torch.cat(branches, dim=1)))))
        return out


class Refinement(nn.Module):
    """The decoder: stride-4 details beside the pyramid's output."""

    def __init__(self, low: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(low, 48, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(48)
        self.last_conv = nn.Sequential(
            nn.Conv2d(304, 256, 3, 1, 1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(256, 256, 3, 1, 1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(256, num_classes, 1),
        )

    def forward(self, x: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        low = F.relu(self.bn1(self.conv1(low)))
        x = F.interpolate(x, size=low.shape[2:], mode="bilinear", align_corners=True)
        features = self.last_conv[:7](torch.cat((x, low), dim=1))
        return features, self.last_conv[7:](features)


class ReleasedCAG(nn.Module):
    """DeepLab v3+ of the released CAG-UDA code; takes RGB / 255."""

    def __init__(self, num_classes: int, stem: int, width: int, depths: list[int]) -> None:
        super().__init__()
        self.backbone = Backbone(stem, width, depths)
        self.aspp = Pyramid(width * 32)
        self.decoder = Refinement(width * 4, num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 256, h, w) and logits (B, K, h, w) of RGB images in [0, 1]."""
        x, low = self.backbone(image)
        features, logits = self.decoder(self.aspp(x), low)
        return features, logits


class SummedConvolutions(nn.Module):
    """DeepLab v2's classifier; `used` branches of the four are summed."""

    def __init__(self, inputs: int, num_classes: int, used: int) -> None:
        super().__init__()
        self.used = used
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(inputs, num_classes, 3, 1, rate, rate) for rate in (6, 12, 18, 24)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2d_list[0](x)
        for branch in self.conv2d_list[1 : self.used]:
            out = out + branch(x)
        return out


class ReleasedV2(nn.Module):
    """DeepLab v2 of AdaptSegNet (`used=2`), ADVENT and DACS (4); takes BGR 0 … 255 minus a mean."""

    def __init__(
        self, num_classes: int, stem: int, width: int, depths: list[int], *, used: int, levels: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        first = {"strides_first": True}
        self.layer1 = stage(stem, width, 1, [1] * depths[0], **first)
        self.layer2 = stage(width * 4, width * 2, 2, [1] * depths[1], **first)
        self.layer3 = stage(width * 8, width * 4, 1, [2] * depths[2], **first)
        self.layer4 = stage(width * 16, width * 8, 1, [4] * depths[3], **first)
        if levels == 2:
            self.layer5 = SummedConvolutions(width * 16, num_classes, used)
            self.layer6 = SummedConvolutions(width * 32, num_classes, used)
        else:
            self.layer5 = SummedConvolutions(width * 32, num_classes, used)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D, h, w) and logits (B, K, h, w) of RGB images in [0, 1]."""
        mean = torch.tensor(CAFFE_MEAN_BGR).view(1, 3, 1, 1)
        x = image.flip(1) * 255 - mean
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1, ceil_mode=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        head = self.layer6 if hasattr(self, "layer6") else self.layer5
        return x, head(x)


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight and every running statistic a random value; returns it in evaluation."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.get_buffer("running_mean"), std=0.1)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
            module.get_buffer("num_batches_tracked").fill_(7)
    return network.eval()
