"""Methods whose labels for the target are those of the network that they began with."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from torch import Tensor

from cag_uda.methods.base import Method, MethodConfig, Passes
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import DomainName, Labelled, Prediction, Unlabelled


@dataclass(frozen=True)
class LabellerPasses:
    """`Passes` as a frozen network sees them: predictions in place of images."""

    network: Segmenter
    predict: Callable[[Tensor, DomainName], Prediction]
    """Function that predicts images (B, 3, H, W) of a domain with the network, without a graph."""
    passes: Passes

    @classmethod
    def of(cls, method: Method, network: Segmenter, passes: Passes) -> Self:
        """Let a frozen network of a method see its passes."""
        return cls(network, partial(method.frozen, network), passes)

    @classmethod
    def of_levels(cls, method: Method, network: Segmenter, passes: Passes) -> Self:
        """Let it see them image by image, with features of all levels, which take memory."""
        return cls(network, partial(method.frozen, network, levels=True), one_by_one(passes))

    def source(self) -> Iterator[tuple[Prediction, Tensor]]:
        """Yield predictions for the source, and its labels (B, h, w) on the feature grid."""
        return self._labelled(self.passes.source(), "source")

    def held_out(self) -> Iterator[tuple[Prediction, Tensor]] | None:
        """Yield as `source`, for labelled images that are not trained on; None without any."""
        batches = self.passes.held_out()
        return None if batches is None else self._labelled(batches, "source")

    def labelled(self) -> Iterator[tuple[Prediction, Tensor]]:
        """Yield as `source`, for the target's images that may be trained on with their labels."""
        return self._labelled(self.passes.labelled(), "target")

    def target(self) -> Iterator[Prediction]:
        """Yield predictions for the target."""
        for batch in self.passes.target():
            yield self.predict(batch.plain, "target")

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, which each see their share of the images."""
        return self.passes.all_reduce(tensor)

    def _labelled(
        self, batches: Iterable[Labelled], domain: DomainName
    ) -> Iterator[tuple[Prediction, Tensor]]:
        for batch in batches:
            prediction = self.predict(batch.image, domain)
            yield prediction, self.network.on_grid(batch.label, prediction.logits)


def one_by_one(passes: Passes) -> Passes:
    """Sweep image by image."""

    def labelled(sweep: Callable[[], Iterable[Labelled]]) -> Iterator[Labelled]:
        for batch in sweep():
            for image, label in zip(batch.image.split(1), batch.label.split(1), strict=True):
                yield Labelled(image, label)

    def target() -> Iterator[Unlabelled]:
        for batch in passes.target():
            for image, plain in zip(batch.image.split(1), batch.plain.split(1), strict=True):
                yield Unlabelled(image, plain)

    source, few = partial(labelled, passes.source), partial(labelled, passes.labelled)
    return replace(passes, source=source, target=target, labelled=few)


class FrozenLabeller(Method):
    """A method with a frozen copy of its segmenter, always in evaluation mode."""

    def __init__(self, segmenter: Segmenter, config: MethodConfig) -> None:
        super().__init__(segmenter, config)
        self.labeller = copy.deepcopy(segmenter).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; the labeller stays in evaluation mode."""
        super().train(mode)
        self.labeller.eval()
        return self

    def freeze_labeller(self) -> None:
        """Copy the segmenter's weights and statistics into the labeller."""
        self.labeller.load_state_dict(self.segmenter.state_dict())
