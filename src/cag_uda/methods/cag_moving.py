"""CAG whose anchors are made once a stage, and then follow the student or stay where they are.

The paper makes them anew with every labeller, also within a stage (`refresh_every`).

Source: the moving average is that of Zhang et al., *ProDA*, CVPR 2021, section 3.2, here of the
source's features.
"""

import copy
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors, follow
from cag_uda.adaptation.tensors import over_processes
from cag_uda.methods.base import Passes
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_released import CAGReleased, ReleasedSettings
from cag_uda.methods.cag_settings import CAGSettings
from cag_uda.methods.labeller import LabellerPasses
from cag_uda.models.segmenter import Segmenter


class MovingSettings(CAGSettings):
    """Settings of CAG with anchors that are made once a stage."""

    anchor_momentum: float = Field(default=0.99, ge=0, le=1)
    """Momentum m of the anchors: A ← m·A + (1 − m)·mean of the step's source images; 1 fixes
    them."""


class CAGMovingConfig(MovingSettings):
    """Settings of the paper's CAG with such anchors."""

    name: Literal["cag-moving"] = "cag-moving"
    variant_of: ClassVar[str | None] = "cag"


class CAGMoving(CAG):
    """One stage with anchors that follow the student's features of the source."""

    Config: ClassVar[type[CAGSettings]] = CAGMovingConfig
    config: MovingSettings

    def __init__(self, segmenter: Segmenter, config: MovingSettings) -> None:
        super().__init__(segmenter, config)
        self._latest: list[CategoryAnchors] = []  # A list: not a submodule, no part of the state.

    def prepare(self, passes: Passes) -> None:
        """Freeze the network as the labeller; the first time make anchors, then fit the margin."""
        if not self.anchors.counts.any():
            super().prepare(passes)
            return
        self.renew_labeller(passes)
        seen = LabellerPasses.of(self, self.labeller, passes)
        self.anchor_labels.fit(seen, are_kept=True)

    def before_step(self) -> None:
        """Forget the source images of a step that was left out."""
        self._latest = []

    def watch(self, features: Tensor, label: Tensor) -> None:
        """Count a step's source features (B, D, h, w) in."""
        if self.config.anchor_momentum == 1:
            return
        if not self._latest:
            self._latest = [copy.deepcopy(self.anchors)]
            self._latest[0].reset()
        self._latest[0].update(features, label)

    def after_step(self, step: int) -> None:
        """Move the anchors towards the means of the step's source images."""
        for latest in self._latest:
            latest.reduce(over_processes)
            follow(self.anchors, latest, self.config.anchor_momentum)


class CAGReleasedMovingConfig(ReleasedSettings, MovingSettings):
    """Settings of the released code's CAG with such anchors."""

    name: Literal["cag-released-moving"] = "cag-released-moving"
    variant_of: ClassVar[str | None] = "cag"


class CAGReleasedMoving(CAGMoving, CAGReleased):
    """One stage of the released form, with anchors that follow the student."""

    Config: ClassVar[type[CAGSettings]] = CAGReleasedMovingConfig
    config: CAGReleasedMovingConfig
