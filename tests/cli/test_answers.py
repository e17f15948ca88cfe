"""Answers come at once: before heavy imports, in words that hold, whatever files are called."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cag_uda
from cag_uda import files
from cag_uda.cli.app import app
from cag_uda.cli.console import printable
from cag_uda.models.segmenter import Segmenter
from tests.support.command_line import failure, run
from tests.support.trees import write_domain, write_recipe

HEAVY = ("torch", "transformers", "lightning", "cv2")

_FIRST_WORD = f"""
import io, os, sys
from cag_uda.cli.app import main
class Out(io.StringIO):
    def write(self, text):
        if text.strip():
            heavy = [name for name in {HEAVY} if name in sys.modules]
            print(heavy, file=sys.__stdout__, flush=True)
            os._exit(0)
        return 0
sys.stdout = Out()
main()
"""

COMMANDS = [
    "--version",
    "domains",
    "domains new photos",
    "adapt demo",
    "plan demo",
    "check camvid",
    "evaluate model --domain camvid",
    "predict model photos",
    "bench step --accelerator cuda",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_something_is_said_before_anything_heavy_is_imported(command: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[1:] = {command.split()!r}\n{_FIRST_WORD}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        env={"PATH": "", "CAG_UDA_DATA": str(tmp_path)},
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_version() -> None:
    assert run("--version") == f"cag-uda {cag_uda.__version__}\n"


def test_flags_have_no_type_in_help() -> None:
    for command in ("adapt", "predict", "pseudo-label", "domains new"):
        assert "bool" not in run(*command.split(), "--help")
    assert "--install-completion" in run("--help")


def test_an_interrupted_command_says_what_it_has_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cag_uda.prediction.predict.predict_files", interrupted)
    monkeypatch.setattr(files, "_written", [])
    for said in ("nothing was written", "what was written is whole"):
        done = CliRunner().invoke(app, ["predict", "model", "a.png"])
        assert done.exit_code == 130
        assert said in done.stderr
        files.write_text(tmp_path / "something", "")


def test_names_are_printed_as_they_are(
    tmp_path: Path, segmenter: Segmenter, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a [" / "x] [red] :smile:"
    folder.mkdir(parents=True)
    day = write_domain(folder, "day", seed=1)
    model = folder / "[red]model"
    segmenter.save_pretrained(model)
    assert "day/test" in run("evaluate", model, "--domain", day)
    for out in (folder / "[" / "x]", folder / "[bold]"):
        printed = run("predict", model, day.parent / "day" / "images", "--out", out)
        assert f"6 predictions in {out}" in printed
    assert "[/nothing]" in failure(capsys, "evaluate", "[/nothing]", "--domain", day)


def test_messages_steer_no_terminal_and_are_of_bounded_length() -> None:
    assert printable("a\x1b[31mb\x07\x9bc\ud800é\n") == "a\\x1b[31mb\\x07\\x9bc\\ud800é\n"
    assert len(printable("x" * 10**6)) < 2100
    assert "more characters" in printable("x" * 10**6)


def test_evaluate_takes_the_only_labelled_split(
    tmp_path: Path, segmenter: Segmenter, capsys: pytest.CaptureFixture[str]
) -> None:
    segmenter.save_pretrained(tmp_path / "model")
    day = write_domain(tmp_path, "day", seed=1)
    day.write_text(day.read_text().replace("[splits.test]", "[splits.val]"))
    message = failure(capsys, "evaluate", tmp_path / "model", "--domain", day)
    assert "train, val" in message
    assert "--split" in message
    text = day.read_text()
    labels = 'labels = "labels/*"\n'
    day.write_text(text.replace(f"{labels}[labels]", "[labels]"))
    assert "day/train" in run("evaluate", tmp_path / "model", "--domain", day)


def test_steps_of_every_stage(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    printed = run("adapt", recipe, "--out", tmp_path / "run", "--steps", 1)
    assert "network:" in printed
    resolved = (tmp_path / "run" / "recipe.toml").read_text()
    assert {line for line in resolved.splitlines() if line.startswith("steps = ")} == {
        "steps = 0",  # Of the stage that takes statistics alone.
        "steps = 1",
    }


@pytest.mark.parametrize(
    "command",
    [
        "--version",
        "domains",
        "domains new photos --overwrite",
        "recipes",
        "recipes show demo",
        "check photos",
    ],
)
def test_light_commands_import_no_framework(command: str, tmp_path: Path) -> None:
    write_domain(tmp_path, "photos", seed=1)
    arguments = command.replace("check photos", "check photos.toml").split()
    code = (
        f"import sys; sys.argv[1:] = {arguments!r}\nfrom cag_uda.cli.app import app\n"
        "app(standalone_mode=False)\n"
        "print([each for each in ('torch', 'transformers', 'lightning') if each in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout.splitlines()[-1] == "[]"
