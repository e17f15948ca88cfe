"""CAG: category anchor-guided adaptation. One stage of Algorithm 1 of the paper.

Source: Zhang et al., *Category Anchor-Guided UDA for Segmentation*, NeurIPS 2019, arXiv 1910.13049.

| the paper                     | here                                                           |
|-------------------------------|----------------------------------------------------------------|
| f_D(x), a pixel's feature     | `prediction.features` (B, D, h, w)                             |
| A_c, the anchor of class c    | `anchors.vectors[c]`, mean of the source's features of class c |
| d_c = ‖A_c − f_D(x)‖; d₁ ≤ d₂ | `anchors.distances`; its two smallest, `two_nearest`           |
| Δ; active iff d₂ − d₁ ≥ Δ     | `AnchorLabels.threshold`; compared in `by_anchor`              |
| ŷ_t = argmin_c d_c if active  | `AnchorLabels.labels`; else IGNORE                             |
| L_CE, L_dis, λ                | `cross_entropy`, `anchor_distance`, `distance_weight`          |
| network of the stage before   | `labeller`, frozen                                             |

The loop over stages is the recipe's. What the released code does otherwise: `cag_released`.
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.adaptation.losses import anchor_distance
from cag_uda.adaptation.pseudo_labels import by_anchor
from cag_uda.methods.adapted_labels import AdaptedLabels
from cag_uda.methods.base import Passes
from cag_uda.methods.cag_settings import CAGConfig, CAGSettings
from cag_uda.methods.label_kinds import CommonLabels, ConfidenceLabels, LabelKind
from cag_uda.methods.labeller import FrozenLabeller, LabellerPasses
from cag_uda.methods.margin_fitting import MarginConfig, fit_margin
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import Batch, DomainName, Losses, Prediction, PseudoLabels


class AnchorLabels(LabelKind):
    """The class of the nearest category anchor, where it is clearly the nearest."""

    threshold: Tensor
    """(K,) Δ, by class of the nearest anchor."""

    def __init__(self, anchors: CategoryAnchors, margin: MarginConfig) -> None:
        super().__init__()
        self.anchors, self.config = anchors, margin
        self.register_buffer("threshold", torch.full((anchors.num_classes,), margin.value))

    def prepare(self, seen: LabellerPasses) -> None:
        """Average the source's features by class, A_c; then fit Δ."""
        self.anchors.reset()
        for prediction, label in seen.source():
            self.anchors.update(prediction.features, self.counted(prediction, label))
        self.anchors.reduce(seen.all_reduce)
        self.fit(seen)

    def fit(self, seen: LabellerPasses) -> None:
        """Fit Δ to the anchors and to what the labeller sees."""
        self.threshold.copy_(fit_margin(self.config, self, seen))

    def counted(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Choose the labelled source pixels that anchors are means of: all."""
        return label

    def source_shares(self, seen: LabellerPasses) -> Tensor:
        """Give each class's share (K,) of the source's labelled pixels."""
        return self.anchors.counts / self.anchors.counts.sum()

    def labels(self, prediction: Prediction) -> PseudoLabels:
        """Identify active pixels and assign pseudo-labels to them: argmin_c d_c iff d₂ − d₁ ≥ Δ."""
        distances = self.anchors.distances(prediction.features)
        return by_anchor(distances, self.config.of(self.threshold))

    def labels_everywhere(self, prediction: Prediction) -> PseudoLabels:
        """Assign the class of the nearest anchor to every pixel."""
        return by_anchor(self.anchors.distances(prediction.features), 0.0)


class CAG(FrozenLabeller):
    """One stage: anchors, margin and pseudo-labels by the frozen incoming network; then steps."""

    Config: ClassVar[type[CAGSettings]] = CAGConfig

    def __init__(self, segmenter: Segmenter, config: CAGSettings) -> None:
        super().__init__(segmenter, config)
        self.config = config
        self.kinds = cast(dict[str, LabelKind], nn.ModuleDict(self.label_kinds(segmenter, config)))

    @classmethod
    def new_anchor_labels(cls, segmenter: Segmenter, config: CAGSettings) -> AnchorLabels:
        """Make the labels by anchor, with anchors that have seen nothing."""
        anchors = CategoryAnchors(segmenter.num_classes, segmenter.feature_channels)
        return AnchorLabels(anchors, config.margin)

    @classmethod
    def label_kinds(cls, segmenter: Segmenter, config: CAGSettings) -> dict[str, LabelKind]:
        """Make every kind of pseudo-label; a new kind is a row here."""
        anchor = cls.new_anchor_labels(segmenter, config)
        confidence = ConfidenceLabels(config.confidence)
        common = CommonLabels(anchor, confidence)
        kinds = {"anchor": anchor, "confidence": confidence, "intersection": common}
        if "adapted" in config.labels:  # Two more sweeps: only where it is wanted.
            kinds["adapted"] = AdaptedLabels(segmenter, config.adapted_confidence)
        return kinds

    @property
    def anchor_labels(self) -> AnchorLabels:
        """Labels by anchor: anchors and margin."""
        return cast(AnchorLabels, self.kinds["anchor"])

    @property
    def anchors(self) -> CategoryAnchors:
        """A_c."""
        return self.anchor_labels.anchors

    def prepare(self, passes: Passes) -> None:
        """Freeze the network as the labeller; by what it sees, take the anchors and the margin."""
        if self.anchors.counts.any():  # Within a stage: statistics of whole images, not of crops.
            self.renew_target_statistics(passes)
        self.freeze_labeller()
        seen = LabellerPasses.of(self, self.labeller, passes)
        for kind in self.kinds.values():
            kind.prepare(seen)

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Yield {source/ce, source/distance}, {target/<kind>, …, target/distance}."""
        batch = self.recoloured(batch)
        source = self.student(batch.source.image, "source")
        label = self.segmenter.on_grid(batch.source.label, source.logits)
        source_ce = self.cross_entropy(source.logits, batch.source.label)
        yield {"source/ce": source_ce, **self.distance_loss("source", source, label)}
        pseudo = self.pseudo_labels(batch.target.plain, self.config.labels)
        target = self.student(batch.target.image, "target")
        beta, logits = self.config.class_balance, target.logits
        ce = {k: self.cross_entropy(logits, p.label, balance=beta) for k, p in pseudo.items()}
        losses = {f"target/{k}": self.config.target_weight / len(ce) * ce[k] for k in ce}
        yield losses | self.distance_loss("target", target, pseudo[self.config.labels[0]].label)

    def distance_loss(self, domain: DomainName, prediction: Prediction, label: Tensor) -> Losses:
        """Weigh L_dis by λ; nothing where λ is 0."""
        weight = self.config.distance_weight
        return {f"{domain}/distance": weight * self.distance(prediction, label)} if weight else {}

    def distance(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Compute L_dis: mean distance of features to the anchors of their (pseudo-)labels."""
        return anchor_distance(prediction.features, self.anchors.vectors, label)

    @torch.no_grad()
    def pseudo_labels(self, image: Tensor, kinds: Iterable[str] = ()) -> dict[str, PseudoLabels]:
        """Label target images (B, 3, H, W) by some kinds, or by all, on the feature grid."""
        prediction = self.frozen(self.labeller, image, "target")
        return {kind: self.kinds[kind].labels(prediction) for kind in kinds or self.kinds}
