"""Source only: cross entropy on the labelled source, the floor of every comparison."""

from collections.abc import Iterator
from typing import Literal

from cag_uda.methods.base import Method, MethodConfig, Passes
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import Batch, Losses


class SourceOnlyConfig(MethodConfig):
    """Nothing to set."""

    name: Literal["source-only"] = "source-only"


class SourceOnly(Method):
    """Train on the source and never look at the target.

    With two labelled domains as its source, one of them the target's train split, it is the oracle.
    """

    Config = SourceOnlyConfig
    learns_from_target_labels = False

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {source/ce}."""
        prediction = self.student(batch.source.image, "source")
        yield {"source/ce": self.cross_entropy(prediction.logits, batch.source.label)}

    def finish(self, passes: Passes) -> None:
        """Do nothing: the target's images are not used."""

    def predictor(self) -> Segmenter:
        """Give the segmenter; statistics per domain are the source's for the target too."""
        self.segmenter.adopt_source_statistics()
        return self.segmenter
