"""MinEnt: the target's outputs are made certain, without a discriminator.

Source: Vu et al., *ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic
Segmentation*, CVPR 2019, its direct entropy minimisation.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from cag_uda.adaptation.losses import entropy
from cag_uda.methods.base import Method, MethodConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import Batch, Losses


class MinEntConfig(MethodConfig):
    """Settings of MinEnt."""

    name: Literal["minent"] = "minent"
    weight: float = Field(default=1e-3, ge=0)
    """Weight of the target's entropy; λ_ent = 0.001 in the paper."""


class MinEnt(Method):
    """Cross entropy on the source beside the normalised entropy of the target's pixels."""

    Config = MinEntConfig

    def __init__(self, segmenter: Segmenter, config: MinEntConfig) -> None:
        super().__init__(segmenter, config)
        self.config = config

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {source/ce}, {target/entropy}."""
        source = self.student(batch.source.image, "source")
        yield {"source/ce": self.cross_entropy(source.logits, batch.source.label)}
        target = self.student(batch.target.image, "target")
        logits = self.upsample(target.logits, batch.target.image)
        yield {"target/entropy": self.config.weight * entropy(logits)}
