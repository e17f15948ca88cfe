"""Callbacks of a run."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from cag_uda.methods.base import Method, MethodConfig
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_plus import CAGPlus
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.methods.cbst import CBST, CBSTConfig
from cag_uda.methods.dacs import DACS, DACSConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import load_recipe
from cag_uda.recipes.schema import Stage
from cag_uda.runs import runner
from cag_uda.runs.callbacks import Reporting, Watch
from cag_uda.runs.progress import Silent
from cag_uda.runs.results import Results
from cag_uda.runs.runner import StageRunner, adapt
from cag_uda.training.loop import StageData
from tests.support.trees import RECIPE, write_recipe


class Told(Watch):
    """Notes what it is told, and lets methods see the first batch of each sweep."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def on_stage(self, stage: Stage, data: StageData) -> None:
        self.calls.append(stage.name)

    def on_sweep(self, sweep: Iterator[Any], images: int) -> Iterator[Any]:
        self.calls.append(images)
        yield next(sweep)

    def on_prepared(self, method: Method) -> None:
        self.calls.append("prepared")

    def on_end(self, method: Method) -> None:
        self.calls.append("end")

    def on_kept(self) -> None:
        self.calls.append("kept")


def test_a_watch_is_told_of_stages_and_their_sweeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    monkeypatch.setattr(runner, "StageRunner", partial(StageRunner, watch=told))
    header, _, adabn, _, cag = RECIPE.split("[[stages]]")
    path = write_recipe(tmp_path, "[[stages]]".join([header, adabn, cag]))
    adapt(load_recipe(path, ["loading.sweep_images=3"]), tmp_path / "run", progress=False)
    # The source's part for the anchors, the target for the margin and, at the end, for statistics.
    of_cag = ["stage-1", 3, 6, "prepared", 6, "end", "kept"]
    assert told.calls == ["adabn", 6, "prepared", "end", "kept", *of_cag]


class Kept:
    """Stands for a run's results."""

    def __init__(self) -> None:
        self.methods: list[Method] = []

    def keep_labelling(self, method: Method, folder: Path) -> None:
        self.methods.append(method)


@pytest.mark.parametrize(
    ("method", "config", "stands"),
    [
        (CBST, CBSTConfig(), True),
        (CAG, CAGConfig(), True),
        (DACS, DACSConfig(), False),
        (CAGPlus, CAGPlusConfig(), False),
    ],
)
def test_labels_that_follow_a_network_are_not_measured_before_it_has_learnt(
    method: type[Method], config: MethodConfig, stands: bool, segmenter: Segmenter
) -> None:
    kept = Kept()
    stage = load_recipe("demo").stages[0]
    reporting = Reporting(cast(Results, kept), Silent(), stage, "stage", Path("stage"), None)
    reporting.on_prepared(method(segmenter, config))
    assert bool(kept.methods) == stands
