"""Names of files and folders, texts and lists, as disks, tools and editors leave them."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command_line import failure, run
from tests.support.found_folders import check_fails, described, opened, read
from tests.support.photo_folders import new, write_pairs

# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["set [1]", "raw{a,b}", "what*ever", "q?", "a]b"])
def test_brackets_and_braces_in_names_of_folders(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    place = name.replace("{", "{{").replace("}", "}}")  # As `str.format` wants it.
    labels = write_pairs(folder, f"{place}/images/{{}}.png", f"{place}/labels/{{}}.png")
    new(folder)
    np.testing.assert_array_equal(read(folder)[3], labels[3])


def test_a_bracket_written_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "set [1]/images/{}.png", "set [1]/labels/{}.png")
    described(folder, split='images = "set [1]/images/*"\nlabels = "set [[]1[]]/labels/*"')
    assert len(read(folder)) == 4


@pytest.mark.parametrize(("of_images", "of_labels"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_one_in_every_form_of_unicode(
    of_images: Any, of_labels: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    place, name = "Straßen-Übung", "größe {}.png"
    images = unicodedata.normalize(of_images, f"{place}/{name}")
    labels = unicodedata.normalize(of_labels, f"labels/{name}")
    write_pairs(folder, images, labels, 3)
    listed = unicodedata.normalize(of_labels, "größe 1\ngröße 2\n")
    (folder / "some.txt").write_text(listed, encoding="utf-8")
    described(folder, split=f'images = "{place}/*"\nlabels = "labels/*"\nlist = "some.txt"')
    assert len(read(folder)) == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_domain_files_and_lists_of_any_editor(encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.png", "labels/{}.png")
    (folder / "some.txt").write_bytes("images/1.png\r\n\r\nimages/3.png\r\n".encode(encoding))
    path = described(folder, split='images = "images/*"\nlabels = "labels/*"\nlist = "some.txt"')
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    assert "2 images, 2 labelled" in run("check", path)


@pytest.mark.parametrize(
    ("root", "advice"),
    [
        (r"C:\Users\me\data", r"root = 'C:\Users\me\data'"),
        (r"C:\new\table", "write paths with / or in single quotes"),
    ],
)
def test_windows_paths_get_a_message_that_shows_the_mend(
    root: str, advice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "d.toml"
    path.write_text(f'name = "d"\nroot = "{root}"\n[splits.train]\nimages = "*"\n')
    assert advice in failure(capsys, "check", path)


def test_names_that_are_no_utf_8_are_printed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.png", "labels/{}.png", 2)
    for part in ("images", "labels"):
        os.rename(folder / part / "0.png", os.fsencode(folder / part) + b"/stra\xdfe.png")
    (folder / os.fsdecode(b"images/stra\xdfe.png")).write_bytes(b"no image")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-m", "cag_uda", "check", str(described(folder))]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 2, done.stderr
    assert b"stra\\udcdfe.png" in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "images/1.png labels/1.png",
        "images/1.png,labels/1.png",
        "/content/drive/data/images/1.png",
        r"D:\data\images\1.png",
        "images/1.png\t/other/labels/1.png",
    ],
)
def test_lists_as_tools_write_them(line: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.png", "labels/{}.png")
    (folder / "some.txt").write_text(line + "\n")
    described(folder, split='images = "images/*"\nlabels = "labels/*"\nlist = "some.txt"')
    assert [item.key for item in opened(folder).items("train")] == ["images/1"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("images/1.png labels/2.png", "gives images/1 the label labels/2.png"),
        ("images/1 -1", "a number in its second column"),
    ],
)
def test_second_columns_that_mean_something_else_are_refused(
    line: str, problem: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.png", "labels/{}.png")
    (folder / "some.txt").write_text(line + "\n")
    path = described(folder, split='images = "images/*"\nlabels = "labels/*"\nlist = "some.txt"')
    check_fails(path, problem)
