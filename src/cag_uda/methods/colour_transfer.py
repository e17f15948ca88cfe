"""Colour transfer: source images recoloured as if they were of the target, and no pseudo-labels.

Source: `adaptation.colours`.
"""

from collections.abc import Iterator
from typing import Literal

from cag_uda.methods.base import Method, MethodConfig
from cag_uda.types import Batch, Losses


class ColourTransferConfig(MethodConfig):
    """Nothing to set."""

    name: Literal["colour-transfer"] = "colour-transfer"

    @property
    def recolours_source(self) -> bool:
        """Recolour always."""
        return True


class RecolouredSource(Method):
    """Cross entropy on labelled source images that were recoloured.

    The target's images give colours, and batch-norm statistics at the end: a warm-up that aligns
    the input, where the paper's discriminator aligns the output.
    """

    Config = ColourTransferConfig

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {source/ce}."""
        source = self.recoloured(batch).source
        prediction = self.student(source.image, "source")
        yield {"source/ce": self.cross_entropy(prediction.logits, source.label)}
