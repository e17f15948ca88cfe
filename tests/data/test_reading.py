import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from cag_uda.data.domains.label_map import ImageEncoding, build_label_map
from cag_uda.data.domains.label_reader import LabelReader, match_sizes
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.data.files.images import read_image
from cag_uda.errors import DataError
from tests.support.domain_trees import (
    GREY,
    GREY_AND_ALPHA,
    RGB,
    RGBA,
    write_image,
    write_label,
    write_photo,
    write_raw_png,
)

SPACE = LabelSpace.from_dict(
    {
        "name": "small",
        "classes": [
            {"name": "road", "color": (128, 64, 128)},
            {"name": "car", "color": (0, 0, 142)},
            {"name": "sky", "color": (70, 130, 180)},
        ],
    }
)


def reader(
    encoding: ImageEncoding,
    entries: dict[str, Any] | None = None,
    other: str | None = None,
    channel: int = 0,
) -> LabelReader:
    label_map, problems = build_label_map(encoding, entries or {}, other, SPACE)
    assert problems == []
    return LabelReader(label_map, channel, "mine.toml")


def big_endian(*values: int) -> bytes:
    return np.array(values, ">u2").tobytes()


# ---- photographs ----------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tif", ".ppm", ".webp"])
def test_images_come_as_rgb(tmp_path: Path, extension: str) -> None:
    path = write_image(tmp_path / f"x{extension}", np.full((4, 6, 3), (10, 20, 200), np.uint8))
    image = read_image(path)
    assert image.shape == (4, 6, 3)
    assert image.dtype == np.uint8
    assert np.abs(image[0, 0].astype(int) - (200, 20, 10)).max() <= 3  # WebP is lossy


def test_other_kinds_of_image_become_8_bit_rgb(tmp_path: Path) -> None:
    grey = write_image(tmp_path / "grey.png", np.full((4, 6), 77, np.uint8))
    deep = write_image(tmp_path / "deep.png", np.full((4, 6, 3), (0, 0, 0x8000), np.uint16))
    alpha = write_image(tmp_path / "alpha.png", np.full((4, 6, 4), (1, 2, 3, 0), np.uint8))
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    Image.new("P", (6, 4), 1).save(tmp_path / "palette.png")
    assert read_image(grey)[0, 0].tolist() == [77, 77, 77]
    assert read_image(deep)[0, 0].tolist() == [128, 0, 0]
    assert read_image(alpha)[0, 0].tolist() == [3, 2, 1]
    assert np.abs(read_image(tmp_path / "cmyk.jpg")[0, 0].astype(int) - (255, 0, 0)).max() <= 3
    assert read_image(tmp_path / "palette.png").shape == (4, 6, 3)


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (6, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (6, 4, 3)


def test_names_that_are_not_ascii_can_be_read(tmp_path: Path) -> None:
    plain = write_photo(tmp_path / "plain.png")
    assert read_image(plain.rename(tmp_path / "straße 道路.png")).shape == (6, 8, 3)


def noisy(path: Path) -> Path:
    return write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize("extension", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.97])
def test_cut_off_images_are_refused_by_name(tmp_path: Path, extension: str, share: float) -> None:
    path = noisy(tmp_path / f"cut{extension}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=f"cut{extension} is damaged, cut off or no image"):
        read_image(path)


def test_a_jpeg_that_opencv_completes_silently_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenCV 4 paints the missing part of a JPEG grey and says nothing.
    path = noisy(tmp_path / "cut.jpg")
    path.write_bytes(path.read_bytes()[:-200])
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match="cut off"):
        read_image(path)


def test_a_jpeg_with_appended_data_is_whole(tmp_path: Path) -> None:
    path = noisy(tmp_path / "camera.jpg")
    before = read_image(path)
    path.write_bytes(path.read_bytes() + b"maker's own data")
    np.testing.assert_array_equal(read_image(path), before)


def test_files_that_are_no_image_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image, but a text")
    with pytest.raises(DataError, match=r"empty\.png is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(DataError, match=r"text\.png is damaged"):
        read_image(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"cannot read .*absent\.png: No such file"):
        read_image(tmp_path / "absent.png")


# ---- labels: ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ids_without_a_map_are_train_ids(tmp_path: Path, dtype: type) -> None:
    path = write_label(tmp_path / "x.png", [[0, 1], [2, 255]], dtype)
    label = reader("ids").read(path)
    assert label.dtype == np.uint8
    assert label.tolist() == [[0, 1], [2, 255]]


def test_a_map_that_only_ignores_leaves_the_other_ids_alone(tmp_path: Path) -> None:
    path = write_label(tmp_path / "x.png", [[0, 1, 2, 11]])
    assert reader("ids", {"11": "ignore"}).read(path).tolist() == [[0, 1, 2, 255]]


def test_maps_take_names_train_ids_and_ids_above_255(tmp_path: Path) -> None:
    path = write_label(tmp_path / "x.png", [[7, 8, 40000, 3]], np.uint16)
    ids = reader("ids", {"7": "car", "8": 2, "40000": "road", "3": "ignore"})
    assert ids.read(path).tolist() == [[1, 2, 0, 255]]


def test_a_map_that_names_a_class_is_complete(tmp_path: Path) -> None:
    # Cityscapes: id 0 is "unlabeled"; it must not become train id 0 because the map left it out.
    path = write_label(tmp_path / "x.png", [[7, 0]])
    with pytest.raises(DataError, match=r"x\.png: label ids .*: 0 \(1 px\); .*mine\.toml"):
        reader("ids", {"7": "road"}).read(path)
    assert reader("ids", {"7": "road"}, other="ignore").read(path).tolist() == [[0, 255]]
    assert reader("ids", {"7": "road"}, other="car").read(path).tolist() == [[0, 1]]
    assert reader("ids", {"7": "car"}, other="keep").read(path).tolist() == [[1, 0]]


def test_ids_that_are_no_class_are_named_with_what_to_do(tmp_path: Path) -> None:
    path = write_label(tmp_path / "x.png", [[0, 34, 34, 254]])
    with pytest.raises(DataError, match=r"34 \(2 px\), 254 \(1 px\)") as error:
        reader("ids").read(path)
    assert 'other = "ignore"' in str(error.value)


@pytest.mark.parametrize(("bits", "row"), [(1, b"\x40"), (2, b"\x18"), (4, b"\x01\x20")])
def test_ids_of_fewer_than_8_bits_are_not_stretched(tmp_path: Path, bits: int, row: bytes) -> None:
    path = write_raw_png(tmp_path / "x.png", GREY, bits, 3, [row])
    expected = [[0, 1, 0]] if bits == 1 else [[0, 1, 2]]
    assert reader("ids").read(path).tolist() == expected


def test_labels_stored_otherwise_than_said_are_refused(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 2), 1)
    palette.save(tmp_path / "palette.png")
    with pytest.raises(DataError, match="set encoding = 'palette'"):
        reader("ids").read(tmp_path / "palette.png")
    with pytest.raises(DataError, match=r"3 channels .* encoding = 'rgb' .* channel = 0"):
        reader("ids").read(write_photo(tmp_path / "colours.png"))
    with pytest.raises(DataError, match="no palette image"):
        reader("palette").read(write_photo(tmp_path / "colours.png"))
    with pytest.raises(DataError, match="JPEG or another format that changes the ids"):
        reader("ids").read(write_image(tmp_path / "x.jpg", np.zeros((4, 4), np.uint8)))
    Image.fromarray(np.ones((4, 4), np.int32)).save(tmp_path / "x.tif")
    assert (reader("ids").read(tmp_path / "x.tif") == 1).all()
    for number in (0.5, 70_000, -2, np.nan):
        Image.fromarray(np.full((4, 4), number, np.float32)).save(tmp_path / "x.tif")
        with pytest.raises(DataError, match="float32 numbers that are no ids; want whole"):
            reader("ids").read(tmp_path / "x.tif")


@pytest.mark.parametrize("encoding", ["ids", "palette", "rgb", "channel"])
def test_broken_labels_are_refused_whatever_the_encoding(
    tmp_path: Path, encoding: ImageEncoding
) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more of it than this")
    with pytest.raises(DataError, match=r"x\.png is damaged"):
        reader(encoding).read(tmp_path / "x.png")


# ---- labels: palette, colours, channels -----------------------------------------------------


def test_palette_labels_are_indices_whatever_the_colours(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 2, 34]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(tmp_path / "x.png")
    assert reader("palette", {"34": "ignore"}).read(tmp_path / "x.png").tolist() == [[0, 1, 2, 255]]


def test_palette_labels_may_be_packed_in_single_bits(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[1, 0]], np.uint8))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.save(tmp_path / "x.png", bits=1)
    assert reader("palette").read(tmp_path / "x.png").tolist() == [[1, 0]]


def test_palette_labels_may_have_lost_their_palette(tmp_path: Path) -> None:
    path = write_label(tmp_path / "x.png", [[2, 1]])
    assert reader("palette").read(path).tolist() == [[2, 1]]


def test_colours_of_the_label_space_are_read_back(tmp_path: Path) -> None:
    label = np.array([[0, 1, 2, 255]], np.uint8)
    Image.fromarray(SPACE.colorize(label)).save(tmp_path / "x.png")
    np.testing.assert_array_equal(reader("rgb").read(tmp_path / "x.png"), label)


def test_colour_maps_take_both_ways_to_write_a_colour(tmp_path: Path) -> None:
    colours = np.array([[(1, 2, 3), (255, 0, 128), (9, 9, 9)]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "x.png")
    rgb = reader("rgb", {"1, 2,3": "sky", "#FF0080": 1}, other="ignore")
    assert rgb.read(tmp_path / "x.png").tolist() == [[2, 1, 255]]
    with pytest.raises(DataError, match=r"label colours .* #090909 \(1 px\)"):
        reader("rgb", {"1,2,3": "sky", "#ff0080": 1}).read(tmp_path / "x.png")


@pytest.mark.parametrize("channel", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", [RGB, RGBA])
def test_channels_count_in_the_order_of_the_file(tmp_path: Path, kind: int, channel: int) -> None:
    channels = 3 if kind == RGB else 4
    ids = [300, 301, 302, 303][:channels]
    path = write_raw_png(tmp_path / "x.png", kind, 16, 2, [big_endian(*ids, *ids)])
    entries = {str(300 + number): min(number, 2) for number in range(4)}
    label = reader("channel", entries, channel=channel)
    if channel < channels:
        assert label.read(path).tolist() == [[min(channel, 2)] * 2]
    else:
        with pytest.raises(DataError, match="has 3 channels, so channel = 3"):
            label.read(path)


def test_synthia_labels_with_two_channels(tmp_path: Path) -> None:
    # SYNTHIA's labels: class and instance, 16 bits each, as grey and alpha.
    path = write_raw_png(
        tmp_path / "x.png", GREY_AND_ALPHA, 16, 3, [big_endian(2, 500, 1, 501, 0, 502)]
    )
    assert reader("channel", channel=0).read(path).tolist() == [[2, 1, 0]]
    instances = {"500": "road", "501": "car", "502": "sky"}
    assert reader("channel", instances, channel=1).read(path).tolist() == [[0, 1, 2]]
    with pytest.raises(DataError, match="has 2 channels"):
        reader("channel", channel=2).read(path)


def test_the_only_channel_is_the_first(tmp_path: Path) -> None:
    path = write_label(tmp_path / "x.png", [[2, 1]])
    assert reader("channel", channel=0).read(path).tolist() == [[2, 1]]


# ---- maps with problems, sizes --------------------------------------------------------------


def test_every_problem_of_a_map_is_found() -> None:
    entries = {"x": "road", "70000": "road", "1": "raod", "2": 3, "3": True, "07": 1, "7": 2}
    _, problems = build_label_map("ids", entries, "cra", SPACE)
    text = "\n".join(problems)
    assert len(problems) == 7
    for part in (
        "'x' is no id",
        "'70000' is no id",
        "did you mean 'road'",
        "no train id of small; want 0 to 2",
        "3 = True",
        "'7' is mapped twice",
        "labels.other = 'cra': no class of small; did you mean 'car'",
    ):
        assert part in text
    _, problems = build_label_map("rgb", {"1,2": 0, "1,2,256": 0, "#12345": 0}, None, SPACE)
    assert len(problems) == 3


def test_colours_without_a_map_need_colours_in_the_label_space() -> None:
    plain = LabelSpace.from_dict({"name": "plain", "classes": [{"name": "a"}, {"name": "b"}]})
    _, problems = build_label_map("rgb", {}, None, plain)
    assert "needs a color for every class" in problems[0]
    assert build_label_map("rgb", {"1,1,1": "a"}, None, plain)[1] == []


def test_labels_a_few_pixels_off_are_resized_and_others_refused() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    label = np.zeros((202, 300), np.uint8)
    label[:, 150:] = 255
    resized = match_sizes(image, label, Path("x.png"))
    assert resized.shape == (200, 300)
    assert set(np.unique(resized)) == {0, 255}
    with pytest.raises(DataError, match=r"x\.png: the label is 300×203 and its image 300×200"):
        match_sizes(image, np.zeros((203, 300), np.uint8), Path("x.png"))


# ---- label spaces ---------------------------------------------------------------------------


def test_label_spaces_survive_a_models_config() -> None:
    space = LabelSpace.load("cityscapes-19")
    again = LabelSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert space.num_classes == len(space.names) == 19
    assert space.label_ids is not None
    assert space.label_ids.tolist()[:3] == [7, 8, 11]
    assert LabelSpace.load("camvid-11").label_ids is None


def test_labels_are_painted_and_ignored_pixels_are_black() -> None:
    colours = SPACE.colorize(np.array([[1, 255, 7]], np.uint8))
    assert colours.dtype == np.uint8
    assert colours.tolist() == [[[0, 0, 142], [0, 0, 0], [0, 0, 0]]]


def test_classes_without_a_colour_get_colours_of_their_own() -> None:
    classes: list[dict[str, Any]] = [{"name": f"c{number}"} for number in range(200)]
    classes[7]["color"] = (128, 0, 0)  # which is the first that would be given away
    palette = LabelSpace.from_dict({"name": "many", "classes": classes}).palette
    assert len({tuple(color) for color in palette.tolist()} | {(0, 0, 0)}) == 201


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], "name 'a' is given to more than one class"),
        ([{"name": "a", "color": (1, 1, 1)}, {"name": "b", "color": (1, 1, 1)}], "color"),
        ([{"name": "a", "label_id": 1}, {"name": "b"}], "give every class a label_id, or none"),
        ([{"name": "ignore"}], "cannot name a class"),
        ([{"name": "3"}], "cannot name a class"),
        ([{"name": "a", "color": (1, 2, 256)}], r"classes\.0\.color\.2: .*less than or equal"),
        ([{"name": "a", "colour": (1, 2, 3)}], "did you mean 'color'"),
        ([], "at least 1"),
        ([{"name": f"c{number}"} for number in range(255)], "at most 254"),
    ],
)
def test_label_spaces_that_make_no_sense_are_refused(
    classes: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        LabelSpace.from_dict({"name": "bad", "classes": classes})


def test_an_unknown_label_space_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"did you mean 'camvid-11'.*cityscapes-19"):
        LabelSpace.load("camvid11")


def test_cityscapes_is_what_its_authors_say() -> None:
    official = pytest.importorskip("cityscapesscripts.helpers.labels")
    entries = sorted(
        (entry for entry in official.labels if 0 <= entry.trainId < 255),
        key=lambda entry: entry.trainId,
    )
    space = LabelSpace.load("cityscapes-19")
    assert [(c.name, c.color, c.label_id) for c in space.classes] == [
        (entry.name, entry.color, entry.id) for entry in entries
    ]
