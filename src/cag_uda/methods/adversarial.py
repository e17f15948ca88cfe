"""Adversarial alignment of the output space at one level: the warm-up.

Source: Tsai et al., *Learning to Adapt Structured Output Space for Semantic Segmentation*
(AdaptSegNet), CVPR 2018, single level; at two levels it is `adaptsegnet`.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from cag_uda.adaptation.losses import adversarial
from cag_uda.methods.base import Method, MethodConfig
from cag_uda.methods.optim import OptimConfig, build_discriminator_optimizer
from cag_uda.models.discriminator import Discriminator
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import Batch, Losses

LossKind = Literal["least-squares", "bce"]


class AdversarialConfig(MethodConfig):
    """Settings of the warm-up; the defaults are the successors' least-squares form."""

    name: Literal["adversarial"] = "adversarial"
    loss: LossKind = "least-squares"
    """Least squares as the authors' later code and its successors; BCE as in the paper."""
    weight: float = Field(default=0.01, ge=0)
    """Weight of the adversarial loss; 0.01 with least squares, 0.001 with BCE (AdaptSegNet)."""
    discriminator_rate: float = Field(default=1e-4, gt=0)
    """Learning rate of the discriminator's Adam (betas 0.9, 0.99: AdaptSegNet)."""
    discriminator_channels: int | None = Field(default=None, ge=1)
    """Width of the discriminator's first layer. Left out: 64, as published, or a quarter of the
    segmenter's feature channels where these are fewer than 256."""


class Adversarial(Method):
    """Cross entropy on the source while target outputs learn to pass for source outputs."""

    Config = AdversarialConfig

    def __init__(self, segmenter: Segmenter, config: AdversarialConfig) -> None:
        super().__init__(segmenter, config)
        self.config = config
        self.discriminator = Discriminator.of(segmenter, config.discriminator_channels)

    def networks(self) -> dict[str, nn.Module]:
        """Name the segmenter and the discriminator."""
        return {"segmenter": self.segmenter, "discriminator": self.discriminator}

    def optimizers(self, config: OptimConfig) -> dict[str, Optimizer]:
        """Make the segmenter's as configured, and Adam for the discriminator."""
        rate = self.config.discriminator_rate
        discriminators = build_discriminator_optimizer(self.discriminator, rate)
        return {**super().optimizers(config), "discriminator": discriminators}

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {source/ce}, {target/fool}, {discriminator/source, discriminator/target}.

        The discriminator judges with its weights before the step in both roles, so that one pass
        gives the gradients of the alternating original.
        """
        kind = self.config.loss
        source = self.student(batch.source.image, "source")
        yield {"source/ce": self.cross_entropy(source.logits, batch.source.label)}

        target = self.student(batch.target.image, "target")
        probability = self.upsample(target.logits, batch.target.image).softmax(dim=1)
        fool = adversarial(self.discriminator.frozen(probability), "source", kind)
        yield {"target/fool": self.config.weight * fool}

        logits = self.upsample(source.logits.detach(), batch.source.image)
        yield judged(self, "discriminator", logits.softmax(dim=1), probability.detach(), kind)


def judged(method: Method, name: str, source: Tensor, target: Tensor, kind: LossKind) -> Losses:
    """Compute the own losses of a method's discriminator on its inputs from both domains."""
    judge = method.wrapped(name)
    return {
        f"{name}/source": adversarial(judge(source), "source", kind) / 2,
        f"{name}/target": adversarial(judge(target), "target", kind) / 2,
    }
