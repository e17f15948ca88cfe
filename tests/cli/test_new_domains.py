"""From a folder to a domain file without a wizard: `domains new`."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.data.inspection.label_looks import look_of
from tests.support.command_line import failure, run
from tests.support.photo_folders import RNG, new, picture, write, write_pairs
from tests.support.trees import COLOURS, draw, read_pixels

CAMVID = LabelSpace.load("camvid-11").palette


def opened(folder: Path) -> Domain:
    return Domain.open(folder.parent / f"{folder.name}.toml")


LAYOUTS: dict[str, tuple[list[tuple[str, str]], dict[str, tuple[Any, Any]]]] = {
    "parallel folders": (
        [("images/{:03}.jpg", "labels/{:03}.png")],
        {"train": ("images/*", "labels/*")},
    ),
    "SegNet's folders": (
        [(f"{s}/0001TP_00{{}}.png", f"{s}annot/0001TP_00{{}}.png") for s in ("train", "val")],
        {"train": ("train/*", "trainannot/*"), "val": ("val/*", "valannot/*")},
    ),
    "splits below": (
        [(f"images/{s}/{{}}.jpg", f"masks/{s}/{{}}.png") for s in ("training", "validation")],
        {
            "train": ("images/training/*", "masks/training/*"),
            "val": ("images/validation/*", "masks/validation/*"),
        },
    ),
    "splits above": (
        [(f"{s}/img/{{}}.jpg", f"{s}/ann/{{}}.png") for s in ("train", "test")],
        {"train": ("train/img/*", "train/ann/*"), "test": ("test/img/*", "test/ann/*")},
    ),
    "cities and suffixes": (
        [
            (f"left/train/{c}/{c}_{{:06}}_left.png", f"gt/train/{c}/{c}_{{:06}}_gt_ids.png")
            for c in ("aachen", "bochum", "ulm")
        ],
        {"train": ("left/train/*/*_left", "gt/train/*/*_gt_ids")},
    ),
    "one folder, two extensions": ([("{}.jpg", "{}.png")], {"train": ("*.jpg", "*.png")}),
    "one folder, a suffix": ([("im{}.jpg", "im{}_mask.png")], {"train": ("*.jpg", "*_mask")}),
    "a suffix of labels": ([("rgb/s{}.png", "gt/s{}_L.png")], {"train": ("rgb/*", "gt/*_L")}),
    "folders of drives": (
        [(f"{d}/images/{{}}.png", f"{d}/labels/{{}}.png") for d in ("a", "b")],
        {"train": ("*/images/*", "*/labels/*")},
    ),
    "no labels": ([("{}.jpg", "")], {"train": ("*", None)}),
    "no labels, folders of all depths": (
        [("a/{}.jpg", ""), ("a/b/{}.jpg", ""), ("c/{}.jpg", "")],
        {"train": ("**/*", None)},
    ),
    "a test split without labels": (
        [("train/images/{}.png", "train/labels/{}.png"), ("test/images/{}.png", "")],
        {"train": ("train/images/*", "train/labels/*"), "test": ("test/images/*", None)},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_labels_and_splits_are_found(layout: str, tmp_path: Path) -> None:
    pairs, expected = LAYOUTS[layout]
    folder = tmp_path / "data"
    labels = [write_pairs(folder, image, label) for image, label in pairs]
    tables, _, _ = new(folder)
    splits = tables["splits"]
    assert {name: (each["images"], each.get("labels")) for name, each in splits.items()} == expected
    domain = opened(folder)
    items = [item for split in domain.splits for item in domain.items(split)]
    assert len(items) == 4 * len(pairs)
    read = [domain.read_label(item) for item in items if item.label is not None]
    written = [ids for (_, label), each in zip(pairs, labels, strict=True) if label for ids in each]
    if "_mask" not in layout:
        assert sorted(ids.tobytes() for ids in read) == sorted(ids.tobytes() for ids in written)


def test_descriptive_names_are_no_suffixes(tmp_path: Path) -> None:
    for name in ("park_day", "river_day", "hill_night"):
        write(tmp_path / "photos" / f"{name}.jpg", picture(draw(RNG)))
    tables, _, _ = new(tmp_path / "photos")
    assert tables["splits"] == {"train": {"images": "*"}}


def palette_png(ids: np.ndarray, palette: np.ndarray, path: Path) -> None:
    image = PillowImage.fromarray(ids)
    image.putpalette(palette.astype(np.uint8).tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def test_ids_are_listed_with_their_share_and_wait_for_names(tmp_path: Path) -> None:
    folder = tmp_path / "game"
    write_pairs(folder, "images/{}.png", "labels/{}.png", 4, lambda ids: ids * 3 + 5)
    tables, text, printed = new(folder)
    names = [entry["name"] for entry in tables["classes"]]
    assert names == ["class-5", "class-8", "class-11", "class-14"]
    assert tables["labels"]["map"] == {name.removeprefix("class-"): name for name in names}
    share = np.mean([(read_pixels(path) == 8).mean() for path in (folder / "labels").iterdir()])
    assert f'name = "class-8"  # id 8: {100 * share:.2f} % of pixels, in 4 of 4' in text
    advice = "--label-space cityscapes-19 --overwrite"
    assert advice in text.partition("[[classes]]")[0], "which has such ids too"
    assert "give the classes their names" in printed
    assert run("check", folder.parent / "game.toml").count("nothing is wrong") == 1


def test_ids_in_order_need_no_map_and_255_is_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "game"

    def with_border(ids: np.ndarray) -> np.ndarray:
        bordered = ids.copy()
        bordered[:8] = 255
        return bordered

    write_pairs(folder, "images/{}.png", "labels/{}.png", 4, with_border)
    tables, _, _ = new(folder)
    assert [entry["name"] for entry in tables["classes"]] == [f"class-{n}" for n in range(4)]
    assert "map" not in tables["labels"]
    domain = opened(folder)
    assert (domain.read_label(domain.items("train")[0])[:8] == 255).all()


def test_a_mask_has_a_background_and_a_foreground(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    write_pairs(
        folder, "images/{}.png", "masks/{}.png", 3, lambda ids: (ids > 1).astype(np.uint8) * 255
    )
    tables, _, _ = new(folder)
    assert [entry["name"] for entry in tables["classes"]] == ["background", "foreground"]
    assert tables["labels"]["map"] == {"0": "background", "255": "foreground"}


def test_colours_of_a_label_space_are_known(tmp_path: Path) -> None:
    folder = tmp_path / "street"
    labels = write_pairs(folder, "images/{}.png", "labels/{}.png", 4, lambda ids: CAMVID[ids + 1])
    tables, _, printed = new(folder)
    assert tables["label_space"] == "camvid-11"
    assert tables["labels"] == {"encoding": "rgb"}
    assert "the colours are those of camvid-11" in printed
    domain = opened(folder)
    assert np.array_equal(domain.read_label(domain.items("train")[2]), labels[2] + 1)


def test_other_colours_become_classes_and_black_is_nothing(tmp_path: Path) -> None:
    colours = np.array([[1, 2, 250], [0, 0, 0], [12, 64, 128], [64, 9, 128]], np.uint8)
    folder = tmp_path / "street"
    labels = write_pairs(folder, "images/{}.png", "labels/{}.png", 4, lambda ids: colours[ids])
    tables, _, _ = new(folder)
    assert tables["labels"]["map"] == {
        "#0102fa": "class-0",
        "#0c4080": "class-1",
        "#400980": "class-2",
        "#000000": "ignore",
    }
    assert [entry["color"] for entry in tables["classes"]] == colours[[0, 2, 3]].tolist()
    domain = opened(folder)
    expected = np.array([0, 255, 1, 2])[labels[1]]
    assert np.array_equal(domain.read_label(domain.items("train")[1]), expected)


def test_a_palette_tells_its_label_space(tmp_path: Path) -> None:
    folder = tmp_path / "street"
    for number, ids in enumerate(write_pairs(folder, "images/{}.png", "", 3)):
        palette_png(ids, CAMVID, folder / "labels" / f"{number}.png")
    tables, _, _ = new(folder)
    assert tables["label_space"] == "camvid-11"
    assert tables["labels"] == {"encoding": "palette"}


def test_sixteen_bit_channels_are_told_apart(tmp_path: Path) -> None:
    def encode(ids: np.ndarray) -> np.ndarray:
        deep = np.zeros((*ids.shape, 3), np.uint16)
        deep[..., 0] = ids + 1
        deep[..., 1] = RNG.integers(0, 300, (6, 8)).repeat(8, 0).repeat(8, 1)
        return deep

    folder = tmp_path / "synthia"
    labels = write_pairs(folder, "RGB/{:07}.png", "GT/LABELS/{:07}.png", 3, encode)
    for number, ids in enumerate(labels):
        write(folder / f"GT/COLOR/{number:07}.png", COLOURS[ids])
    tables, _, _ = new(folder)
    assert tables["labels"]["encoding"] == "channel"
    assert tables["labels"]["channel"] == 0
    assert tables["splits"]["train"]["labels"] == "GT/LABELS/*"
    domain = opened(folder)
    assert np.array_equal(domain.read_label(domain.items("train")[0]), labels[0])


def test_cityscapes_files_are_known_by_their_names(tmp_path: Path) -> None:
    folder, ids = tmp_path / "city", np.array([7, 26, 21, 0], np.uint8)
    for city in ("aachen", "ulm"):
        stem = f"train/{city}/{city}_{{:06}}_000019"
        labels = write_pairs(
            folder,
            f"leftImg8bit/{stem}_leftImg8bit.png",
            f"gtFine/{stem}_gtFine_labelIds.png",
            3,
            lambda label: ids[label],
        )
        for number, label in enumerate(labels):
            place = str(folder / f"gtFine/{stem.format(number)}_gtFine_")
            write(Path(place + "color.png"), COLOURS[label])
            write(Path(place + "instanceIds.png"), label.astype(np.uint16) * 1000)
    tables, text, _ = new(folder)
    assert tables["label_space"] == "cityscapes-19"
    assert tables["splits"]["train"]["labels"] == "gtFine/train/*/*_gtFine_labelIds"
    assert tables["labels"]["map"]["26"] == "car"
    assert tables["labels"]["other"] == "ignore"
    assert "# left out: id 0" in text
    domain = opened(folder)
    seen = {int(v) for item in domain.items("train") for v in np.unique(domain.read_label(item))}
    assert seen == {0, 13, 8, 255}


def test_a_label_space_that_the_user_names_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "camvid"
    ids = np.array([3, 8, 5, 11], np.uint8)
    labels = write_pairs(folder, "images/{}.png", "labels/{}.png", 3, lambda label: ids[label])
    tables, _, _ = new(folder, "--label-space", "camvid-11")
    assert tables["label_space"] == "camvid-11"
    assert tables["labels"]["map"] == {"11": "ignore"}
    domain = opened(folder)
    expected = np.array([3, 8, 5, 255])[labels[0]]
    assert np.array_equal(domain.read_label(domain.items("train")[0]), expected)
    command = ("domains", "new", folder, "--out", tmp_path / "x.toml", "--label-space", "camvid")
    assert "did you mean 'camvid-11'" in failure(capsys, *command)


def test_lists_name_the_labelled_images(tmp_path: Path) -> None:
    folder = tmp_path / "voc"
    write_pairs(folder, "JPEGImages/2007_{:06}.jpg", "SegmentationClass/2007_{:06}.png", 8)
    for number in (6, 7):
        (folder / f"SegmentationClass/2007_{number:06}.png").unlink()
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"2007_{n:06}\n" for n in range(4)))
    (lists / "val.txt").write_text("".join(f"2007_{n:06}\n" for n in (4, 5)))
    tables, _, _ = new(folder)
    assert tables["splits"]["val"]["list"] == "ImageSets/Segmentation/val.txt"
    assert [len(opened(folder).items(split)) for split in ("train", "val")] == [4, 2]


def test_images_without_labels_among_labelled_ones_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "some"
    write_pairs(folder, "images/{}.png", "labels/{}.png", 6)
    (folder / "labels" / "3.png").unlink()
    _, _, printed = new(folder)
    assert "1 of the 6 images of split 'train' have no label" in printed
    assert "list =" in printed


def test_colours_as_jpeg_are_read_within_a_tolerance(tmp_path: Path) -> None:
    folder = tmp_path / "game"
    labels = write_pairs(folder, "images/{}.png", "labels/{}.jpg", 3, lambda ids: COLOURS[ids])
    tables, _, _ = new(folder)
    assert 1 <= tables["labels"]["tolerance"] <= 127
    assert len(tables["classes"]) == 4
    domain = opened(folder)
    road = domain.read_label(domain.items("train")[0])[labels[0] == 0]
    assert max((road == train_id).mean() for train_id in range(4)) > 0.97, "one class stays one"
    assert "nearest code" in run("check", folder.parent / "game.toml")


def test_ids_as_jpeg_are_left_out_and_told(tmp_path: Path) -> None:
    folder = tmp_path / "game"
    write_pairs(folder, "images/{}.png", "labels/{}.jpg", 3)
    tables, _, printed = new(folder)
    assert tables["splits"] == {"train": {"images": "images/*"}}
    assert "labels/*.jpg (3 files) left out" in printed


def test_what_cannot_be_described_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no folder at" in failure(capsys, "domains", "new", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in failure(capsys, "domains", "new", tmp_path / "empty")
    write_pairs(tmp_path / "one", "im{}.png", "im{}_mask.png")
    message = failure(capsys, "domains", "new", tmp_path / "one", "--out", tmp_path / "one.toml")
    assert "no pattern tells apart" in message
    assert "_mask" in message
    write_pairs(tmp_path / "deep", "images/{}.png", "labels/{}.png", 3, many_ids)
    message = failure(capsys, "domains", "new", tmp_path / "deep", "--out", tmp_path / "deep.toml")
    assert "instances or depth" in message
    write_pairs(tmp_path / "mixed", "images/{}.png", "labels/{}.png", 3)
    write(tmp_path / "mixed/labels/1.png", COLOURS[draw(RNG)])
    message = failure(capsys, "domains", "new", tmp_path / "mixed", "--out", tmp_path / "m.toml")
    assert "different ways" in message
    assert not list(tmp_path.glob("*.toml"))


def many_ids(ids: np.ndarray) -> np.ndarray:
    blocks = np.arange(300).reshape(15, 20).astype(np.uint16)
    return blocks.repeat(16, 0).repeat(16, 1)


def test_no_file_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path / "photos", "{}.jpg", "")
    out = tmp_path / "photos.toml"
    out.write_text("mine")
    command = ("domains", "new", tmp_path / "photos", "--out", out)
    assert "--overwrite" in failure(capsys, *command)
    assert out.read_text() == "mine"
    run(*command, "--overwrite", "--name", "street")
    assert tomllib.loads(out.read_text())["name"] == "street"


def test_photographs_and_labels_look_different(tmp_path: Path) -> None:
    label = draw(RNG)
    write(tmp_path / "photo.png", picture(label))
    write(tmp_path / "grey.png", picture(label)[..., 0])
    write(tmp_path / "ids.png", label)
    write(tmp_path / "colours.png", COLOURS[label])
    write(tmp_path / "depth.png", RNG.integers(0, 60000, label.shape, dtype=np.uint16))
    (tmp_path / "broken.png").write_bytes(b"junk")
    looks = {path.stem: look_of(path) for path in tmp_path.iterdir()}
    assert looks == {
        "photo": "photo",
        "grey": "photo",
        "ids": "label",
        "colours": "label",
        "depth": "photo",
        "broken": "other",
    }
