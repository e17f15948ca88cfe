"""Domain files with something wrong in them: every problem is named, all at once."""

from pathlib import Path

import pytest

from cag_uda.data.domains.domain import Domain
from cag_uda.errors import DataError
from tests.support.domain_trees import LABELLED, UNLABELLED


def problems_of(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        Domain.open(path)
    return error.value.problems


def test_all_problems_of_a_file_come_at_once(tmp_path: Path) -> None:
    problems = problems_of(
        tmp_path,
        """
        name = "x"
        root = 3
        colour = 1
        label_space = "camvid11"
        [labels]
        encoding = "id"
        chanel = 1
        [splits.train]
        imagse = "a/*"
        images = ["../x/*", "/a/*", "a//b", "a/**", "a/x**/b", 'a\\b', "C:/a/*", "a[b-a]/*",
            "{a,..}/b"]
        list = "../list.txt"
        slice = "a"
        """,
    )
    assert all(problem.startswith(f"{tmp_path / 'bad.toml'}: ") for problem in problems)
    text = "\n".join(problems)
    for part in (
        "root: want a string or a list of strings, got 3",
        "colour: unknown key; known keys: name, root,",
        "label_space: no built-in label space 'camvid11'; did you mean 'camvid-11'",
        "labels.encoding: should be 'ids', 'palette', 'rgb', 'channel', 'npy', 'coco',",
        "labels.chanel: unknown key; did you mean 'channel'?",
        "splits.train.imagse: unknown key; did you mean 'images'?",
        "images.0: '../x/*' leaves the root",
        "images.1: '/a/*' is not relative",
        "images.2: 'a//b' must end in a file name",
        "images.3: 'a/**' names folders only; write 'a/**/*'",
        "images.4: 'a/x**/b': ** must be a whole folder",
        "images.5: 'a\\\\b': separate folders with /",
        "images.6: 'C:/a/*' is not relative",
        "images.7: 'a[b-a]/*' has a broken",
        "images.8: '../b' leaves the root",
        "list: '../list.txt' leaves the root",
        "slice: 'a' is no slice",
    ):
        assert part in text
    assert len(problems) == 17


def test_a_misspelt_key_does_not_hide_problems_between_tables(tmp_path: Path) -> None:
    text = "\n".join(
        problems_of(
            tmp_path,
            """
            name = "x"
            size = 3
            label_space = "camvid-11"
            [labels]
            encoding = "channel"
            map = { 7 = "raod" }
            [splits.train]
            images = "a/*/*"
            labels = "b/*"
            [splits.val]
            images = ["a/*", "b/*", "c/*"]
            labels = ["d/*", "e/*"]
            [splits.test]
            labels = "b/*"
            scenes = [0, 3]
            """,
        )
    )
    for part in (
        "size: unknown key",
        "did you mean 'road'",
        "labels.channel: missing",
        "give either root, the folder of the images, or a [rendered] table",
        "splits.train.labels: 'b/*' has the wildcards * and the images 'a/*/*' have * *",
        "splits.val.labels: 2 patterns for 3 of images",
        "splits.test.scenes: only a domain with a [rendered] table has scenes",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('root = "r"\n' + UNLABELLED, "name: missing"),
        ('name = "x"\nroot = "r"\n', "splits: missing"),
        ('name = "x"\nroot = "r"\n[splits.train]\n', "images: missing; want a pattern"),
        ('name = "x"\nroot = "r"\n[labels]\n' + UNLABELLED, "labels need their classes"),
        ('name = "x"\nroot = "r"\nlabel_space = "camvid-11"\n' + LABELLED, "not both"),
        (
            'name = "x"\nroot = "r"\n' + LABELLED.replace("labels/*", "images/*"),
            "is the pattern of the images too",
        ),
        (
            'name = "x"\nroot = "r"\n' + LABELLED.replace("labels/*", "labels/?"),
            r"takes only \* and",
        ),
        (
            'name = "x"\nroot = "r"\n' + LABELLED + "[labels]\nchannel = 1\n",
            "labels.channel means nothing with encoding = 'ids'",
        ),
        (
            'name = "x"\nlabel_space = "camvid-11"\n[rendered]\nlook = "clean"\nheight_px = 64\n'
            'width_px = 96\n[splits.a]\nimages = "a/*"\n[splits.b]\nscenes = [3, 3]\n',
            r"splits\.b\.scenes: \[3, 3\] is empty",
        ),
        (
            'name = "x"\nlabel_space = "camvid-11"\n[rendered]\nlook = "clean"\nheight_px = 64\n'
            'width_px = 96\n[splits.a]\nimages = "a/*"\n',
            "(?s)images: a rendered domain takes scenes.*scenes: missing",
        ),
        ("name = ", "is no TOML"),
    ],
)
def test_files_with_one_problem(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(DataError, match=message):
        Domain.open(tmp_path / "bad.toml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes('name = "Straße"'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.toml is no UTF-8 text"):
        Domain.open(tmp_path / "latin.toml")
    with pytest.raises(DataError, match=r"cannot read the domain file .*: No such file"):
        Domain.open(tmp_path / "absent.toml")
    with pytest.raises(DataError, match=r"cannot read the domain file .*: Is a directory"):
        Domain.open(tmp_path)
