"""The loop: what it exchanges in a step, and when its callbacks are called."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cag_uda.methods.base import Method
from cag_uda.recipes import load_recipe
from cag_uda.runs import runner
from cag_uda.runs.records.stage import MetricsLine
from cag_uda.runs.runner import StageRunner, adapt
from cag_uda.training.callbacks import Callback, ForLog
from cag_uda.training.log import StageLog
from cag_uda.training.processes import Processes
from tests.support.trees import RECIPE, write_recipe

ONE_STAGE = "[[stages]]".join(RECIPE.split("[[stages]]")[:2]).replace("steps = 3", "steps = 6")


def test_a_step_is_one_exchange_between_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is logged or saved; losses are gathered when they are."""
    exchanges, at_steps = [0], []
    for name in ("largest", "gather"):
        exchange = getattr(Processes, name)

        def counted(self: Processes, value: Any, exchange: Any = exchange) -> Any:
            exchanges[0] += 1
            return exchange(self, value)

        monkeypatch.setattr(Processes, name, counted)
    add = StageLog.add

    def noted(self: StageLog, step: int, *arguments: Any) -> None:
        add(self, step, *arguments)
        at_steps.append(exchanges[0])

    monkeypatch.setattr(StageLog, "add", noted)
    changes = ["stages.*.log_every=6", "stages.*.checkpoint_every=6"]
    adapt(load_recipe(write_recipe(tmp_path, ONE_STAGE), changes), tmp_path / "run", progress=False)
    assert [after - before for before, after in pairwise(at_steps)] == [1] * 5


class Told(Callback):
    """Notes what it is called with, and has the log note each third step."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_prepared(self, method: Method) -> None:
        self.calls.append("prepared")

    def on_start(self, folder: Path, step: int) -> None:
        self.calls.append((folder.name, step))

    def on_step(self, method: Method, step: int) -> ForLog:
        self.calls.append(step)
        return {"scores": {"miou": 0.5}} if step % 3 == 0 else {}

    def on_log(self, record: MetricsLine) -> None:
        self.calls.append("scores" if record.losses is None else "losses")

    def on_end(self, method: Method) -> None:
        self.calls.append("end")


def test_callbacks_are_called_in_the_order_of_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()

    class Runner(StageRunner):
        def callbacks(self, index: int) -> list[Callback]:
            return [*super().callbacks(index), told]

    monkeypatch.setattr(runner, "StageRunner", Runner)
    recipe = load_recipe(write_recipe(tmp_path, ONE_STAGE), ["stages.*.log_every=4"])
    adapt(recipe, tmp_path / "run", progress=False)
    begun = ["prepared", ("0-source-only", 0)]
    assert told.calls == [*begun, 1, 2, 3, "scores", "losses", 4, 5, "losses", 6, "scores", "end"]
