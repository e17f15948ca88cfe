"""Settings of CAG-plus: one table a piece, each with what takes the piece out.

What the pieces do is told in `cag_plus`; what is taken from whom, in their files in `adaptation`.
"""

from typing import Literal, get_args

from pydantic import Field

from cag_uda.methods.base import MethodConfig
from cag_uda.models.config import SegmenterConfig
from cag_uda.types import Config, DomainName

THINGS = (
    "traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
"""The classes of Cityscapes that DAFormer's feature distance counts."""


class ContrastConfig(Config):
    """`[stages.method.contrast]`: features towards their anchor and away from the others."""

    weight: float = Field(default=0.0, ge=0)
    """Weight of the contrastive loss in each domain, for example 0.1. Off by default: it cost a
    point on rendered scenes (docs/LOG.md)."""
    temperature: float = Field(default=0.1, gt=0)
    """Temperature by which the cosines are divided; 0.1 as in supervised contrast (Khosla et al.,
    NeurIPS 2020). SePiCo divides products with a projection of its own by 100."""


class MixConfig(Config):
    """`[stages.method.mix]`: half of a source image's classes pasted on the target; DACS's."""

    probability: float = Field(default=1.0, ge=0, le=1)
    """Probability that a target image has classes pasted on it; 0 turns ClassMix off."""
    jitter: float = Field(default=0.25, ge=0, lt=1)
    """Strength of the colour jitter."""
    jitter_probability: float = Field(default=0.8, ge=0, le=1)
    blur_px: tuple[float, float] = (0.15, 1.15)
    """Range of the standard deviation of the Gaussian blur, in pixels."""
    blur_probability: float = Field(default=0.5, ge=0, le=1)


class MaskConfig(Config):
    """`[stages.method.mask]`: blocks of the target's pixels hidden from the student; MIC's."""

    probability: float = Field(default=0.0, ge=0, le=1)
    """Probability that blocks of an image are hidden; 0 turns it off, since small networks lose by
    it in few steps (docs/LOG.md). Use less than 1: no other pass shows the student whole images of
    the target."""
    ratio: float = Field(default=0.7, ge=0, le=1)
    """Share of the blocks that are hidden."""
    block: float = Field(default=1 / 16, gt=0, le=1)
    """Side of a block over the crop's shorter side: 64 of 1024 pixels; more on small crops."""


class InitialConfig(Config):
    """`[stages.method.initial]`: features near those of the published weights; DAFormer's."""

    weight: float = Field(default=0.0, ge=0)
    """Weight of the feature distance (0.005 in DAFormer); it needs `segmenter.weights`, and one
    more forward pass of the backbone a step."""
    classes: tuple[str, ...] = THINGS
    """Classes whose pixels count; names that the domains do not have are left out."""


class CAGPlusConfig(MethodConfig):
    """Settings of a stage. Every piece can be turned off; its description says how."""

    name: Literal["cag-plus"] = "cag-plus"
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """EMA decay of the teacher's weights (DACS; 0.999 in DAFormer); smaller in the first steps,
    1 − 1 / (step + 1). With 0 the student labels for itself."""
    adapted_weight: float = Field(default=0.5, ge=0, lt=1)
    """Weight in the pseudo-labels of the anchors adapted to the target
    (`adaptation.adapted_anchors`), which are pooled with the teacher's probabilities; 0 turns them
    off. A stage's `refresh_every` sets how often they are fitted anew with the current teacher;
    left out, they are fitted once, at the stage's start."""
    label_anchors: tuple[DomainName, ...] = Field(default=("source", "target"), min_length=1)
    """Domains whose anchors correct the labels; with both, the nearer of a class's two anchors
    counts."""
    anchor_weight: float = Field(default=0.0, ge=0)
    """Weight of the distances to the anchors in the labels: 1 / τ of ProDA, for distances divided
    by the mean nearest one; 0 leaves the teacher's probabilities as they are. Off by default: it
    cost a point where it was tried (docs/LOG.md)."""
    anchor_momentum: float = Field(default=0.99, ge=0, le=1)
    """Momentum of the anchors' moving average; 1 fixes them for the stage, as in the paper."""
    anchor_confidence: float = Field(default=0.9, ge=0, lt=1)
    """Least probability of the target's pixels that its anchors are the mean of."""
    prior_strength: float = Field(default=0.0, ge=0, le=1)
    """Strength of the alignment of the labels' class shares with the source's (ReMixMatch). Off by
    default: where classes have other shares in the target it turns one class into another
    (docs/LOG.md)."""
    prior_momentum: float = Field(default=0.99, ge=0, le=1)
    """Momentum of the running mean of the labels' class shares."""
    confidence: float = Field(default=0.968, ge=0, lt=1)
    """Target pixels weigh the share of the batch's pixels with at least this probability (DACS); 0
    weighs each by its own probability."""
    label_temperature: float = Field(default=0.5, ge=0)
    """Below 1 sharpens soft labels (MixMatch: 0.5); 0 makes them hard."""
    contrast: ContrastConfig = ContrastConfig()
    mix: MixConfig = MixConfig()
    mask: MaskConfig = MaskConfig()
    initial: InitialConfig = InitialConfig()

    @property
    def anchored_domains(self) -> tuple[DomainName, ...]:
        """The domains whose anchors labels or losses use; by default none."""
        used = set(self.label_anchors if self.anchor_weight else ())
        if self.contrast.weight:
            used.add("source")
        return tuple(domain for domain in get_args(DomainName) if domain in used)

    def problem_with(self, segmenter: SegmenterConfig) -> str | None:
        """Refuse a distance to initial features of a backbone with random weights."""
        if self.initial.weight and segmenter.weights is None:
            return (
                "initial.weight holds features near those of published weights, but the backbone "
                'starts from random ones; set initial.weight = 0, or segmenter.weights = "imagenet"'
            )
        return None
