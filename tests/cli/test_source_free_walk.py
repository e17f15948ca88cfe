"""Adapting without the source word for word as its page says, in two folders."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from cag_uda.runs.runner import adapt
from tests.support.command_line import run
from tests.support.places import REPOSITORY
from tests.support.trees import RECIPE, write_recipe

PAGE = REPOSITORY / "docs" / "source-free.md"
FIRST = "[[stages]]".join(RECIPE.split("[[stages]]")[:2])


def commands(heading: str) -> list[list[str]]:
    """The words of each command of a section of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.slow
def test_the_walk_without_the_source_word_for_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for house in (one, other):
        house.mkdir()
    adapt(write_recipe(one, FIRST), one / "house")
    monkeypatch.chdir(one)
    packing = commands("With the source: make the pack")
    assert [words[0] for words in packing] == ["pack"]
    for words in packing:
        run(*words)
    # What goes from one house to the other: this file.
    (one / "day.safetensors").rename(other / "day.safetensors")
    (one / "dusk" / "images").rename(other / "my-street")
    shutil.rmtree(one)

    monkeypatch.chdir(other)
    adapting = commands("With the target: adapt")
    assert [words[0] for words in adapting] == ["domains", "recipes", "check", "adapt", "predict"]
    for words in adapting:
        run(*words)
    assert len(list(Path("predictions").glob("*.png"))) == 6
    recipe = Path("day-to-my-street.toml").read_text()
    assert 'pack = "day.safetensors"' in recipe
    assert "[source]" not in re.sub("#.*", "", recipe)
    assert "pack of day/train" in Path("adapted/report.html").read_text()
