import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from cag_uda.data.domains.domain import Domain
from cag_uda.data.files.patterns import find_images
from cag_uda.errors import DataError
from tests.support.domain_trees import (
    LABELLED,
    TWO_CLASSES,
    UNLABELLED,
    open_domain,
    write_label,
    write_photo,
)


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


def test_braces_stand_for_the_first_that_is_there(
    tmp_path: Path, touch: Callable[..., None]
) -> None:
    text = TWO_CLASSES + (
        '[splits.train]\nimages = "{new/images,old}/*"\nlabels = "{new/ids/*,new/gt/*,gt/*_id}"\n'
    )
    domain = open_domain(tmp_path, text)
    touch("old/1.png", "gt/1_id.png")
    (item,) = domain.items("train")
    assert (item.key, item.label) == ("old/1", tmp_path / "data/gt/1_id.png")
    touch("new/images/2.png", "new/images/3.png", "new/gt/2.png", "new/ids/3.png")
    assert keys(domain) == ["new/images/2", "new/images/3"]
    (tmp_path / "data/new/ids/3.png").unlink()
    with pytest.raises(DataError, match=r"images/3 \(want new/ids/3 or new/gt/3 or gt/3_id\)"):
        domain.items("train")


# ---- lists and slices -----------------------------------------------------------------------


def test_lists_keep_what_they_name(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("images/x/1.png", "images/x/2.png", "images/y/2.png", "images/y/3.d.png")
    text = '[splits.train]\nimages = "images/*/*"\nlist = "some.txt"\n'
    domain = open_domain(tmp_path, text)
    listed = tmp_path / "data/some.txt"
    listed.write_text("\ufeff# mine\n\n3.d\r\n./images/x/1.png\n y/2.png \n", encoding="utf-8")
    assert keys(domain) == ["images/x/1", "images/y/2", "images/y/3.d"]
    listed.write_text("2\n7.png\n../1\n/images/x/7\n1\n")
    with pytest.raises(DataError, match=r"4 lines of .*'2' is the end of 2 paths") as error:
        domain.items("train")
    for part in ("'7.png' is no image", "'../1' leaves the root", "'/images/x/7' is no image"):
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


def test_broken_images_are_left_out(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("images/1.png", "images/2.png")
    text = UNLABELLED + 'exclude = ["images/2", "images/7"]\npublished = 3\n'
    domain = open_domain(tmp_path, text)
    assert keys(domain) == ["images/1"]
    assert domain.excluded("train") == ("images/2", "images/7")
    assert domain.published("train") == 3
    (tmp_path / "data/images/1.png").unlink()
    with pytest.raises(DataError, match="exclude leaves none of the 1 images"):
        domain.items("train")


def test_an_unknown_split_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    domain = open_domain(tmp_path, UNLABELLED)
    for ask in (domain.items, domain.is_labelled):
        with pytest.raises(DataError, match=r"no split 'tran'; did you mean 'train'"):
            ask("tran")
