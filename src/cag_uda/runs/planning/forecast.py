"""Forecasts: measurements of a recipe in small, scaled to the whole of it. Pure arithmetic."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from cag_uda.recipes.schema import Stage
from cag_uda.runs.planning.fitting import Setting


@dataclass
class Measured:
    """Measurements of a short stage; those of sweeps and frames are scaled to all of them."""

    load_s: float = 0.0
    """The loader's seconds for a batch, while nothing else runs."""
    prepare_s: float = 0.0
    """Preparing the method."""
    step_s: float = 0.0
    """One step, with a loader that has had time to read ahead."""
    once_s: float = 0.0
    """What the first steps take longer than later ones, and sweeps after the last."""
    save_s: float = 0.0
    """One checkpoint."""
    evaluation_s: float = 0.0
    """One evaluation on the way."""
    pictures_s: float = 0.0
    """Pictures on the way, once."""
    scoring_s: float = 0.0
    """Pseudo-labels' quality, and all that follows training."""
    training_mib: float = 0.0
    """Peak until the last step, as the run's scores tell it."""
    scoring_mib: float = 0.0
    """Peak of what follows."""


@dataclass(frozen=True)
class StageForecast:
    """Forecast of one stage."""

    name: str
    method: str
    steps: int
    peak_memory_mib: float
    """Peak memory of training and what precedes it, as `peak_memory_mib` of the run's scores."""
    scoring_memory_mib: float | None = None
    """Peak memory of what follows training; None where it was not measured."""
    step_s: float | None = None
    """Seconds of one step, or of loading its batch where that takes longer; None without
    training."""
    training_s: float | None = None
    """Seconds of preparation and steps, as `elapsed_s` of the run's scores."""
    scoring_s: float | None = None
    """Seconds of what follows training: pseudo-labels' quality, scores, pictures and files."""

    @property
    def most_memory_mib(self) -> float:
        """Peak memory of the whole stage: the larger of training's and scoring's."""
        return max(self.peak_memory_mib, self.scoring_memory_mib or 0.0)


@dataclass(frozen=True)
class Forecast:
    """Forecast of a run."""

    recipe: str
    computing: str
    """Device, precision and processes, in words."""
    available_mib: float
    """Memory of a device."""
    batch_size: int
    stages: tuple[StageForecast, ...]
    load_s: float | None = None
    """Seconds that the loader takes for a batch when nothing else is done."""
    start_s: float | None = None
    """Seconds before the first stage, once program and data are open."""
    end_s: float | None = None
    """Seconds after the last stage."""
    settings: tuple[Setting, ...] = ()
    """Changes with which the run fits, where it does not; those that give up least first."""

    @property
    def peak_memory_mib(self) -> float:
        """The most memory that any stage holds."""
        return max(each.most_memory_mib for each in self.stages)

    @property
    def fits(self) -> bool:
        """True if the device has that much."""
        return self.peak_memory_mib <= self.available_mib

    @property
    def total_s(self) -> float | None:
        """Seconds of the whole run; None where it was not rehearsed."""
        if self.start_s is None or self.end_s is None:
            return None
        stages = ((each.training_s or 0) + (each.scoring_s or 0) for each in self.stages)
        return self.start_s + math.fsum(stages) + self.end_s

    def to_dict(self) -> dict[str, Any]:
        """Give everything, for JSON."""
        settings = [{**asdict(each), "changes": each.changes()} for each in self.settings]
        return {
            **asdict(self),
            "settings": settings,
            "peak_memory_mib": self.peak_memory_mib,
            "fits": self.fits,
            "total_s": self.total_s,
        }


def scaled(stage: Stage, measured: Measured, pictures_every: int | None) -> StageForecast:
    """Forecast a stage of the recipe from measurements of a short one like it."""
    step_s = max(measured.step_s, measured.load_s) if stage.steps else None
    refreshes = times(stage.steps, stage.refresh_every)
    saves = math.ceil(stage.steps / stage.checkpoint_every) + refreshes
    training_s = (
        (1 + refreshes) * measured.prepare_s
        + stage.steps * (step_s or 0.0)
        + measured.once_s
        + saves * measured.save_s
        + times(stage.steps, stage.evaluate_every) * measured.evaluation_s
        + times(stage.steps, pictures_every) * measured.pictures_s
    )
    return StageForecast(
        name=stage.name,
        method=stage.method.name,
        steps=stage.steps,
        peak_memory_mib=measured.training_mib,
        scoring_memory_mib=measured.scoring_mib,
        step_s=step_s,
        training_s=training_s,
        scoring_s=measured.scoring_s,
    )


def times(steps: int, every: int | None) -> int:
    """Count the events that come every so many steps, without one after the last step."""
    return (steps - 1) // every if every and steps else 0
