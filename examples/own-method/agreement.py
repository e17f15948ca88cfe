"""A method of one's own in one file: python agreement.py RECIPE.toml RUN.

Self-training on the target's pixels to which the network gives the same class in the image and in
the mirrored image. Everything else (loading, stages, resuming, scoring, the report) is the
package's; a recipe names the method like any other: method = { name = "agreement" }.
"""

import sys
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

import cag_uda
from cag_uda.methods import METHODS, Method, MethodConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE, Batch, Losses


class AgreementConfig(MethodConfig):
    """Settings that a recipe may give, with their defaults."""

    name: Literal["agreement"] = "agreement"
    target_weight: float = Field(default=0.5, ge=0)
    """Weight of the target's cross entropy."""


class Agreement(Method):
    """Cross entropy on the source, and on the target where two views agree."""

    Config = AgreementConfig

    def __init__(self, segmenter: Segmenter, config: AgreementConfig) -> None:
        super().__init__(segmenter, config)
        self.config = config

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yields {source/ce}, {target/ce}: one yield a graph, which the loop backpropagates."""
        source = self.student(batch.source.image, "source")
        yield {"source/ce": self.cross_entropy(source.logits, batch.source.label)}
        label = self.agreed(batch.target.plain)
        target = self.student(batch.target.image, "target")
        yield {"target/ce": self.config.target_weight * self.cross_entropy(target.logits, label)}

    def agreed(self, image: Tensor) -> Tensor:
        """Labels (B, h, w) of images (B, 3, H, W), IGNORE where the two views differ."""
        self.segmenter.eval()
        label = self.frozen(self.segmenter, image, "target").logits.argmax(1)
        mirrored = self.frozen(self.segmenter, image.flip(-1), "target").logits.argmax(1).flip(-1)
        self.segmenter.train()
        return torch.where(label == mirrored, label, IGNORE)


METHODS["agreement"] = Agreement

if __name__ == "__main__":
    print(cag_uda.adapt(sys.argv[1], sys.argv[2]).scores)
