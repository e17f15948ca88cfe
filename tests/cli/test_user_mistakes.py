"""What users get wrong, and what they are told: what was got, what was wanted, what to do.

Every mistake ends with exit code 2 and lines that begin with `error: `, without a traceback.
"""

import errno
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

import cag_uda
from cag_uda.cli.app import main
from cag_uda.errors import ShapeError, UserError
from tests.support.mistake_table import ADAPT, TABLE, Mistake
from tests.support.mistake_world import write_world


@pytest.fixture(scope="module")
def whole_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.fixture
def world(whole_world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder to be in, on a machine without a GPU, a network, or data sets elsewhere."""

    def no_network(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("cannot find the files here, and the hub cannot be reached")

    monkeypatch.chdir(whole_world)
    monkeypatch.delenv("CAG_UDA_DATA", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("cag_uda.models.storage.snapshot_download", no_network)
    return whole_world


def told(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """What a failing command tells its user on both streams."""
    before, sys.argv = sys.argv, ["cag-uda", *shlex.split(command)]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    written = capsys.readouterr()
    assert ended.value.code == 2, written.err
    assert any(line.startswith("error: ") for line in written.err.splitlines()), written.err
    assert "Traceback" not in written.err
    # Tables and problems of `check` are wrapped to the width of the terminal.
    return " ".join(f"{written.out} {written.err}".split())


def assert_in_order(text: str, parts: tuple[str, ...]) -> None:
    place = 0
    for part in parts:
        assert part in text[place:], f"{part!r} is missing, or out of order, in: {text}"
        place = text.index(part, place) + len(part)


@pytest.mark.parametrize("mistake", TABLE, ids=lambda mistake: mistake.name)
def test_mistakes_are_explained(
    mistake: Mistake, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if mistake.change is not None:
        origin, old, new = mistake.change
        text = (world / origin).read_text()
        assert old in text
        (world / "bad.toml").write_text(text.replace(old, new, 1))
    assert_in_order(told(capsys, mistake.command), mistake.says)
    assert not (world / "new").exists()
    assert not (world / "hostile-code-ran").exists()


def test_there_are_enough_of_them() -> None:
    assert len(TABLE) >= 100
    assert len({mistake.name for mistake in TABLE}) == len(TABLE)


def test_no_space_left(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cag_uda.files.os.fsync", full)
    text = told(capsys, "adapt tiny.toml --out begun-4")
    assert_in_order(text, ("cannot write", "No space left on device", "free space", "--resume"))
    assert not list((world / "begun-4").iterdir())
    text = told(capsys, "evaluate model --domain day.toml --json scores.json")
    assert_in_order(text, ("cannot write scores.json", "No space left", "another folder"))
    assert not (world / "scores.json").exists()


def test_files_that_may_not_be_read(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    text = told(capsys, "adapt tiny.toml --out new")
    assert_in_order(text, ("cannot read the recipe tiny.toml", "Permission denied"))


def test_a_tracker_that_is_not_installed(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    text = told(capsys, "adapt tiny.toml --out new --track tensorboard,wandb")
    assert_in_order(text, ("wandb, which is not installed", "`pip install wandb`"))
    assert not (world / "new").exists()


def test_all_problems_of_a_recipe_come_at_once(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, ADAPT + "sede=1 --set loading.flip=2 --set stages.warmup.steps=-1")
    assert text.count("error: ") == 3
    for part in ("sede", "loading.flip", "stages.2.steps"):
        assert part in text


MODEL_CALLS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "load a path": (lambda: cag_uda.load("nowhere"), UserError, "no model at nowhere"),
    "load a run that has not ended": (lambda: cag_uda.load("run"), UserError, "no config.json"),
    "predict what is no image": (
        lambda: cag_uda.load("model").predict("notes.txt"),
        UserError,
        "notes.txt is damaged, cut off or no image",
    ),
    "predict an array of wide integers": (
        lambda: cag_uda.load("model").predict(np.zeros((48, 64, 3), np.int64)),
        UserError,
        r"\(48, 64, 3\) of int64: .* give uint8 from 0 to 255",
    ),
    "adapt over a run": (lambda: cag_uda.adapt("tiny.toml", "run"), UserError, "exists already"),
    "anchors of other channels": (
        lambda: cag_uda.CategoryAnchors(4, 8).distances(torch.zeros(1, 9, 2, 2)),
        ShapeError,
        "8",
    ),
    "labels of another size": (
        lambda: cag_uda.CategoryAnchors(4, 8).update(
            torch.zeros(1, 8, 2, 2), torch.zeros(1, 3, 3, dtype=torch.long)
        ),
        ShapeError,
        "3",
    ),
    "anchors of one class": (
        lambda: cag_uda.by_anchor(torch.zeros(1, 1, 2, 2), 2.5),
        ShapeError,
        "two",
    ),
}


@pytest.mark.parametrize("name", MODEL_CALLS)
def test_mistakes_in_python(name: str, world: Path) -> None:
    call, kind, message = MODEL_CALLS[name]
    with pytest.raises(kind, match=message):
        call()
