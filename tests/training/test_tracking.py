"""Loggers: what they are given, that a resumed run goes on there, that their failures are mild.

Weights & Biases and MLflow are stand-ins of the few calls used, as their libraries document them;
where wandb itself is installed, one test tells it too.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cag_uda.errors import RunError, UserError
from cag_uda.recipes import load_recipe
from cag_uda.runs.runner import adapt
from cag_uda.training.loggers import (
    Loggers,
    open_loggers,
    require_libraries,
)
from cag_uda.training.settings import LoggerName, TrackingConfig
from tests.support.trees import RECIPE, write_recipe

ONE_STAGE = RECIPE.partition('[[stages]]\nname = "adabn"')[0].replace("steps = 3", "steps = 5")
SETTINGS = {"seed": 3, "stages": [{"name": "warmup", "optim": {"learning_rate": 0.1}}]}
PICTURE = np.full((4, 6, 3), 7, np.uint8)


class StandInWandb(ModuleType):
    """`wandb`: init gives a run with define_metric, log and finish."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: list[dict[str, Any]] = []
        self.axes: dict[str, str] = {}
        self.logged: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []
        self.is_down = False

    def init(self, **how: Any) -> "StandInWandb":
        self.begun.append(how)
        return self

    def Image(self, picture: np.ndarray) -> np.ndarray:
        return picture

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self.axes[name] = step_metric

    def log(self, values: dict[str, Any]) -> None:
        if self.is_down:
            raise ConnectionError("no route to host")
        self.logged.append(values)

    def finish(self, *, exit_code: int) -> None:
        self.exit_codes.append(exit_code)

    def curve(self, name: str) -> list[tuple[int, Any]]:
        """Steps and values of one name of one stage."""
        stage = name.partition("/")[0]
        return [(each[f"{stage}/step"], each[name]) for each in self.logged if name in each]


class StandInMlflow(ModuleType):
    """`mlflow`: experiments, and runs with parameters, metrics and pictures."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.experiments: list[str] = []
        self.runs: dict[str, str] = {}
        self.status: list[str] = []
        self.parameters: dict[str, str] = {}
        self.metrics: list[tuple[str, float, int]] = []
        self.files: dict[str, np.ndarray] = {}

    def set_experiment(self, name: str) -> None:
        self.experiments.append(name)

    def start_run(self, run_id: str | None, run_name: str) -> Any:
        if run_id is None:
            run_id = f"run-{len(self.runs)}"
            self.runs[run_id] = run_name
        assert run_id in self.runs
        self.status.append("RUNNING")
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def log_params(self, params: dict[str, str]) -> None:
        self.parameters |= params

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics += [(key, value, step) for key, value in metrics.items()]

    def log_image(self, image: np.ndarray, artifact_file: str) -> None:
        self.files[artifact_file] = image

    def end_run(self, status: str) -> None:
        self.status.append(status)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> StandInWandb:
    stand_in = StandInWandb()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    return stand_in


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> StandInMlflow:
    stand_in = StandInMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    return stand_in


def opened(
    run: Path,
    *names: LoggerName,
    said: list[str] | None = None,
    settings: Mapping[str, Any] = SETTINGS,
) -> Loggers:
    note = [] if said is None else said
    return open_loggers(TrackingConfig(loggers=names), run, settings, note.append)


def tell(loggers: Loggers, run: Path, step: int, *, is_finished: bool) -> None:
    """A stage that goes on after `step` steps, takes one more, and is left."""
    loggers.on_start(run / "stages" / "0-warmup", step)
    loggers.numbers(step + 1, {"losses/source/ce": 0.5})
    loggers.picture(step + 1, "samples/0", PICTURE)
    loggers.close(is_finished)


def test_weights_and_biases_hears_of_each_stage_by_its_own_steps(
    wandb: StandInWandb, tmp_path: Path
) -> None:
    tell(opened(tmp_path, "wandb"), tmp_path, 0, is_finished=False)
    tell(opened(tmp_path, "wandb"), tmp_path, 1, is_finished=True)
    first, second = wandb.begun
    assert first == second
    assert (first["project"], first["name"]) == ("cag-uda", tmp_path.name)
    assert (first["resume"], first["dir"]) == ("allow", str(tmp_path))
    assert first["config"] == SETTINGS
    assert json.loads((tmp_path / "tracking.json").read_text()) == {"wandb": first["id"]}
    assert wandb.axes == {"0-warmup/*": "0-warmup/step"}
    assert wandb.curve("0-warmup/losses/source/ce") == [(1, 0.5), (2, 0.5)]
    assert [step for step, _ in wandb.curve("0-warmup/samples/0")] == [1, 2]
    assert wandb.exit_codes == [1, 0]


def test_mlflow_goes_on_with_its_run(mlflow: StandInMlflow, tmp_path: Path) -> None:
    settings = SETTINGS | {"many": {str(number): number for number in range(150)}}
    tell(opened(tmp_path, "mlflow", settings=settings), tmp_path, 0, is_finished=False)
    tell(opened(tmp_path, "mlflow", settings=settings), tmp_path, 1, is_finished=True)
    assert set(mlflow.experiments) == {"cag-uda"}
    assert mlflow.runs == {"run-0": tmp_path.name}
    assert mlflow.status == ["RUNNING", "KILLED", "RUNNING", "FINISHED"]
    assert len(mlflow.parameters) == 153
    assert mlflow.parameters["seed"] == "3"
    assert mlflow.parameters["stages.warmup.optim.learning_rate"] == "0.1"
    assert mlflow.metrics == [
        ("0-warmup/losses/source/ce", 0.5, 1),
        ("0-warmup/losses/source/ce", 0.5, 2),
    ]
    assert set(mlflow.files) == {
        "0-warmup/samples/0-000001.png",
        "0-warmup/samples/0-000002.png",
    }
    other = tmp_path / "other"
    other.mkdir()
    opened(other, "mlflow")
    assert list(mlflow.runs.values()) == [tmp_path.name, "other"]


def test_tensorboard_hides_what_a_resumed_stage_repeats(tmp_path: Path) -> None:
    stage = tmp_path / "stages" / "0-warmup"
    before = opened(tmp_path, "tensorboard")
    before.on_start(stage, 0)
    for step in range(1, 5):
        before.numbers(step, {"losses/a": float(step)})
    before.close(False)
    after = opened(tmp_path, "tensorboard")
    after.on_start(stage, 2)
    after.numbers(3, {"losses/a": 30.0})
    after.picture(3, "samples/0", PICTURE)
    after.close(True)
    events = EventAccumulator(str(stage / "tensorboard")).Reload()
    assert [(each.step, each.value) for each in events.Scalars("losses/a")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]
    (picture,) = events.Images("samples/0")
    assert (picture.step, picture.height, picture.width) == (3, 4, 6)


def test_the_real_weights_and_biases_goes_on_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the library is installed: two sessions of one run, with a number and a picture each."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    said: list[str] = []
    for step, is_finished in ((0, False), (1, True)):
        tell(opened(tmp_path, "wandb", said=said), tmp_path, step, is_finished=is_finished)
    assert said == []
    known = json.loads((tmp_path / "tracking.json").read_text())["wandb"]
    sessions = list((tmp_path / "wandb").glob(f"offline-run-*-{known}"))
    assert len(sessions) == 2
    for session in sessions:
        assert (session / f"run-{known}.wandb").stat().st_size > 0
        assert len(list((session / "files/media/images/0-warmup/samples").iterdir())) == 1


def test_the_real_mlflow_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library is installed: one run of two sessions, in a folder of files."""
    library = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    settings = SETTINGS | {"many": {str(number): number for number in range(150)}}
    said: list[str] = []
    for step, is_finished in ((0, False), (1, True)):
        loggers = opened(tmp_path, "mlflow", said=said, settings=settings)
        tell(loggers, tmp_path, step, is_finished=is_finished)
    assert said == []
    known = json.loads((tmp_path / "tracking.json").read_text())["mlflow"]
    client = library.MlflowClient()
    curve = client.get_metric_history(known, "0-warmup/losses/source/ce")
    assert [(point.step, point.value) for point in curve] == [(1, 0.5), (2, 0.5)]
    run = client.get_run(known)
    assert (run.info.status, run.info.run_name) == ("FINISHED", tmp_path.name)
    assert run.data.params["many.149"] == "149"
    pictures = [each.path for each in client.list_artifacts(known, "0-warmup/samples")]
    assert len(pictures) == 2


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_library_that_is_absent_is_named(
    name: LoggerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"{name}, which is not installed.*`pip install {name}`"):
        require_libraries(["tensorboard", name])
    require_libraries(["tensorboard"])


def test_a_service_that_refuses_ends_the_run_before_it_begins(
    wandb: StandInWandb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(**how: Any) -> None:
        raise ValueError("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=r"wandb cannot begin: api_key.*WANDB_MODE=offline"):
        opened(tmp_path, "wandb")


def test_a_service_that_fails_on_the_way_is_left_out(
    wandb: StandInWandb, mlflow: StandInMlflow, tmp_path: Path
) -> None:
    said: list[str] = []
    loggers = opened(tmp_path, "wandb", "mlflow", said=said)
    loggers.on_start(tmp_path / "0-warmup", 0)
    wandb.is_down = True
    loggers.numbers(1, {"losses/a": 1.0})
    loggers.numbers(2, {"losses/a": 2.0})
    loggers.close(True)
    assert said == ["wandb has failed and is left out: no route to host; see metrics.jsonl"]
    assert [value for _, value, _ in mlflow.metrics] == [1.0, 2.0]
    assert (wandb.exit_codes, mlflow.status) == ([], ["RUNNING", "FINISHED"])
    assert not opened(tmp_path)


def test_damaged_ids_are_named(wandb: StandInWandb, tmp_path: Path) -> None:
    (tmp_path / "tracking.json").write_text("{")
    with pytest.raises(RunError, match=r"tracking\.json is damaged"):
        opened(tmp_path, "wandb")


class CrashAt:
    """Progress that fails when a stage has taken some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def note(self, text: str) -> None:
        pass

    def update(self, label: str, done: int, total: int, values: Any = None) -> None:
        if "source-only" in label and done == self.step:
            raise RuntimeError("crash")


def test_a_whole_run_tells_losses_pictures_and_scores_and_goes_on_after_a_crash(
    wandb: StandInWandb, mlflow: StandInMlflow, tmp_path: Path
) -> None:
    every = ["stages.*.log_every=1", "stages.*.checkpoint_every=1", "tracking.pictures_every=2"]
    path, run = write_recipe(tmp_path, ONE_STAGE), tmp_path / "run"
    with pytest.raises(RuntimeError, match="crash"):
        adapt(load_recipe(path, [*every, "tracking.loggers=['wandb']"]), run, progress=CrashAt(3))
    both = load_recipe(path, [*every, "tracking.loggers=['wandb', 'mlflow']"])
    done = adapt(both, run, resume=True)

    assert [how["id"] for how in wandb.begun] == [wandb.begun[0]["id"]] * 2
    assert wandb.exit_codes == [1, 0]
    losses = wandb.curve("0-source-only/losses/source/ce")
    assert [step for step, _ in losses] == [1, 2, 3, 3, 4, 5]
    assert losses[2] == losses[3]
    pictures = wandb.curve("0-source-only/samples/0")
    assert [step for step, _ in pictures] == [2, 4, 5]
    # Image, prediction and truth, 48 by 64 pixels each.
    assert pictures[0][1].shape == (48, 3 * 64, 3)
    miou = done.scores.stages[0].miou
    assert wandb.curve("0-source-only/scores/miou") == [(5, miou)]
    assert ("0-source-only/scores/miou", miou, 5) in mlflow.metrics
    assert not (run / "stages/0-source-only/tensorboard").exists()
    told = [step for key, _, step in mlflow.metrics if key == "0-source-only/losses/source/ce"]
    assert told == [3, 4, 5]
