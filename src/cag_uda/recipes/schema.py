"""What a recipe says: source, target, network, loading, compute, and the stages in order."""

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cag_uda.data.config import LoadingConfig
from cag_uda.methods import METHODS
from cag_uda.methods.base import MethodConfig
from cag_uda.methods.optim import OptimConfig
from cag_uda.models.config import SegmenterConfig
from cag_uda.training.compute import ComputeConfig

if TYPE_CHECKING:
    AnyMethod = MethodConfig
else:
    _configs = tuple(method.Config for method in METHODS.values())
    _either = _configs[0]
    for _config in _configs[1:]:
        _either = _either | _config
    AnyMethod = Annotated[_either, Field(discriminator="name")]

INITIAL = "initial"
"""The name, as a stage's `start`, of the network that no stage has trained yet."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Table):
    """A labelled domain."""

    domain: str
    """A built-in domain's name, or the path of a domain file."""
    split: str = "train"


class Target(_Table):
    """The domain without labels."""

    domain: str
    """A built-in domain's name, or the path of a domain file."""
    train: str = "train"
    """The split that is adapted to; only its images are read."""
    test: str | None = "test"
    """The split that is scored; its labels, if it has any, are read by evaluation only."""


class Stage(_Table):
    """One training stage."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Lower-case letters, digits and hyphens; not "initial"."""
    method: AnyMethod
    """The method by its `name`, with its settings."""
    steps: int = Field(default=0, ge=0)
    """Optimiser steps; 0 for a method that does not train."""
    start: str | None = None
    """Whose network this stage starts from: an earlier stage's name, or "initial"; left out, the
    stage
    before this one."""
    optim: OptimConfig = OptimConfig()
    refresh_every: int | None = Field(default=None, ge=1)
    """Steps between renewals of what the method prepares (anchors, labeller); None: once."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Steps between evaluations on the target's test split, for the log only."""
    log_every: int = Field(default=20, ge=1)
    """Steps between records in the log."""
    checkpoint_every: int = Field(default=200, ge=1)
    """Steps between resumable checkpoints; a stop by signal makes one too."""

    @model_validator(mode="after")
    def _steps_fit_the_method(self) -> Self:
        trains = METHODS[self.method.name].trains
        if trains and self.steps < 1:
            raise ValueError(f"stage {self.name!r} trains and wants `steps` of at least 1")
        if not trains and self.steps:
            raise ValueError(
                f"method {self.method.name!r} takes no training steps; leave out `steps`"
            )
        return self


class Recipe(_Table):
    """One whole adaptation, from initial weights to the delivered network."""

    name: str
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**31)
    data_root: str | None = None
    """Folder below which the built-in domains lie; None: CAG_UDA_DATA, or `data`."""
    source: tuple[Source, ...] = Field(min_length=1)
    """One labelled domain, or several with equal shares of each batch."""
    target: Target
    segmenter: SegmenterConfig = SegmenterConfig()
    loading: LoadingConfig = LoadingConfig()
    compute: ComputeConfig = ComputeConfig()
    stages: tuple[Stage, ...] = Field(min_length=1)

    @field_validator("source", mode="before")
    @classmethod
    def _one_source_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _stages_follow(self) -> Self:
        known = [INITIAL]
        for stage in self.stages:
            if stage.name in known:
                raise ValueError(f"two stages are called {stage.name!r}; give each its own name")
            if stage.start is not None and stage.start not in known:
                raise ValueError(
                    f"stage {stage.name!r} starts from {stage.start!r}, which is no earlier stage; "
                    f"choose from {', '.join(known)}"
                )
            known.append(stage.name)
        return self

    @model_validator(mode="after")
    def _batch_serves_all(self) -> Self:
        batch, devices = self.loading.batch_size, self.compute.devices
        if batch % devices:
            raise ValueError(f"loading.batch_size {batch} is no multiple of {devices} devices")
        if batch < len(self.source):
            raise ValueError(
                f"loading.batch_size {batch} leaves some of {len(self.source)} sources out"
            )
        if batch // devices < 2 and self.segmenter.norm != "frozen":
            raise ValueError(
                "one image per device cannot train batch norm; raise loading.batch_size to "
                f'{2 * devices}, or set segmenter.norm = "frozen"'
            )
        return self

    def start_of(self, index: int) -> str:
        """The name of the stage, or INITIAL, whose network stage `index` starts from."""
        start = self.stages[index].start
        if start is not None:
            return start
        return self.stages[index - 1].name if index else INITIAL
