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

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yields {source/ce}."""
        prediction = self.student(batch.source.image, "source")
        yield {"source/ce": self.cross_entropy(prediction.logits, batch.source.label)}

    def finish(self, passes: Passes) -> None:
        """Nothing: the target is not looked at."""

    def predictor(self) -> Segmenter:
        """The segmenter; where statistics are per domain the target's are the source's."""
        self.segmenter.adopt_source_statistics()
        return self.segmenter
