"""Folders as tools, disks and people leave them: read rightly, or told, and never passed over."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cag_uda.prediction.jobs import find_jobs
from tests.support.command_line import failure, run
from tests.support.found_folders import CLASSES, check_fails, described, opened, read
from tests.support.photo_folders import RNG, new, picture, write, write_pairs
from tests.support.trees import COLOURS, draw

# ---- what is a label, and whose ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("vis/{}.jpg", "drawings or previews"),
        ("SegmentationClassVisualization/{}.jpg", "drawings or previews"),
        ("photo_overlays/{}.png", "drawings or previews"),
        ("thumbnails/{}.jpg", "drawings or previews"),
        ("panoptic/{}.png", "maps of instances"),
        ("instance/{}.png", "maps of instances"),
        ("disparity/{}.png", "maps of instances"),
        ("images_ref/{}.jpg", "reference views"),
        ("smaller/{}.jpg", "what images/* shows"),
    ],
)
def test_what_is_neither_photograph_nor_label_is_left_out_by_name(
    pattern: str, why: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.jpg", "labels/{}.png")
    for number, ids in enumerate(labels):
        write(
            folder / pattern.format(number),
            picture(ids)[::2, ::2] // 2 + COLOURS[ids][::2, ::2] // 2,
        )
    tables, _, printed = new(folder)
    assert tables["splits"] == {"train": {"images": "images/*", "labels": "labels/*"}}
    name = pattern.format("*")
    assert f"{name} (4 files) left out: " in printed
    assert why in printed


def test_labels_of_one_split_are_none_of_another(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "train/images/{}.png", "train/masks/{}.png")
    write_pairs(folder, "train/images/{}.png", "train/masks_coarse/{}.png")
    write_pairs(folder, "test/images/{}.png", "")
    tables, _, printed = new(folder)
    assert "labels" not in tables["splits"]["test"]
    assert tables["splits"]["train"]["labels"] == "train/masks/*"
    assert "train/masks_coarse/*.png (4 files) left out: other labels are taken" in printed


def test_one_kind_of_label_is_taken_throughout(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for place in ("fog", "night", "rain"):
        image, label = f"rgb/{place}/a_{{}}_rgb.png", f"gt/{place}/a_{{}}_labelIds.png"
        labels = write_pairs(folder, image, label)
        if place != "rain":
            for number, ids in enumerate(labels):
                write(folder / f"gt/{place}/a_{number}_labelTrainIds.png", ids)
    tables, _, _ = new(folder)
    split = tables["splits"]["train"]
    assert "labelIds" not in str(split["labels"]), "of another meaning than the others"
    assert tables["splits"]["train-unlabelled"]["images"] == "rgb/rain/*"


def test_archives_and_unknown_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.jpg", "labels/{}.png")
    for name in ("images.zip", "more.zip", "scan.dcm"):
        (folder / name).write_bytes(b"PK")
    _, _, printed = new(folder)
    assert "images.zip and 1 more .zip files are left out: unpack it" in printed
    assert "scan.dcm is left out: convert DICOM" in printed


@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", ".thumbs"])
def test_folders_of_systems_hold_no_data(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "photos/{}.jpg", "")
    write_pairs(folder, f"photos/{name}/{{}}.jpg", "")
    new(folder)
    assert len(opened(folder).items("train")) == 4
    assert len(find_jobs([str(folder)], tmp_path / "out")) == 4


def test_dark_scans_and_palette_photographs_are_photographs(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for number in range(4):
        ids = draw(RNG)
        scan = np.zeros((96, 96), np.uint8)
        scan[24:72, 16:80] = RNG.integers(60, 200, ids.shape)
        write(folder / f"scans/{number}.png", scan)
        write(folder / f"annotation/{number}.png", (scan > 0).astype(np.uint8))
    tables, _, _ = new(folder)
    assert tables["splits"]["train"] == {"images": "scans/*", "labels": "annotation/*"}
    tiles = tmp_path / "tiles"
    for number in range(4):
        ids = draw(RNG)
        write(tiles / f"gt/{number}.png", ids)
        (tiles / "map").mkdir(exist_ok=True)
        Image.fromarray(picture(ids)).quantize(128).save(tiles / f"map/{number}.png")
    tables, _, _ = new(tiles)
    assert tables["splits"]["train"] == {"images": "map/*", "labels": "gt/*"}


# ---- masks as tools write them -----------------------------------------------------------------


def palette_png(path: Path, ids: np.ndarray, colours: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    image.putpalette(colours.astype(np.uint8).tobytes())
    image.save(path)


def test_palettes_that_differ_by_file_are_read_as_colours(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.jpg", "")
    for number, ids in enumerate(labels):
        order = np.roll(np.arange(4), number)
        indices = np.argsort(order)[ids].astype(np.uint8)
        palette_png(folder / f"labels/{number}.png", indices, COLOURS[order])
    tables, _, _ = new(folder)
    assert tables["labels"]["encoding"] == "rgb"
    found = [np.array([each["color"] for each in tables["classes"]])[each] for each in read(folder)]
    for colours, ids in zip(found, labels, strict=True):
        np.testing.assert_array_equal(colours, COLOURS[ids])
    path = described(folder, 'encoding = "palette"')
    assert "palettes of the labels differ" in run("check", path)


def test_soft_edges_take_the_nearest_and_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    def soft(ids: np.ndarray) -> np.ndarray:
        large = ((ids > 1) * np.uint8(255)).repeat(2, axis=0).repeat(2, axis=1)
        return np.asarray(cv2.GaussianBlur(large, (5, 5), 0))

    for number in range(4):
        ids = draw(RNG)
        write(folder / f"images/{number}.png", cv2.resize(picture(ids), (128, 96)))
        write(folder / f"masks/{number}.png", soft(ids))
    tables, _, _ = new(folder)
    assert [each["name"] for each in tables["classes"]] == ["background", "foreground"]
    assert 100 <= tables["labels"]["tolerance"] <= 127
    printed = run("check", folder.parent / "data.toml")
    assert "have the class of the nearest code, up to" in printed


def test_soft_edges_without_a_tolerance_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    def noisy(ids: np.ndarray) -> np.ndarray:
        return ids * 60 + RNG.integers(0, 9, ids.shape).astype(np.uint8)

    write_pairs(folder, "images/{}.png", "labels/{}.png", 2, noisy)
    labels = 'encoding = "ids"\nmap = { 0 = "road", 60 = "car", 120 = "tree", 180 = "sky" }'
    check_fails(described(folder, labels), "tolerance = 8 takes the class")
    path = described(folder, labels.replace("\n", "\ntolerance = 8\n"))
    assert "up to 8 away" in run("check", path)


def test_transparent_pixels_of_colour_masks_are_black(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.png", "")
    (folder / "labels").mkdir()
    for number, ids in enumerate(labels):
        rgba = np.dstack([COLOURS[ids], np.where(ids == 0, 0, 255)]).astype(np.uint8)
        Image.fromarray(rgba).save(folder / f"labels/{number}.png")
    tables, _, _ = new(folder)
    names = [each["name"] for each in tables["classes"]]
    assert len(names) == 3
    assert [each["color"] for each in tables["classes"]] == sorted(COLOURS[1:].tolist())
    assert (read(folder)[0] == 255).sum() == (labels[0] == 0).sum()


@pytest.mark.parametrize("form", ["TIFF", "BMP", "PNG", "PPM"])
def test_masks_of_one_bit_are_0_and_1(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.jpg", "")
    (folder / "masks").mkdir()
    extension = {"TIFF": "tif", "PPM": "pbm"}.get(form, form.lower())
    for number, ids in enumerate(labels):
        Image.fromarray(ids > 1).save(folder / f"masks/{number}.{extension}", form)
    new(folder)
    ones = [np.unique(each).tolist() for each in read(folder)]
    assert ones == [[0, 1]] * 4
    share = np.mean([each.mean() for each in read(folder)])
    assert share == np.mean([(ids > 1).mean() for ids in labels]) or form in ("PPM",)


def test_masks_as_gif(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "train/a{:02}.jpg", "")
    (folder / "train_masks").mkdir()
    for number, ids in enumerate(labels):
        mask = Image.fromarray((ids > 1).astype(np.uint8) * 255)
        mask.save(folder / f"train_masks/a{number:02}_mask.gif")
    tables, _, _ = new(folder)
    assert tables["splits"]["train"]["labels"] == "train_masks/*_mask"
    for found, ids in zip(read(folder), labels, strict=True):
        np.testing.assert_array_equal(found == found[ids > 1][0], ids > 1)


def test_masks_of_0_and_255_without_a_map_are_a_problem(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    def mask(ids: np.ndarray) -> np.ndarray:
        return (ids > 1).astype(np.uint8) * 255

    write_pairs(folder, "images/{}.png", "labels/{}.png", 2, mask)
    path = described(folder)
    check_fails(path, '0 = "road", 255 = "car"')


def test_labels_of_nothing_are_a_problem(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.png", "labels/{}.png", 2, lambda ids: ids * 0 + 255)
    check_fails(described(folder), "no pixel of any label has a class")


def test_one_class_alone_is_refused_with_a_proposal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.png", "labels/{}.png", 2, lambda ids: ids * 0)
    path = described(folder)
    path.write_text(path.read_text().replace(CLASSES, '[[classes]]\nname = "road"\n'))
    assert 'name = "background"' in failure(capsys, "check", path)
    assert "one class cannot be learnt" in failure(
        capsys, "domains", "new", folder, "--out", tmp_path / "x.toml"
    )


@pytest.mark.parametrize(
    ("encode", "rule"),
    [
        (lambda ids: ids.astype(np.uint16) * 256 + 7, "divide = 256"),
        (
            lambda ids: np.where(ids < 2, ids, ids.astype(np.uint16) * 1000 + 3).astype(np.uint16),
            "divide = 1000\ndivide_from = 1000",
        ),
    ],
)
def test_ids_of_instances_by_rule(
    encode: Callable[[np.ndarray], np.ndarray], rule: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.png", "labels/{}.png", 3, encode)
    described(folder, f'encoding = "ids"\n{rule}')
    for found, ids in zip(read(folder), labels, strict=True):
        np.testing.assert_array_equal(found, ids)


def test_labels_of_another_resolution_are_resized_with_a_note(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.png", "labels/{}.png", 3, lambda ids: ids[::2, ::2])
    path = described(folder)
    assert "3 labels are of another resolution" in run("check", path)
    domain = opened(folder)
    _, label = domain.read_pair(domain.items("train")[0])
    np.testing.assert_array_equal(label, labels[0])


def test_labels_that_no_image_uses_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.png", "labels/{}.png", 3)
    write(folder / "labels/left_over.png", draw(RNG))
    printed = run("check", described(folder))
    assert "1 label files belong to no image: labels/left_over.png" in printed


def test_arrays_of_numpy_are_labels(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.jpg", "")
    (folder / "labels").mkdir()
    for number, ids in enumerate(labels):
        np.save(folder / f"labels/{number}.npy", np.where(ids == 3, -1, ids.astype(np.int64)))
    (folder / "class_names.txt").write_text("__ignore__\n_background_\ncar\ntree\n")
    tables, _, _ = new(folder)
    assert tables["labels"]["encoding"] == "npy"
    assert [each["name"] for each in tables["classes"]] == ["_background_", "car", "tree"]
    np.testing.assert_array_equal(read(folder)[1], np.where(labels[1] == 3, 255, labels[1]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "labelmap.txt",
            "# label:rgb\nroad:{0}::\ncar:{1}::\ntree:{2}::\nsky:{3}::\n",
        ),
        ("label_colors.txt", "{0}\troad\n{1}\tcar\n{2}\ttree\n{3}\tsky\n"),
        ("class_dict.csv", "name,r,g,b\nroad,{0}\ncar,{1}\ntree,{2}\nsky,{3}\n"),
    ],
)
def test_names_of_colours_are_read(name: str, text: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.jpg", "labels/{}.png", encode=lambda ids: COLOURS[ids])
    separator = " " if "label_colors" in name else ","
    colours = [separator.join(map(str, colour)) for colour in COLOURS.tolist()]
    (folder / name).write_text(text.format(*colours))
    tables, _, _ = new(folder)
    assert [each["name"] for each in tables["classes"]] == ["road", "car", "tree", "sky"]
    np.testing.assert_array_equal(read(folder)[2], labels[2])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "road\ncar\ntree\nsky\n"),
        ("codes.txt", "road\r\ncar\r\ntree\r\nsky\r\n"),
        ("_classes.csv", "Pixel Value, Class\n0, road\n1, car\n2, tree\n3, sky\n"),
        (
            "data.yaml",
            "names:\n  0: road\n  1: car\n  2: tree\n  3: sky\nmasks_dir: labels\n",
        ),
        ("data.yaml", "names: [road, car, tree, sky]\nnc: 4\n"),
        ("obj.names", "road\ncar\ntree\nsky\n"),
    ],
)
def test_names_of_ids_are_read(name: str, text: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/train/{}.jpg", "labels/train/{}.png")
    (folder / name).write_text(text)
    tables, _, printed = new(folder)
    assert [each["name"] for each in tables["classes"]] == ["road", "car", "tree", "sky"]
    assert "map" not in tables["labels"]
    assert "give the classes their names" not in printed


# ---- photographs ---------------------------------------------------------------------------------


def test_a_sensor_of_12_bits_needs_no_hand(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.png", "labels/{}.png")
    for number, ids in enumerate(labels):
        write(folder / f"images/{number}.png", picture(ids).mean(2).astype(np.uint16) * 16)
    tables, _, _ = new(folder)
    assert tables["images"]["scale"] == [0, 4095]
    assert "uint16 from" in run("check", folder.parent / "data.toml")
    domain = opened(folder)
    assert len(np.unique(domain.read_image(domain.items("train")[0]))) > 60
    check_fails(described(folder), "grey levels or fewer are left")


def test_labels_on_raw_pixels_of_turned_photographs(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = write_pairs(folder, "images/{}.jpg", "labels/{}.png", 3)
    exif = Image.Exif()
    exif[0x112] = 6
    for number, ids in enumerate(labels):
        Image.fromarray(picture(ids)).save(folder / f"images/{number}.jpg", exif=exif, quality=95)
    check_fails(described(folder), 'orientation = "stored"')
    path = described(folder, extra='[images]\norientation = "stored"')
    assert "nothing is wrong" in run("check", path)
    exif[0x112] = 3
    for number, ids in enumerate(labels):
        Image.fromarray(picture(ids)).save(folder / f"images/{number}.jpg", exif=exif, quality=95)
    assert "3 images are turned by their EXIF orientation" in run("check", described(folder))


@pytest.mark.parametrize(
    ("extension", "form"), [("jfif", "JPEG"), ("avif", "AVIF"), ("jp2", "JPEG2000")]
)
def test_photographs_of_rarer_formats_are_found(extension: str, form: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    labels = [draw(RNG) for _ in range(3)]
    (folder / "images").mkdir(parents=True)
    for number, ids in enumerate(labels):
        Image.fromarray(picture(ids)).save(folder / f"images/{number}.{extension}", form)
        write(folder / f"labels/{number}.png", ids)
    new(folder)
    assert len(read(folder)) == 3
    assert len(find_jobs([str(folder / "images")], tmp_path / "out")) == 3


def test_what_to_do_about_a_broken_image_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pairs(folder, "images/{}.png", "labels/{}.png")
    (folder / "images/1.png").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    check_fails(described(folder), "git lfs pull")
    check_fails(described(folder), 'on_unreadable = "skip"')


# ---- speed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["domains"], ["recipes"], ["domains", "new", "data"], ["check", "data.toml"]],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", "images/{}.png", "labels/{}.png")
    new(tmp_path / "data")
    (tmp_path / "data.toml").rename(tmp_path / "kept.toml")
    if arguments[0] == "check":
        (tmp_path / "kept.toml").rename(tmp_path / "data.toml")
    code = (
        "import sys; from cag_uda.cli.app import main\n"
        f"sys.argv = ['cag-uda', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('imported', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr + done.stdout
    imported = done.stdout.partition("imported")[2].split()
    assert not {"torch", "lightning", "transformers", "matplotlib"} & set(imported)


@pytest.mark.quiet
def test_thirty_images_take_three_seconds(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", "images/{:02}.jpg", "labels/{:02}.png", 30)
    for arguments in (["domains", "new", "data"], ["check", "data.toml"]):
        command = [sys.executable, "-m", "cag_uda", *arguments]
        before = os.times()
        subprocess.run(command, stdout=subprocess.DEVNULL, cwd=tmp_path, check=True)
        after = os.times()
        user_s = after.children_user - before.children_user
        assert user_s + after.children_system - before.children_system < 3, arguments
