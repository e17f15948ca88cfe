"""Settings of CAG, which its variants share."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cag_uda.methods.base import MethodConfig
from cag_uda.methods.margin_fitting import MarginConfig


class CAGSettings(MethodConfig):
    """Settings of a stage of CAG or of a variant; the defaults are the paper's."""

    labels: tuple[Literal["anchor", "adapted", "confidence", "intersection"], ...] = ("anchor",)
    """Pseudo-labels that supervise the target, each by a cross entropy; the mean of them is used.
    By the nearest "anchor" (the paper); by anchors "adapted" to the target, together with the
    classifier; by the classifier's "confidence"; or where "anchor" and "confidence" agree. The
    released code has ("anchor", "confidence")."""
    margin: MarginConfig = MarginConfig()
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Least softmax probability of a probability-based label (the paper and the released code)."""
    adapted_confidence: float = Field(default=0.9, gt=0, lt=1)
    """Least pooled probability of a label by adapted anchors."""
    distance_weight: float = Field(default=0.7, ge=0)
    """λ of the distance losses of source and target; 0.7 in the released code."""
    target_weight: float = Field(default=1.0, ge=0)
    """Weight of the target's cross entropy."""
    colour_transfer: bool = False
    """Recolour the source's images as if they were of the target (`adaptation.colours`)."""
    class_balance: float = Field(default=0.0, ge=0, le=1)
    """β: in the target's cross entropy a pixel of class c weighs n_c^−β, n_c its class's labels in
    the batch. 0, all pixels alike, in the paper; 1 gives every class the same say."""

    @property
    def recolours_source(self) -> bool:
        """Tell whether `colour_transfer` is on."""
        return self.colour_transfer

    @model_validator(mode="after")
    def _some_labels(self) -> Self:
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must name at least one kind, each once, got {self.labels}")
        return self


class CAGConfig(CAGSettings):
    """Settings of the paper's CAG."""

    name: Literal["cag"] = "cag"
