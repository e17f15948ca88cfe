"""AdaBN: batch-norm statistics of the target's images, and no training.

Sources: Li et al., *Revisiting Batch Normalization For Practical Domain Adaptation*, 2016; mixed
with the source's as Schneider et al., NeurIPS 2020, and You et al. (α-BN), 2021.
"""

from typing import Literal

from pydantic import Field

from cag_uda.methods.base import MethodConfig, Passes, TrainingFree
from cag_uda.models.segmenter import Segmenter


class AdaBNConfig(MethodConfig):
    """Settings of AdaBN."""

    name: Literal["adabn"] = "adabn"
    target_share: float | None = Field(default=None, ge=0, le=1)
    """α, the weight of the target's statistics in the delivered network; 1 as published. None: the
    network's own, `segmenter.target_share`."""


class AdaBN(TrainingFree):
    """Recompute the batch-norm statistics on the target's images."""

    Config = AdaBNConfig
    uses_source = False
    learns_from_target_labels = False

    def __init__(self, segmenter: Segmenter, config: AdaBNConfig) -> None:
        super().__init__(segmenter, config)
        if config.target_share is not None:
            segmenter.set_target_share(config.target_share)

    def prepare(self, passes: Passes) -> None:
        """Recompute the target's statistics in a sweep over its images."""
        self.estimate_target_statistics(passes)
