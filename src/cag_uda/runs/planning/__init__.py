"""Forecast of a run on this device: memory and time of each stage, or what would fit.

`plan` tries each kind of stage on small crops, from which its memory at the recipe's sizes follows
(`fitting`). If the device has that much, the recipe is run in small (`rehearsal`), and what was
measured is scaled to its steps, images and frames (`forecast`).
"""

from cag_uda.runs.planning.fitting import Setting
from cag_uda.runs.planning.forecast import Forecast, StageForecast
from cag_uda.runs.planning.planner import plan

__all__ = ["Forecast", "Setting", "StageForecast", "plan"]
