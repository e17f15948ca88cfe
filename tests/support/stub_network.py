"""A network that notes its calls, and pictures for it."""

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cag_uda.models.windows import Window
from cag_uda.types import Prediction

Image = npt.NDArray[np.uint8]


CLASSES = 5


class Stub(nn.Module):
    """Stride-2 random convolution; notes the shape, type and mode of every call."""

    grid_px = 2

    def __init__(self, input_width_px: int | None = None, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.config = SimpleNamespace(input_width_px=input_width_px, align_corners=False)
        generator = torch.Generator().manual_seed(0)
        self.encoder = nn.Conv2d(3, num_classes, 3, stride=2, padding=1)
        self.frozen_norm = nn.BatchNorm2d(num_classes)
        for parameter in self.encoder.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.calls: list[tuple[tuple[int, ...], bool, bool]] = []

    def in_window(self, window: Window) -> AbstractContextManager[None]:
        return nullcontext()

    def forward(self, image: Tensor) -> Prediction:
        assert image.dtype == torch.float32
        assert image.min() >= 0
        assert image.max() <= 1 + 1e-6
        self.calls.append((tuple(image.shape), self.training, torch.is_inference_mode_enabled()))
        features = self.encoder(image)
        return Prediction(features, self.frozen_norm(features))


def stub_network(input_width_px: int | None = None, num_classes: int = CLASSES) -> Any:
    """Make a stub, for mypy of any type: it stands for a `Segmenter`."""
    return Stub(input_width_px, num_classes)


def picture(height: int, width: int, seed: int = 0) -> Image:
    coarse = np.random.default_rng(seed).integers(
        0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8
    )
    return coarse.repeat(4, 0).repeat(4, 1)[:height, :width].copy()
