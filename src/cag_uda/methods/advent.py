"""ADVENT: the discriminators see how uncertain the outputs are, not what they say.

Source: Vu et al., *ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic
Segmentation*, CVPR 2019, its adversarial form (AdvEnt); its direct form is `minent`.
"""

from typing import Literal

from torch import Tensor

from cag_uda.adaptation.losses import self_information
from cag_uda.methods.adaptsegnet import AdaptSegNet, TwoLevelConfig


class AdventConfig(TwoLevelConfig):
    """Settings of ADVENT; its released configuration has AdaptSegNet's weights and rates."""

    name: Literal["advent"] = "advent"


class Advent(AdaptSegNet):
    """AdaptSegNet at two levels on maps of weighted self-information, as the paper defines it."""

    Config = AdventConfig

    def evidence(self, logits: Tensor) -> Tensor:
        """Make the discriminators' input of logits (B, K, H, W): −p·log₂ p / log₂ K."""
        return self_information(logits)
