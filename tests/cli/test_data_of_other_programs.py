"""Labels, lists and names as other programs write them: read rightly, or told what they are."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from cag_uda.data.domains.domain import Domain
from tests.support.command_line import run
from tests.support.found_folders import check_fails, described, opened, read
from tests.support.photo_folders import RNG, new, picture, write, write_pairs
from tests.support.trees import draw

# ---- numbers that are ids ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.int16, np.uint32])
def test_rasters_of_whole_numbers_are_labels_whatever_their_type(
    kind: type[np.generic], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.png", "")
    (folder / "labels").mkdir()
    for number, ids in enumerate(labels):
        raster = ids.astype(kind)
        if np.issubdtype(kind, np.signedinteger):
            raster[0, 0] = -1
        tifffile.imwrite(folder / f"labels/{number}.tif", raster)
    tables, _, _ = new(folder)
    assert tables["splits"] == {"train": {"images": "images/*", "labels": "labels/*"}}
    assert tables["labels"]["encoding"] == "ids"
    for ids, found in zip(labels, read(folder), strict=True):
        if np.issubdtype(kind, np.signedinteger):
            assert found[0, 0] == 255
        assert np.array_equal(found.flat[1:], ids.flat[1:])


def test_arrays_of_whole_floats_are_labels_and_fractions_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.png", "")
    (folder / "labels").mkdir()
    for number, ids in enumerate(labels):
        np.save(folder / f"labels/{number}.npy", ids.astype(np.float64))
    described(folder, 'encoding = "npy"', 'images = "images/*"\nlabels = "labels/*.npy"')
    assert all(map(np.array_equal, read(folder), labels))
    np.save(folder / "labels/2.npy", labels[2] + 0.5)
    check_fails(folder.parent / "data.toml", "want whole numbers from 0 to 65535")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_masks_in_the_alpha_of_one_colour(mode: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.png", "")
    (folder / "labels").mkdir()
    for number, ids in enumerate(labels):
        drawn = Image.new(mode, ids.shape[::-1], "white")
        drawn.putalpha(Image.fromarray((ids == 1).astype(np.uint8) * 255))
        drawn.save(folder / f"labels/{number}.png")
    tables, _, _ = new(folder)
    assert tables["labels"]["channel"] == len(mode) - 1
    assert all(map(np.array_equal, read(folder), [ids == 1 for ids in labels]))


def test_ids_in_the_red_of_black_masks(tmp_path: Path) -> None:
    """As CARLA writes them: dark, and no colours of classes."""
    folder = tmp_path / "data"
    labels = write_pairs(
        folder,
        "rgb/{}.png",
        "semantic/{}.png",
        encode=lambda ids: np.dstack([ids, 0 * ids, 0 * ids]),
    )
    tables, _, _ = new(folder)
    assert (tables["labels"]["encoding"], tables["labels"]["channel"]) == ("channel", 0)
    assert all(map(np.array_equal, read(folder), labels))


# ---- colours -----------------------------------------------------------------------------------

HEX = '[[classes]]\nname = "a"\ncolor = "#c81E0a"\n[[classes]]\nname = "b"\ncolor = [10, 80, 255]\n'


def coloured(folder: Path, swapped: bool) -> tuple[Path, list[np.ndarray]]:
    """A folder of labels in two colours, which its file names in two ways."""
    palette = np.array([[200, 30, 10], [10, 80, 255]], np.uint8)[:, :: -1 if swapped else 1]
    labels = write_pairs(
        folder, "images/{}.png", "labels/{}.png", encode=lambda ids: palette[ids % 2]
    )
    path = folder.parent / f"{folder.name}.toml"
    path.write_text(
        f'name = "d"\nroot = "{folder.name}"\n{HEX}[labels]\nencoding = "rgb"\n'
        '[splits.train]\nimages = "images/*"\nlabels = "labels/*"\n'
    )
    return path, [ids % 2 for ids in labels]


def test_colours_of_classes_may_be_written_as_in_maps(tmp_path: Path) -> None:
    _, labels = coloured(tmp_path / "data", swapped=False)
    assert all(map(np.array_equal, read(tmp_path / "data"), labels))
    space = opened(tmp_path / "data").label_space
    assert space is not None
    assert space.palette[0].tolist() == [200, 30, 10]


def test_red_and_blue_that_changed_places_are_seen(tmp_path: Path) -> None:
    path, _ = coloured(tmp_path / "data", swapped=True)
    check_fails(path, "red and blue changed places")


# ---- names and lists ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/image_{}.png", "labels/label_{}.png"),
        ("img/frame00{}.jpg", "gt/gt00{}.png"),
        ("all/photo-{}.jpg", "all/mask-{}.png"),
    ],
)
def test_labels_whose_names_begin_with_another_word(image: str, label: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, image, label)
    new(folder)
    assert all(map(np.array_equal, read(folder), labels))
    assert len(opened(folder).items("train")) == 4


def test_names_that_differ_in_capital_letters_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for number, ids in enumerate(write_pairs(folder, "photos/Street{}B.png", "")):
        write(folder / f"masks/street{number}b.png", ids)
    _, _, printed = new(folder)
    assert "but for capital letters" in printed


@pytest.mark.parametrize(
    "text",
    [
        "image,label\nimages/0.png,labels/0.png\nimages/2.png,labels/2.png\n",
        '"images/0.png"\r\n"images/2.png"\r\n',
        'file_name;mask_path\n"images/0.png";"labels/0.png"\n"images/2.png";"labels/2.png"\n',
    ],
)
def test_lists_in_csv(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.png", "labels/{}.png")
    (folder / "list.csv").write_text(text)
    described(folder, split='images = "images/*"\nlabels = "labels/*"\nlist = "list.csv"')
    assert [item.key for item in opened(folder).items("train")] == ["images/0", "images/2"]


def test_boxes_of_yolo_are_named_and_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/train/{}.jpg", "")
    (folder / "labels/train").mkdir(parents=True)
    for number in range(4):
        (folder / f"labels/train/{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    _, _, printed = new(folder)
    assert "labels/train/*.txt (4 files) left out: no polygons of YOLO" in printed


def test_environment_variables_in_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.png", "labels/{}.png")
    monkeypatch.setenv("MY_DISK", str(tmp_path))
    path = described(folder, root="$MY_DISK/data")
    assert len(Domain.open(path).items("train")) == 4
    assert len(Domain.open(f"$MY_DISK/{path.name}").items("train")) == 4


# ---- splits ------------------------------------------------------------------------------------


def test_pictures_of_two_splits_are_known_under_other_names(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = [draw(RNG) for _ in range(4)]
    for number, ids in enumerate(labels):
        pixels = picture(ids) if number else np.zeros((*ids.shape, 3), np.uint8)
        for place in ("images", "held"):
            name = f"{number}.png" if place == "images" else f"copy-{number}.png"
            if place == "images" or number < 2:
                write(folder / place / name, pixels)
                write(folder / f"{place}-labels" / name, ids)
    path = described(
        folder,
        split='images = "images/*"\nlabels = "images-labels/*"\n'
        '[splits.test]\nimages = "held/*"\nlabels = "held-labels/*"',
    )
    printed = run("check", path)
    said = "1 images of test show pixel by pixel what images of train show: images/1 = held/copy-1"
    assert said in " ".join(printed.split()), "and nothing of the black ones"


@pytest.mark.parametrize(
    ("training", "testing"),
    [("TrainSet", "TestSet"), ("trainimages", "testimages"), ("trainA", "testA"), ("fit", "tst")],
)
def test_words_of_splits_may_be_parts_of_words(training: str, testing: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, f"{training}/Images/{{}}.png", f"{training}/Labels/{{}}.png")
    write_pairs(folder, f"{testing}/Images/{{}}.png", f"{testing}/Labels/{{}}.png")
    tables, _, _ = new(folder)
    assert tables["splits"]["train"]["images"] == f"{training}/Images/*"
    assert tables["splits"]["test"]["images"] == f"{testing}/Images/*"


@pytest.mark.parametrize("are_labelled", [True, False])
@pytest.mark.parametrize("ending", [".txt", ".csv"])
def test_lists_of_splits_are_followed_where_folders_tell_none(
    ending: str, are_labelled: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.png", "labels/{}.png" if are_labelled else "")
    header = "image,label\n" if ending == ".csv" else ""
    (folder / f"train{ending}").write_text(f"{header}images/0.png\nimages/1.png\n")
    (folder / f"val{ending}").write_text(f"{header}images/2.png\n")
    tables, _, printed = new(folder)
    assert {name: split["list"] for name, split in tables["splits"].items()} == {
        "train": f"train{ending}",
        "val": f"val{ending}",
    }
    assert [item.key for item in opened(folder).items("val")] == ["images/2"]
    assert "1 of 4 images are left out: no list of a split names them" in printed


def test_once_jpeg_masks_of_other_files_are_covered_too(tmp_path: Path) -> None:
    """Files that were not looked at may be further from all colours."""
    folder = tmp_path / "data"
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    write_pairs(folder, "images/{}.png", "masks/{}.jpg", encode=lambda ids: palette[ids % 3])
    tables, _, _ = new(folder)
    assert tables["labels"]["other"] == "ignore"
    run("check", folder.parent / "data.toml")
