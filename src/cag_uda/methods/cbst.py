"""CBST: class-balanced self-training.

Source: Zou, Yu, Kumar, Wang, *Domain Adaptation for Semantic Segmentation via Class-Balanced
Self-Training*, ECCV 2018, without its spatial prior and its mining of source images.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from cag_uda.adaptation.pseudo_labels import ConfidenceStatistics, by_class_balance
from cag_uda.methods.base import MethodConfig, Passes
from cag_uda.methods.labeller import FrozenLabeller
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import Batch, Losses, PseudoLabels


class CBSTConfig(MethodConfig):
    """Settings of CBST. A round is a stage, or `refresh_every` steps within one."""

    name: Literal["cbst"] = "cbst"
    portion: float = Field(default=0.2, gt=0, le=1)
    """Share of the pixels predicted as a class that are labelled in the first round: p = 20 %."""
    portion_step: float = Field(default=0.05, ge=0, le=1)
    """Increase of the share in every further round."""
    portion_most: float = Field(default=0.5, gt=0, le=1)
    """Largest share, at which it stops growing."""


class CBST(FrozenLabeller):
    """Rounds of labelling the target, each class by its own threshold, and of training on that.

    As published it begins from a network trained on the source alone. Labels are those of the
    network that a round began with, for the very crop that the student sees.
    """

    Config = CBSTConfig
    thresholds: Tensor
    """(K,) k_c: the confidence above which a class's pixels are labelled."""
    rounds: Tensor
    """() int64: rounds begun."""

    def __init__(self, segmenter: Segmenter, config: CBSTConfig) -> None:
        super().__init__(segmenter, config)
        self.config = config
        self.register_buffer("thresholds", torch.full((segmenter.num_classes,), torch.inf))
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))

    def prepare(self, passes: Passes) -> None:
        """Begin a round: freeze the network as the labeller, and take each class's threshold.

        The target's own batch-norm statistics, if any, are taken first: a network that was trained
        on the source alone has none.
        """
        self.renew_target_statistics(passes)
        self.freeze_labeller()
        statistics = ConfidenceStatistics(self.segmenter.num_classes).to(self.thresholds.device)
        for target in passes.target():
            statistics.update(self.frozen(self.labeller, target.plain, "target").logits)
        statistics.reduce(passes.all_reduce)
        self.thresholds.copy_(statistics.thresholds(self.portion))
        self.rounds += 1

    @property
    def portion(self) -> float:
        """Share of each class's pixels that the round about to begin labels."""
        grown = self.config.portion + int(self.rounds) * self.config.portion_step
        return min(grown, max(self.config.portion, self.config.portion_most))

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {source/ce}, {target/ce}."""
        source = self.student(batch.source.image, "source")
        yield {"source/ce": self.cross_entropy(source.logits, batch.source.label)}
        pseudo = self.pseudo_labels(batch.target.plain)["class-balanced"]
        target = self.student(batch.target.image, "target")
        yield {"target/ce": self.cross_entropy(target.logits, pseudo.label)}

    @torch.no_grad()
    def pseudo_labels(self, image: Tensor) -> dict[str, PseudoLabels]:
        """Label target images (B, 3, H, W) as the round does, on the feature grid."""
        logits = self.frozen(self.labeller, image, "target").logits
        return {"class-balanced": by_class_balance(logits, self.thresholds)}
