"""AdaptSegNet at two levels: outputs of the last map and of the one before it are aligned.

Source: Tsai et al., *Learning to Adapt Structured Output Space for Semantic Segmentation*
(AdaptSegNet), CVPR 2018, multi-level; at one level it is `adversarial`.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from cag_uda.adaptation.losses import adversarial
from cag_uda.methods.adversarial import LossKind, judged
from cag_uda.methods.base import Method, MethodConfig
from cag_uda.methods.optim import OptimConfig, build_discriminator_optimizer, build_optimizer
from cag_uda.models.discriminator import Discriminator
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.two_levels import TwoLevelSegmenter, auxiliary_classifier
from cag_uda.types import Batch, DomainName, Labelled, Losses


class TwoLevelConfig(MethodConfig):
    """Settings of alignment at two levels; the defaults are AdaptSegNet's and ADVENT's."""

    loss: LossKind = "bce"
    """BCE as in both papers; least squares as in AdaptSegNet's later code."""
    weight: float = Field(default=1e-3, ge=0)
    """Weight of the adversarial loss at the last level (AdaptSegNet, section 5: λ_adv = 0.001)."""
    auxiliary_weight: float = Field(default=2e-4, ge=0)
    """Weight of the adversarial loss at the level before (AdaptSegNet: 0.0002)."""
    auxiliary_ce_weight: float = Field(default=0.1, ge=0)
    """Weight of the source's cross entropy at the level before (AdaptSegNet: λ_seg = 0.1)."""
    discriminator_rate: float = Field(default=1e-4, gt=0)
    """Learning rate of the discriminators' Adam (betas 0.9, 0.99: AdaptSegNet)."""
    discriminator_channels: int | None = Field(default=None, ge=1)
    """Width of the discriminators' first layer. Left out: 64, as published, or a quarter of the
    segmenter's feature channels where these are fewer than 256."""


class AdaptSegNetConfig(TwoLevelConfig):
    """Settings of AdaptSegNet at two levels."""

    name: Literal["adaptsegnet"] = "adaptsegnet"


class AdaptSegNet(Method):
    """Cross entropy on the source while target outputs of two levels learn to pass for source's.

    The second classifier and both discriminators live no longer than the stage.
    """

    Config: ClassVar[type[TwoLevelConfig]] = AdaptSegNetConfig

    def __init__(self, segmenter: Segmenter, config: TwoLevelConfig) -> None:
        super().__init__(segmenter, config)
        self.config = config
        self.auxiliary = auxiliary_classifier(segmenter)
        self.discriminator, self.auxiliary_discriminator = (
            Discriminator.of(segmenter, config.discriminator_channels) for _ in range(2)
        )

    def networks(self) -> dict[str, nn.Module]:
        """Name the segmenter with its second classifier, and a discriminator for each level."""
        return {
            "segmenter": TwoLevelSegmenter(self.segmenter, self.auxiliary),
            "discriminator": self.discriminator,
            "auxiliary_discriminator": self.auxiliary_discriminator,
        }

    def optimizers(self, config: OptimConfig) -> dict[str, Optimizer]:
        """Make the segmenter's, its head with the second classifier; Adam for the others."""
        groups = self.segmenter.parameter_groups()
        groups["head"] = [*groups["head"], *self.auxiliary.parameters()]
        rate = self.config.discriminator_rate
        return {
            "segmenter": build_optimizer(groups, config, self.segmenter.backbone.layers()),
            "discriminator": build_discriminator_optimizer(self.discriminator, rate),
            "auxiliary_discriminator": build_discriminator_optimizer(
                self.auxiliary_discriminator, rate
            ),
        }

    def evidence(self, logits: Tensor) -> Tensor:
        """Make the discriminators' input of logits (B, K, H, W): their softmax."""
        return logits.softmax(dim=1)

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {source/ce, …_auxiliary}, {target/fool, …_auxiliary}, {discriminator/…}.

        The discriminators judge with their weights before the step in both roles, so that one pass
        gives the gradients of the alternating original.
        """
        config, kind = self.config, self.config.loss
        source = self._two_levels(batch.source.image, "source")
        yield self._cross_entropies("source", source, batch.source.label)

        target = self._two_levels(batch.target.image, "target")
        seen, auxiliary_seen = (
            self.evidence(self.upsample(each, batch.target.image)) for each in target
        )
        fool = adversarial(self.discriminator.frozen(seen), "source", kind)
        auxiliary_fool = self.auxiliary_discriminator.frozen(auxiliary_seen)
        yield {
            "target/fool": config.weight * fool,
            "target/fool_auxiliary": config.auxiliary_weight
            * adversarial(auxiliary_fool, "source", kind),
        }

        source_seen = [
            self.evidence(self.upsample(each.detach(), batch.source.image)) for each in source
        ]
        yield {
            **judged(self, "discriminator", source_seen[0], seen.detach(), kind),
            **judged(
                self, "auxiliary_discriminator", source_seen[1], auxiliary_seen.detach(), kind
            ),
        }

    def labelled_losses(self, labelled: Labelled) -> Iterator[Losses]:
        """Yield {labelled/ce, …_auxiliary}: both levels learn, as on the source."""
        levels = self._two_levels(labelled.image, "target")
        yield self._cross_entropies("labelled", levels, labelled.label)

    def _cross_entropies(self, name: str, levels: tuple[Tensor, Tensor], label: Tensor) -> Losses:
        """Compute the cross entropies of both levels' logits, the last one first."""
        ce, auxiliary_ce = (self.cross_entropy(each, label) for each in levels)
        weight = self.config.auxiliary_ce_weight
        return {f"{name}/ce": ce, f"{name}/ce_auxiliary": weight * auxiliary_ce}

    def _two_levels(self, image: Tensor, domain: DomainName) -> tuple[Tensor, Tensor]:
        """Predict logits of both levels, the last one first."""
        prediction, auxiliary = self.wrapped("segmenter")(image, domain)
        return prediction.logits, auxiliary
