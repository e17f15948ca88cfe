"""The command line run in this process."""

import sys

import pytest
from typer.testing import CliRunner

from cag_uda.cli.app import app, main


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a failing command writes to stderr; it must end with code 2 and no traceback."""
    before, sys.argv = sys.argv, ["cag-uda", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    written = capsys.readouterr().err
    assert ended.value.code == 2, written
    assert written.startswith("error: "), written
    assert "Traceback" not in written
    return written
