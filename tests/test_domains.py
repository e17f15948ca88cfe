import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cag_uda.data import rendering
from cag_uda.data.domain import Domain
from cag_uda.data.label_space import LabelSpace
from cag_uda.data.patterns import find_images
from cag_uda.domains import domain_names
from cag_uda.errors import DataError

from .domain_trees import TWO_CLASSES, open_domain, write_label, write_photo, write_raw_png

UNLABELLED = '[splits.train]\nimages = "images/*"\n'
LABELLED = TWO_CLASSES + UNLABELLED + 'labels = "labels/*"\n'


def keys(domain: Domain, split: str = "train") -> list[str]:
    return [item.key for item in domain.items(split)]


def write_pair(data: Path, stem: str, ids: object = ((0, 1), (1, 255))) -> None:
    write_photo(data / "images" / f"{stem}.jpg", 2, 2)
    write_label(data / "labels" / f"{stem}.png", ids)


# ---- a domain of one's own ------------------------------------------------------------------


def test_a_labelled_folder(tmp_path: Path) -> None:
    for stem in "ba":
        write_pair(tmp_path / "data", stem)
    domain = open_domain(tmp_path, LABELLED)
    items = domain.items("train")
    assert [item.key for item in items] == ["images/a", "images/b"]
    assert items[0].image == tmp_path / "data/images/a.jpg"
    assert items[0].label == tmp_path / "data/labels/a.png"
    assert domain.splits == ("train",)
    assert domain.is_labelled("train")
    assert domain.label_space is not None
    assert domain.label_space.names == ("road", "car")
    image, label = domain.read_pair(items[0])
    assert image.shape == (2, 2, 3)
    assert label.tolist() == [[0, 1], [1, 255]]


def test_a_target_needs_no_labels_and_no_classes(tmp_path: Path) -> None:
    write_photo(tmp_path / "data/images/a.png")
    domain = open_domain(tmp_path, UNLABELLED)
    (item,) = domain.items("train")
    assert domain.label_space is None
    assert not domain.is_labelled("train")
    assert item.label is None
    with pytest.raises(DataError, match="the image images/a has no label"):
        domain.read_label(item)


def test_labels_that_are_not_there_do_not_keep_a_target_from_being_listed(tmp_path: Path) -> None:
    write_photo(tmp_path / "data/images/a.png")
    domain = open_domain(tmp_path, LABELLED)
    assert [item.label for item in domain.items("train", with_labels=False)] == [None]
    with pytest.raises(DataError, match=r"1 of 1 images .*images/a \(want labels/a\)"):
        domain.items("train")


def test_a_domain_can_be_sent_to_another_process(tmp_path: Path) -> None:
    write_pair(tmp_path / "data", "a")
    domain = open_domain(tmp_path, LABELLED)
    again = pickle.loads(pickle.dumps(domain))
    assert again.items("train") == domain.items("train")
    assert again.read_label(again.items("train")[0]).tolist() == [[0, 1], [1, 255]]


def test_the_first_root_that_exists_wins_and_is_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photo(tmp_path / "Second/images/a.png")
    write_photo(tmp_path / "third/images/b.png")
    path = tmp_path / "mine.toml"
    path.write_text('name = "x"\nroot = ["first", "Second", "third"]\n' + UNLABELLED)
    monkeypatch.chdir(tmp_path.parent)
    assert keys(Domain.open(f"{tmp_path.name}/mine.toml")) == ["images/a"]


def test_a_root_that_is_not_there_is_answered_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "dta").mkdir()
    domain = open_domain(tmp_path, UNLABELLED)
    with pytest.raises(
        DataError, match=r"no folder .*data; .* holds dta/, mine\.toml; mend `root`"
    ):
        domain.items("train")


# ---- patterns -------------------------------------------------------------------------------


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., None]:
    def make(*names: str) -> None:
        for name in names:
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return make


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("images/*", {"images/a": ("a",), "images/a.b": ("a.b",), "images/c": ("c",)}),
        ("images/*.*", {"images/a": ("a",), "images/a.b": ("a.b",), "images/c": ("c",)}),
        ("images/*.png", {"images/a": ("a",)}),
        ("./images/?", {"images/a": (), "images/c": ()}),
        ("images/[a-b]*", {"images/a": ("",), "images/a.b": (".b",)}),
        ("images/[!a]*", {"images/c": ("",)}),
        ("images/a", {"images/a": ()}),
        ("deep/*/*_x", {"deep/one/1_x": ("one", "1"), "deep/two/1_x": ("two", "1")}),
        (
            "deep/**/*_x",
            {
                "deep/one/1_x": ("one", "1"),
                "deep/two/1_x": ("two", "1"),
                "deep/two/in/2_x": ("two/in", "2"),
                "deep/0_x": ("", "0"),
            },
        ),
        ("**/in/*", {"deep/two/in/2_x": ("deep/two", "2_x")}),
        ("nothing/here/*", {}),
    ],
)
def test_patterns_find_and_capture(
    tmp_path: Path,
    touch: Callable[..., None],
    pattern: str,
    expected: dict[str, tuple[str, ...]],
) -> None:
    touch("images/a.png", "images/a.b.jpg", "images/c.JPG", "images/notes.txt")
    touch("images/.DS_Store", "images/._a.png", ".hidden/a.png", "images/folder.png/x.txt")
    touch("deep/one/1_x.png", "deep/two/1_x.png", "deep/two/in/2_x.png", "deep/0_x.png")
    found = list(find_images(tmp_path / "data", pattern))
    assert {image.key: image.captured for image in found} == expected


def test_links_are_followed_but_not_in_circles(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("images/in/a.png")
    os.symlink(tmp_path / "data/images", tmp_path / "data/images/circle")
    os.symlink(tmp_path / "data/images/in", tmp_path / "data/images/linked")
    found = sorted(image.key for image in find_images(tmp_path / "data", "images/**/*"))
    assert found == ["images/in/a", "images/linked/a"]


def test_a_broken_link_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "data/images").mkdir(parents=True)
    os.symlink(tmp_path / "gone.png", tmp_path / "data/images/a.png")
    domain = open_domain(tmp_path, UNLABELLED)
    (item,) = domain.items("train")
    with pytest.raises(DataError, match=r"cannot read .*a\.png"):
        domain.read_image(item)


@pytest.mark.parametrize(
    ("images", "labels", "label"),
    [
        ("left/*/*_left", "gt/*/*_gt_ids", "gt/one/7_gt_ids.png"),
        ("left/**/*_left", "gt/**/*_gt_ids", "gt/one/7_gt_ids.png"),
        ("left/*/*.jpg", "flat/*_*.png", "flat/one_7_left.png"),
        ("left/*/*_left", "./flat/*_*_left.*", "flat/one_7_left.png"),
    ],
)
def test_labels_follow_the_wildcards_of_the_images(
    tmp_path: Path, touch: Callable[..., None], images: str, labels: str, label: str
) -> None:
    touch("left/one/7_left.jpg", "gt/one/7_gt_ids.png", "gt/one/7_gt_ids.jpg")
    touch("gt/one/7_gt_ids.json", "flat/one_7_left.png")
    text = f'{TWO_CLASSES}[splits.train]\nimages = "{images}"\nlabels = "{labels}"\n'
    (item,) = open_domain(tmp_path, text).items("train")
    assert item.label == tmp_path / "data" / label


def test_several_patterns_make_one_split(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("day/1.png", "day/2.png", "dusk/3.png", "dayGT/1.png", "dayGT/2.png", "duskGT/3.png")
    text = TWO_CLASSES + (
        '[splits.train]\nimages = ["day/*", "dusk/*", "day/1"]\nlabels = ["dayGT/*", "duskGT/*", '
        '"dayGT/1"]\n'
    )
    items = open_domain(tmp_path, text).items("train")
    assert [item.key for item in items] == ["day/1", "day/2", "dusk/3"]
    assert [item.label.parent.name for item in items if item.label] == ["dayGT", "dayGT", "duskGT"]


def test_a_pattern_that_finds_nothing_says_what_there_is(
    tmp_path: Path, touch: Callable[..., None]
) -> None:
    touch("images/a.txt", "images/b.csv")
    with pytest.raises(
        DataError, match=r"'images/\*' finds no image .*images holds a\.txt, b\.csv"
    ):
        open_domain(tmp_path, UNLABELLED).items("train")
    text = UNLABELLED.replace("images/*", "pictures/deep/*")
    with pytest.raises(DataError, match=r"data holds images/"):
        open_domain(tmp_path, text).items("train")


def test_two_images_of_one_name_are_refused(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("images/a.png", "images/a.jpg")
    with pytest.raises(DataError, match=r"a\.png .*are one image by name; let the pattern end in"):
        open_domain(tmp_path, UNLABELLED).items("train")
    assert keys(open_domain(tmp_path, UNLABELLED.replace("/*", "/*.jpg"))) == ["images/a"]


def test_images_without_a_label_are_counted_and_named(tmp_path: Path) -> None:
    for number in range(9):
        write_photo(tmp_path / f"data/images/{number}.png")
    write_label(tmp_path / "data/labels/0.png", [[0]])
    with pytest.raises(DataError, match=r"8 of 9 images .*images/1 \(want labels/1\).*8 in all"):
        open_domain(tmp_path, LABELLED).items("train")


# ---- lists and slices -----------------------------------------------------------------------


def test_lists_keep_what_they_name(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("images/x/1.png", "images/x/2.png", "images/y/2.png", "images/y/3.d.png")
    text = '[splits.train]\nimages = "images/*/*"\nlist = "some.txt"\n'
    domain = open_domain(tmp_path, text)
    listed = tmp_path / "data/some.txt"
    listed.write_text("\ufeff# mine\n\n3.d\r\n./images/x/1.png\n y/2.png \n", encoding="utf-8")
    assert keys(domain) == ["images/x/1", "images/y/2", "images/y/3.d"]
    listed.write_text("2\n7.png\n../1\n/images/x/1\n1\n")
    with pytest.raises(DataError, match=r"4 lines of .*'2' is the end of 2 paths") as error:
        domain.items("train")
    for part in ("'7.png' is no image", "'../1' leaves the root", "not relative to the root"):
        assert part in str(error.value)
    listed.write_text("# nothing\n")
    with pytest.raises(DataError, match="names no image"):
        domain.items("train")
    listed.unlink()
    with pytest.raises(DataError, match="cannot read the list"):
        domain.items("train")


@pytest.mark.parametrize(
    ("text", "expected"), [("0:2", "01"), ("3:", "34"), ("::2", "024"), ("-1:", "4"), (":-3", "01")]
)
def test_slices_are_those_of_python(
    tmp_path: Path, touch: Callable[..., None], text: str, expected: str
) -> None:
    touch(*(f"images/{number}.png" for number in range(5)))
    domain = open_domain(tmp_path, f'{UNLABELLED}slice = "{text}"\n')
    assert "".join(key[-1] for key in keys(domain)) == expected


def test_an_empty_slice_is_refused(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("images/1.png")
    with pytest.raises(DataError, match="slice = '5:' leaves none of the 1 images"):
        open_domain(tmp_path, f'{UNLABELLED}slice = "5:"\n').items("train")


# ---- files with problems --------------------------------------------------------------------


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
        images = ["../x/*", "/a/*", "a//b", "a/**", "a/x**/b", 'a\\b', "C:/a/*", "a[b-a]/*"]
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
        "labels.encoding: should be 'ids', 'palette', 'rgb' or 'channel'; got 'id'",
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
        "list: '../list.txt' leaves the root",
        "slice: 'a' is no slice",
    ):
        assert part in text
    assert len(problems) == 16


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


def test_an_unknown_split_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    domain = open_domain(tmp_path, UNLABELLED)
    for ask in (domain.items, domain.is_labelled):
        with pytest.raises(DataError, match=r"no split 'tran'; did you mean 'train'"):
            ask("tran")


# ---- built-in domains -----------------------------------------------------------------------


@pytest.mark.parametrize("name", domain_names())
def test_every_built_in_file_is_right(name: str, tmp_path: Path) -> None:
    domain = Domain.open(name, tmp_path)
    assert domain.name == name
    assert domain.label_space is not None
    assert domain.splits


def test_an_unknown_name_is_answered_with_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"did you mean 'camvid-dusk'.*gta5.*\.toml file"):
        Domain.open("camvid-dusc")
    (tmp_path / "mine.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"write mine\.toml"):
        Domain.open("mine")


def test_built_in_domains_look_below_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photo(tmp_path / "GTA5/images/00001.png")
    write_label(tmp_path / "GTA5/labels/00001.png", [[0]])
    monkeypatch.setenv("CAG_UDA_DATA", str(tmp_path))
    assert keys(Domain.open("gta5")) == ["images/00001"]
    with pytest.raises(DataError, match=r"give the parent folder, .*, by --data-root"):
        Domain.open("gta5", tmp_path / "GTA5").items("train")
    with pytest.raises(DataError, match=r"there is no folder .*elsewhere; name the folder that"):
        Domain.open("gta5", tmp_path / "elsewhere").items("train")


def test_gta5_reads_palette_labels_with_cityscapes_ids(tmp_path: Path) -> None:
    write_photo(tmp_path / "gta5/images/00001.png", 200, 200)
    ids = np.zeros((201, 200), np.uint8)
    ids[:, :50], ids[:, 50:100], ids[:, 100:150] = 7, 33, 34
    image = Image.fromarray(ids)
    image.putpalette(LabelSpace.load("cityscapes-19").palette.reshape(-1).tolist())
    (tmp_path / "gta5/labels").mkdir()
    image.save(tmp_path / "gta5/labels/00001.png")
    domain = Domain.open("gta5", tmp_path)
    photo, label = domain.read_pair(domain.items("train")[0])
    assert photo.shape[:2] == label.shape == (200, 200)
    assert [int(label[0, column]) for column in (0, 50, 100, 150)] == [0, 18, 255, 255]


def test_synthia_reads_its_two_channel_labels(tmp_path: Path) -> None:
    # 3 road, 21 wall, 10 person, 22 lane marking, which is no class.
    write_photo(tmp_path / "SYNTHIA/RAND_CITYSCAPES/RGB/0000001.png", 1, 4)
    row = np.array([3, 9, 21, 9, 10, 9, 22, 9], ">u2").tobytes()
    path = tmp_path / "SYNTHIA/RAND_CITYSCAPES/GT/LABELS/0000001.png"
    write_raw_png(path, 4, 16, 4, [row])
    domain = Domain.open("synthia", tmp_path)
    # The folder above is an accepted name too, but the data lie one further down.
    assert domain.root() == tmp_path / "SYNTHIA/RAND_CITYSCAPES"
    assert domain.read_label(domain.items("train")[0]).tolist() == [[0, 3, 11, 255]]


def test_cityscapes_pairs_files_of_different_endings(tmp_path: Path) -> None:
    stem = "ulm/ulm_000000_000019"
    for split in ("train", "test"):
        write_photo(tmp_path / f"cityscapes/leftImg8bit/{split}/{stem}_leftImg8bit.png")
    ids = [[number for number in range(34)]]
    for ending, content in (("labelIds", ids), ("instanceIds", [[0]]), ("color", [[0]])):
        write_label(tmp_path / f"cityscapes/gtFine/train/{stem}_gtFine_{ending}.png", content)
    domain = Domain.open("cityscapes", tmp_path)
    (item,) = domain.items("train")
    assert item.key == f"leftImg8bit/train/{stem}_leftImg8bit"
    label = domain.read_label(item)[0]
    assert domain.label_space is not None
    assert domain.label_space.label_ids is not None
    np.testing.assert_array_equal(label[domain.label_space.label_ids], np.arange(19))
    assert (label == 255).sum() == 34 - 19
    assert domain.is_labelled("val")
    assert not domain.is_labelled("test")
    assert domain.items("test")[0].label is None


def test_camvid_day_and_dusk(camvid_root: Path) -> None:
    day, dusk = (Domain.open(f"camvid-{name}", camvid_root) for name in ("day", "dusk"))
    assert len(day.items("train")) == 406
    train, test = dusk.items("train"), dusk.items("test")
    assert (len(train), len(test)) == (62, 62)
    assert (train[0].image.stem, test[-1].image.stem) == ("0001TP_006690", "0001TP_010380")
    image, label = dusk.read_pair(test[0])
    assert image.shape == (360, 480, 3)
    assert set(np.unique(label)) <= {*range(11), 255}
    # The names of the classes say what stands where: sky above, road below.
    assert day.label_space is not None
    first = day.read_label(day.items("train")[0])
    assert day.label_space.names[np.bincount(first[-40:].ravel(), minlength=256)[:11].argmax()] == (
        "road"
    )
    assert sum(len(Domain.open("camvid", camvid_root).items(s)) for s in ("train", "val")) == 468


# ---- rendered domains -----------------------------------------------------------------------


def test_scenes_are_rendered_when_asked_for_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[range] = []

    def render_folder(
        folder: Path, look: str, indices: range, seed: int, height_px: int, width_px: int
    ) -> None:
        assert (look, seed, height_px, width_px) == ("hard", 3, 32, 48)
        calls.append(indices)
        for index in indices:
            write_photo(folder / f"images/{index:06d}.png", height_px, width_px)
            write_label(folder / f"labels/{index:06d}.png", np.zeros((height_px, width_px)))

    monkeypatch.setattr(rendering, "render_folder", render_folder)
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "streets.toml"
    path.write_text(
        'name = "streets"\nlabel_space = "camvid-11"\n[rendered]\nlook = "hard"\nheight_px = 32\n'
        "width_px = 48\nseed = 3\n[splits.train]\nscenes = [0, 3]\n[splits.val]\nscenes = [2, 4]\n"
    )
    domain = Domain.open(path)
    assert domain.is_labelled("train")
    assert calls == []
    items = domain.items("train")
    assert [item.key for item in items] == [f"images/{index:06d}" for index in range(3)]
    folder = items[0].image.parents[1]
    assert folder.parent == tmp_path / "cache/rendered"
    assert re.fullmatch("hard-32x48-seed3-[0-9a-f]{8}", folder.name)
    assert domain.read_pair(items[0])[1].shape == (32, 48)
    assert domain.items("train") == items
    assert calls == [range(3)]
    assert [item.label for item in domain.items("val", with_labels=False)] == [None, None]
    assert calls == [range(3), range(2, 4)]


SCENES = """
name = "streets"
label_space = "camvid-11"
[rendered]
look = "clean"
height_px = 32
width_px = 48
[splits.train]
scenes = [4, 6]
"""


def test_the_renderer_and_the_domain_fit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "streets.toml").write_text(SCENES)
    domain = Domain.open(tmp_path / "streets.toml")
    image, label = domain.read_pair(domain.items("train")[1])
    assert image.shape == (32, 48, 3)
    assert set(np.unique(label)) <= {*range(11), 255}


def test_a_cache_that_cannot_be_written_is_answered_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "streets.toml").write_text(SCENES)
    with pytest.raises(DataError, match=r"(?s)cannot write .*CAG_UDA_CACHE"):
        Domain.open(tmp_path / "streets.toml").items("train")
