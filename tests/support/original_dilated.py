"""DeepLab v3 and FCN of torchvision and segmentation_models_pytorch in plain torch, by their names.

Written from the architectures' descriptions: what imported weights must compute is measured
against these.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.original_networks import stage
from tests.support.tiny_resnets import TINY

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dilated(nn.Module):
    """A ResNet at stride 8; in torchvision, dilation begins with a stage's second block."""

    def __init__(self, begins_late: bool) -> None:
        super().__init__()
        stem, width, depths = TINY["stem"], TINY["width"], TINY["depths"]
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = stage(stem, width, 1, [1] * depths[0])
        self.layer2 = stage(width * 4, width * 2, 2, [1] * depths[1])
        first, second = ([1], [2]) if begins_late else ([2], [4])
        self.layer3 = stage(width * 8, width * 4, 1, first + [2] * (depths[2] - 1))
        self.layer4 = stage(width * 16, width * 8, 1, second + [4] * (depths[3] - 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return out


def _branch(inputs: int, rate: int) -> nn.Sequential:
    kernel, padding = (1, 0) if rate == 1 else (3, rate)
    return nn.Sequential(
        nn.Conv2d(inputs, 256, kernel, padding=padding, dilation=rate, bias=False),
        nn.BatchNorm2d(256),
        nn.ReLU(),
    )


class ASPP(nn.Module):
    """Rates 12, 24 and 36 and the image's mean; 5 × 256 to 256."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_branch(inputs, 1))
        self.convs = nn.ModuleList([*(_branch(inputs, rate) for rate in (1, 12, 24, 36)), pooled])
        self.project = nn.Sequential(*_branch(1280, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        *local, pooled = (each(x) for each in self.convs)
        mean = F.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=False)
        out: Tensor = self.project(torch.cat([*local, mean], dim=1))
        return out


def _v3_head(inputs: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        ASPP(inputs),
        nn.Conv2d(256, 256, 3, padding=1, bias=False),
        nn.BatchNorm2d(256),
        nn.ReLU(),
        nn.Conv2d(256, num_classes, 1),
    )


def _fcn_head(inputs: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs // 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(inputs // 4),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(inputs // 4, num_classes, 1),
    )


class Torchvision(nn.Module):
    """A backbone, a classifier and, for training, a second one."""

    def __init__(self, form: str, num_classes: int) -> None:
        super().__init__()
        width = TINY["width"]
        self.backbone = Dilated(begins_late=True)
        head = _v3_head if form == "deeplab-v3" else _fcn_head
        self.classifier = head(width * 32, num_classes)
        self.aux_classifier = _fcn_head(width * 16, num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of RGB images in [0, 1]."""
        features = self.classifier[:4](self.backbone(_normalised(image)))
        return features, self.classifier[4:](features)


class _NewDecoder(nn.Module):
    """As later versions of segmentation_models_pytorch name its parts."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.aspp = ASPP(inputs)
        self.conv = nn.Conv2d(256, 256, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(256)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(self.aspp(x))))


class Smp(nn.Module):
    """DeepLab v3 of segmentation_models_pytorch."""

    def __init__(self, is_new: bool, num_classes: int) -> None:
        super().__init__()
        inputs = TINY["width"] * 32
        self.encoder = Dilated(begins_late=False)
        self.decoder = _NewDecoder(inputs) if is_new else _v3_head(inputs, 1)[:4]
        self.segmentation_head = nn.Sequential(nn.Conv2d(256, num_classes, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of RGB images in [0, 1]."""
        features = self.decoder(self.encoder(_normalised(image)))
        return features, self.segmentation_head(features)


def _normalised(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    return (image - mean) / std
