"""The tables of a recipe that training reads. Knows no network and no device."""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from cag_uda.methods.optim import OptimConfig
from cag_uda.types import Config

LoggerName: TypeAlias = Literal["tensorboard", "wandb", "mlflow"]
Precision: TypeAlias = Literal["32", "bf16", "16"]


def _bits_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _number_or_text(schema: dict[str, Any]) -> None:
    """Tell editors that bits may be given as a number."""
    del schema["type"]
    schema["enum"] = [*schema["enum"], 32, 16]


class ComputeConfig(Config):
    """The `[compute]` table of a recipe."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(default=1, ge=1)
    """Processes of this machine, one device each; more machines by torchrun or SLURM."""
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(_bits_as_text)] = (
        Field(default="auto", json_schema_extra=_number_or_text)
    )
    """Precision of forward and backward passes; weights and statistics stay in float32. "16" is for
    GPUs without bf16: its gradients are scaled, and with SGD each step waits to know whether they
    overflowed. The numbers 32 and 16 are taken for "32" and "16"."""
    channels_last: bool | Literal["auto"] = "auto"
    """Keep channels innermost in the memory of feature maps."""
    accumulation: int = Field(default=1, ge=1)
    """Parts in which each device takes its share of a batch, one after the other: so many times
    less memory. Gradients are those of the whole; batch norms see a part."""
    checkpointing: tuple[str, ...] = ()
    """Parts of the segmenter that keep their inputs alone and compute again in the backward pass:
    "blocks" for each block of the backbone, or names of modules with * for anything."""
    compile: bool = False
    """Compile networks by torch (minutes at first; wants a C++ compiler)."""
    deterministic: bool = False
    """Take a GPU's kernels that give the same bits every time where there are some,
    slower ones; torch warns of what has none. On a CPU all do."""

    @model_validator(mode="after")
    def _compiled_networks_keep_everything(self) -> Self:
        # torch does not compile parts whose repetition differs from their first pass, as that of
        # batch norms must.
        if self.compile and self.checkpointing:
            raise ValueError("compile and checkpointing do not go together; leave one of them out")
        return self


class StageSettings(Config):
    """Training settings of one stage; a recipe's `[[stages]]` adds what is trained."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Lower-case letters, digits and hyphens; not "initial"."""
    steps: int = Field(default=0, ge=0)
    """Optimiser steps; 0 for a method that does not train."""
    optim: OptimConfig = OptimConfig()
    refresh_every: int | None = Field(default=None, ge=1)
    """Steps between renewals of what the method prepares (anchors, labeller); None: once."""
    log_every: int = Field(default=20, ge=1)
    """Steps between records in the log."""
    checkpoint_every: int = Field(default=200, ge=1)
    """Steps between resumable checkpoints; a stop by signal makes one too."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """At a loss or gradient that is not finite, training stops and names the files of the batch,
    or the step is skipped and noted in the log (to know it, each step waits for the device)."""


class TrackingConfig(Config):
    """The `[tracking]` table of a recipe."""

    loggers: tuple[LoggerName, ...] = ("tensorboard",)
    """Services that log losses, scores and pictures; `metrics.jsonl` is written in any case.
    Weights & Biases and MLflow take their address and account from their own environment
    variables."""
    project: str = "cag-uda"
    """Name of the project at Weights & Biases, and of the experiment at MLflow."""
    pictures_every: int | None = Field(default=1000, ge=1)
    """Steps between pictures of predictions; None: at the end of each stage alone."""
