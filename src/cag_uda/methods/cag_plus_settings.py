"""Settings of CAG-plus: one table a piece, each with what takes the piece out.

What the pieces do is told in `cag_plus`; what is taken from whom, in their files in `adaptation`.
"""

from typing import Literal

from pydantic import Field

from cag_uda.methods.base import MethodConfig
from cag_uda.models.config import SegmenterConfig
from cag_uda.types import Config

THINGS = (
    "traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
"""The classes of Cityscapes that DAFormer's feature distance counts."""


class MixConfig(Config):
    """`[stages.method.mix]`: half of a source image's classes pasted on the target, after DACS."""

    probability: float = Field(default=1.0, ge=0, le=1)
    """Probability that a target image has classes pasted on it; 0 turns ClassMix off."""
    half: Literal["smaller", "any"] = "smaller"
    """Which half of the classes is pasted: of the two into which they fall at random, the one that
    covers fewer pixels, or either (DACS). With two classes it matters most (docs/LOG.md)."""
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
    confidence: float = Field(default=0.968, ge=0, lt=1)
    """Target pixels weigh the share of the batch's pixels with at least this probability (DACS); 0
    weighs each by its own probability. The run reports the quality of the labels that exceed it."""
    label_temperature: float = Field(default=0.5, ge=0)
    """Below 1 sharpens soft labels (MixMatch: 0.5); 0 makes them hard."""
    colour_transfer: bool = False
    """Recolour the source's images as if they were of the target (`adaptation.colours`): worth a
    try where light and colour differ (docs/RESULTS.md)."""
    mix: MixConfig = MixConfig()
    mask: MaskConfig = MaskConfig()
    initial: InitialConfig = InitialConfig()

    @property
    def recolours_source(self) -> bool:
        """Tell whether `colour_transfer` is on."""
        return self.colour_transfer

    def problem_with(self, segmenter: SegmenterConfig) -> str | None:
        """Refuse a distance to initial features of a backbone with random weights."""
        if self.initial.weight and segmenter.weights is None:
            return (
                "initial.weight holds features near those of published weights, but the backbone "
                'starts from random ones; set initial.weight = 0, or segmenter.weights = "imagenet"'
            )
        return None
