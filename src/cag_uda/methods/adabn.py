"""AdaBN: the target's own batch-norm statistics, and no training.

Source: Li et al., *Revisiting Batch Normalization For Practical Domain Adaptation*, 2016.
"""

from collections.abc import Iterator
from typing import Literal

from cag_uda.methods.base import Method, MethodConfig, Passes
from cag_uda.types import Batch, Losses


class AdaBNConfig(MethodConfig):
    """Nothing to set."""

    name: Literal["adabn"] = "adabn"


class AdaBN(Method):
    """Recompute the batch-norm statistics on the target's images."""

    Config = AdaBNConfig
    trains = False

    def prepare(self, passes: Passes) -> None:
        """Sweep over the target."""
        self.estimate_target_statistics(passes)

    def finish(self, passes: Passes) -> None:
        """Nothing remains to be done."""

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Nothing is trained."""
        yield from ()
