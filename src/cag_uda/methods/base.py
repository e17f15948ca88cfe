"""Interface of adaptation methods. Knows networks and losses, not files, devices or the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cag_uda.adaptation.colours import ColourTransfer
from cag_uda.adaptation.losses import class_balance, cross_entropy
from cag_uda.adaptation.tensors import at_least_float32
from cag_uda.methods.optim import OptimConfig, build_optimizer
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.norm import share_statistics
from cag_uda.models.pack import Pack
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.tuning import tune
from cag_uda.types import (
    Batch,
    Config,
    DomainName,
    Labelled,
    Losses,
    Prediction,
    PseudoLabels,
    Unlabelled,
)


@torch.no_grad()
def predict(
    network: Segmenter, image: Tensor, domain: DomainName, *, levels: bool = False
) -> Prediction:
    """Predict images (B, 3, H, W) by a network that is not trained; float32 comes out.

    With `levels` the features are those of all levels, as `Segmenter.predict_levels` gives them.
    """
    prediction = (network.predict_levels if levels else network)(image, domain)
    return Prediction(prediction.features.float(), prediction.logits.float())


class MethodConfig(Config):
    """Settings of a method; the defaults stand in its subclass alone, each with its source."""

    name: str
    """The method's row in `cag_uda.methods.METHODS`."""
    variant_of: ClassVar[str | None] = None
    """The row that this one varies; None: it stands for itself."""

    @property
    def family(self) -> str:
        """The row as which a comparison counts this one."""
        return self.variant_of or self.name

    @property
    def recolours_source(self) -> bool:
        """Tell whether a step's source images are recoloured as if they were of the target."""
        return False

    def problem_with(self, segmenter: SegmenterConfig) -> str | None:
        """Say why the method cannot train such a network, or None; recipes are checked so."""
        return None


@dataclass(frozen=True)
class Passes:
    """Sweeps over whole domains, without augmentation, for what a method prepares."""

    source: Callable[[], Iterable[Labelled]]
    """This process's share of the labelled source."""
    target: Callable[[], Iterable[Unlabelled]]
    """This process's share of the target's images."""
    all_reduce: Callable[[Tensor], Tensor]
    """Sum of a tensor over all processes."""
    held_out: Callable[[], Iterable[Labelled] | None] = lambda: None
    """This process's share of the source's labelled images that are not trained on; None where
    there are none."""
    pack: Pack | None = None
    """Pack that replaces the source where its images are not there; `source` is empty then."""
    labelled: Callable[[], Iterable[Labelled]] = lambda: ()
    """This process's share of the target's images whose labels may be trained on."""


class Method(nn.Module, ABC):
    """One adaptation method: which networks, which losses, what state between steps.

    State (anchors, labeller, discriminator) is held as submodules and buffers, so that checkpoints
    and device moves need no further code. The segmenter is trained in place; `config` is an
    instance of the method's `Config`.
    """

    Config: ClassVar[type[MethodConfig]]
    trains: ClassVar[bool] = True
    """True if a stage of it takes steps; one that does not does all its work in `prepare`."""
    uses_source: ClassVar[bool] = True
    """True if it learns from the source's images and labels; else it can begin with a pack, and its
    batches hold no source image."""
    labels_follow: ClassVar[bool] = False
    """True if its pseudo-labels are of a network that learns during the stage: a run records their
    quality at the end of the stage, not at its beginning."""
    learns_from_target_labels: ClassVar[bool] = True
    """True if it is given the target's few labels where a recipe has some (`Batch.labelled`)."""

    def __init__(self, segmenter: Segmenter, config: MethodConfig) -> None:
        super().__init__()
        tune(segmenter.config, segmenter.backbone)
        self.segmenter = segmenter
        self.colours = ColourTransfer() if config.recolours_source else None
        self._calls: dict[str, Callable[..., Any]] = {}
        self._autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def networks(self) -> dict[str, nn.Module]:
        """Name the networks that are trained."""
        return {"segmenter": self.segmenter}

    def attach(
        self,
        wrap: Callable[[nn.Module], Callable[..., Any]],
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """Route the forward passes of trained networks through a wrapper (precision, processes).

        `autocast` is the precision under which frozen networks compute.
        """
        self._calls = {name: wrap(network) for name, network in self.networks().items()}
        self._autocast = autocast

    def share_statistics(self, is_shared: bool) -> None:
        """Set whether batch norms in training normalise over the images of all processes."""
        for network in self.networks().values():
            share_statistics(network, is_shared)

    def wrapped(self, name: str) -> Callable[..., Any]:
        """Return a trained network by its name in `networks`, through its wrapper."""
        return self._calls.get(name) or self.networks()[name]

    def student(self, image: Tensor, domain: DomainName = "target") -> Prediction:
        """Predict by the segmenter in training, as `Segmenter.forward`."""
        prediction: Prediction = self.wrapped("segmenter")(image, domain)
        return prediction

    def student_and_map(self, image: Tensor, domain: DomainName) -> tuple[Prediction, Tensor]:
        """Predict as `student` does; give the backbone's last map (B, C, h', w') too."""
        prediction, last_map = self.wrapped("segmenter")(image, domain, last_map=True)
        return prediction, last_map

    def recoloured(self, batch: Batch) -> Batch:
        """Recolour the source images of a batch, where the settings say so."""
        return batch if self.colours is None else batch._replace(source=self.colours(batch))

    def cross_entropy(
        self,
        logits: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        *,
        balance: float = 0.0,
    ) -> Tensor:
        """Compute the cross entropy of the segmenter's logits, mean over labelled pixels.

        Args:
            logits: (B, K, h, w).
            label: (B, H, W) int64 train ids of the images, to whose size the logits are resized,
                or (B, h, w) on the feature grid.
            weight: factor of each pixel's loss, of the label's shape.
            balance: exponent β of `adaptation.losses.class_balance`, whose weights take the place
                of `weight`; 0: all pixels weigh the same.
        """
        if balance:
            weight = class_balance(label, self.segmenter.num_classes, balance)
        return cross_entropy(self.upsample(logits, label), label, weight)

    def upsample(self, logits: Tensor, like: Tensor) -> Tensor:
        """Resize logits (B, K, h, w) to the size of `like` (…, H, W), in at least float32."""
        size = (like.shape[-2], like.shape[-1])
        logits = at_least_float32(logits)
        return logits if logits.shape[2:] == size else self.segmenter.upsample(logits, size)

    def frozen(
        self, network: Segmenter, image: Tensor, domain: DomainName, *, levels: bool = False
    ) -> Prediction:
        """Predict images by a network that is not trained, as `predict`, in the run's precision."""
        with self._autocast():
            return predict(network, image, domain, levels=levels)

    def prepare(self, passes: Passes) -> None:
        """Prepare a stage: snapshots, anchors, thresholds. Nothing by default."""
        return

    def refresh(self, passes: Passes) -> None:
        """Prepare anew within a stage, every `refresh_every` steps; by default as at its start."""
        self.prepare(passes)

    @abstractmethod
    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield the losses of one step, one yield per graph, in the order of the paper.

        The loop backpropagates each yield at once, so that its graph is freed before the next
        forward; losses that share a forward share a yield. It calls this for each part of a batch.
        """

    def labelled_losses(self, labelled: Labelled) -> Iterator[Losses]:
        """Yield the losses of labelled images of the target, after those of `losses`.

        By default {labelled/ce}, as on the source. The loop calls this only where the recipe names
        such images.
        """
        prediction = self.student(labelled.image, "target")
        yield {"labelled/ce": self.cross_entropy(prediction.logits, labelled.label)}

    def after_step(self, step: int) -> None:
        """Finish a step after the optimisers': moving averages. Nothing by default."""
        return

    def finish(self, passes: Passes) -> None:
        """Renew the target's batch-norm statistics after the last step, by default."""
        self.renew_target_statistics(passes)

    def renew_target_statistics(self, passes: Passes) -> None:
        """Recompute the target's batch-norm statistics over its whole images, if it has its own.

        The running ones are of random crops and of weights a few steps old.
        """
        if self.segmenter.config.norm == "per-domain":
            self.estimate_target_statistics(passes)

    def estimate_target_statistics(self, passes: Passes) -> None:
        """Recompute the target's batch-norm statistics over the images of all processes."""
        network = self.segmenter
        batches = network.mean.new_zeros(())

        def counted() -> Iterator[Tensor]:
            for target in passes.target():
                batches.add_(1)
                yield target.plain

        network.estimate_statistics(counted(), "target")
        total = passes.all_reduce(batches.clone())
        if not total:
            return
        # Each process has the mean over its own batches, and some may have had none.
        share = batches / total
        for statistic in network.statistics("target"):
            statistic.copy_(passes.all_reduce(statistic * share))

    def optimizers(self, config: OptimConfig) -> dict[str, Optimizer]:
        """Make one optimiser for each trained network, by the network's name."""
        groups, layers = self.segmenter.parameter_groups(), self.segmenter.backbone.layers()
        return {"segmenter": build_optimizer(groups, config, layers)}

    def predictor(self) -> Segmenter:
        """Give the network that is evaluated, delivered, and handed to the next stage."""
        return self.segmenter

    def pseudo_labels(self, image: Tensor) -> dict[str, PseudoLabels]:
        """Label target images (B, 3, H, W) in [0, 1] by every kind that the method has, if any.

        The report and `cag-uda pseudo-label` use them.
        """
        return {}


class TrainingFree(Method):
    """A method that takes no steps: all of its work is done in `prepare`."""

    trains = False

    def finish(self, passes: Passes) -> None:
        """Do nothing: `prepare` has done it all."""

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield nothing: no weight is trained."""
        yield from ()
