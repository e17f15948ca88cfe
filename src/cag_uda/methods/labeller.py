"""Methods whose labels for the target are those of the network that they began with."""

import copy
from typing import Self

from cag_uda.methods.base import Method, MethodConfig
from cag_uda.models.segmenter import Segmenter


class FrozenLabeller(Method):
    """A method with a frozen copy of its segmenter, always in evaluation mode."""

    def __init__(self, segmenter: Segmenter, config: MethodConfig) -> None:
        super().__init__(segmenter, config)
        self.labeller = copy.deepcopy(segmenter).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; the labeller stays as it was frozen."""
        super().train(mode)
        self.labeller.eval()
        return self

    def freeze_labeller(self) -> None:
        """Make the segmenter, as it is now, the labeller."""
        self.labeller.load_state_dict(self.segmenter.state_dict())
