"""The fully convolutional domain discriminator of output-space adversarial alignment."""

from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from cag_uda.models.segmenter import Segmenter


class Discriminator(nn.Module):
    """Tells from an output (its softmax, say) whether a segmenter saw a source or a target image.

    Five convolutions of kernel 4, stride 2, padding 1, with 64-128-256-512-1 channels and leaky
    ReLU 0.2 between. Maps of at least 32×32 cells give a score; smaller ones are padded by the
    caller.

    Args:
        num_classes: K, channels of the map.
        channels: width of the first layer; 64 as published.

    Source: Tsai et al., *Learning to Adapt Structured Output Space* (AdaptSegNet), CVPR 2018.
    """

    def __init__(self, num_classes: int, channels: int = 64) -> None:
        super().__init__()
        widths = [num_classes, channels, channels * 2, channels * 4, channels * 8]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 2, 1))

    @classmethod
    def of(cls, segmenter: Segmenter, channels: int | None) -> "Discriminator":
        """Make a discriminator of a network's outputs.

        Without `channels` its first layer has the published 64, or a quarter of the segmenter's
        feature channels where these are fewer than 256: on a small network the published one costs
        several times what the segmenter does.
        """
        if channels is None:
            channels = max(1, min(64, segmenter.feature_channels // 4))
        return cls(segmenter.num_classes, channels)

    def forward(self, evidence: Tensor) -> Tensor:
        """Map evidence (B, K, H, W) of an output to scores (B, 1, H/32, W/32): high is target."""
        return cast(Tensor, self.layers(evidence))

    def frozen(self, evidence: Tensor) -> Tensor:
        """Score as `forward`, with gradients that reach the evidence but not these weights.

        For the loss by which a segmenter learns to fool it.
        """
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        score = self(evidence)
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        return cast(Tensor, score)
