"""Progress: a line now and then with what remains, a bar where there is a terminal."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from cag_uda.cli.console import OnConsole, make_console
from cag_uda.runs.console import shown
from cag_uda.runs.progress import Silent


def test_lines_now_and_then_tell_what_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("cag_uda.runs.console.time", SimpleNamespace(monotonic=lambda: now_s))
    written = io.StringIO()
    progress = OnConsole(Console(file=written, width=100))
    # Gone on with: 2 of 10 are no work of this process.
    for done, now_s in ((2, 100.0), (3, 104.0), (6, 120.0), (7, 124.0), (10, 140.0)):  # noqa: B007 - the clock reads it
        progress.update("labelling", done, 10, {"loss": 0.25})
    progress.update("writing", 1, 1)
    # 4 steps took 20 s, so the other 4 take as long.
    assert written.getvalue().splitlines() == [
        "labelling: 6/10, 20 s left, loss 0.250",
        "labelling: 10/10, loss 0.250",
        "writing: 1/1",
    ]


def test_a_terminal_has_a_bar_and_lines_above_it() -> None:
    written = io.StringIO()
    progress = OnConsole(Console(file=written, force_terminal=True, width=100))
    progress.update("labelling", 1, 4)
    progress.note("a line above")
    progress.update("labelling", 4, 4)
    shown = written.getvalue()
    assert "a line above" in shown
    assert "labelling" in shown
    assert "4/4" in shown
    assert " left" not in shown


def test_progress_is_shown_where_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert isinstance(shown(None), Silent)
    assert isinstance(shown(True), OnConsole)
    assert isinstance(shown(False), Silent)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert isinstance(shown(None), OnConsole)
    told = OnConsole(make_console())
    assert shown(told) is told
