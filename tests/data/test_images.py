"""Photographs of every depth, number of bands and orientation, read in one way."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from cag_uda.data.files.images import ImageReader, as_rgb, read_image
from cag_uda.data.inspection.image_looks import look_at_images
from cag_uda.errors import DataError
from tests.support.domain_trees import write_image

RAMP = np.linspace(0, 1, 48 * 64).reshape(48, 64)


def deep(path: Path, low: float, high: float, dtype: type = np.uint16) -> Path:
    return write_image(path, np.rint(low + RAMP * (high - low)).astype(dtype))


def test_sixteen_bits_from_a_path_are_those_of_eight(tmp_path: Path) -> None:
    grey = np.rint(RAMP * 255).astype(np.uint8)
    write_image(tmp_path / "8.png", grey)
    write_image(tmp_path / "16.png", grey.astype(np.uint16) * 257)
    eight, sixteen = (as_rgb(tmp_path / f"{bits}.png") for bits in (8, 16))
    np.testing.assert_array_equal(eight, sixteen)
    with Image.open(tmp_path / "16.png") as opened:
        np.testing.assert_array_equal(as_rgb(opened), sixteen)


@pytest.mark.parametrize(("low", "high"), [(0, 4095), (29000, 31000)])
def test_a_scale_makes_use_of_all_grey_levels(low: int, high: int, tmp_path: Path) -> None:
    path = deep(tmp_path / "x.png", low, high)
    assert len(np.unique(read_image(path))) <= 17
    scales: tuple[Any, ...] = ((low, high), "percentile")
    for scale in scales:
        image = ImageReader(scale=scale).read(path)
        assert len(np.unique(image)) > 240
        assert (int(image.min()), int(image.max())) == (0, 255)


@pytest.mark.parametrize(("high", "bits"), [(1000, 10), (4000, 12), (16000, 14)])
def test_the_depth_of_a_sensor_is_told(high: int, bits: int, tmp_path: Path) -> None:
    look = look_at_images([deep(tmp_path / f"{n}.png", 5, high - n) for n in range(3)])
    assert look.scale == (0.0, float(2**bits - 1))
    full = [deep(tmp_path / f"full{n}.png", 0, 60000) for n in range(3)]
    assert look_at_images(full).scale is None


def test_thermal_images_get_one_scale_for_all(tmp_path: Path) -> None:
    paths = [deep(tmp_path / f"{n}.png", 29000, 30000 + 500 * n) for n in range(3)]
    scale = look_at_images(paths).scale
    assert scale is not None
    assert 29000 <= scale[0] < 29100
    assert 30800 < scale[1] <= 31000


def test_floats_from_0_to_1_are_read_and_others_want_a_scale(tmp_path: Path) -> None:
    share = write_image(tmp_path / "share.tif", RAMP.astype(np.float32))
    assert np.abs(read_image(share)[..., 0] - RAMP * 255).max() <= 0.51
    kelvin = write_image(tmp_path / "kelvin.tif", (RAMP * 40 + 280).astype(np.float32))
    with pytest.raises(DataError, match=r"float32 numbers from 280 to 320.*scale = \[280, 320\]"):
        read_image(kelvin)
    assert ImageReader(scale=(280, 320)).read(kelvin).max() == 255


def test_what_is_no_number_is_black(tmp_path: Path) -> None:
    holes = RAMP.astype(np.float32)
    holes[:8] = np.nan
    image = read_image(write_image(tmp_path / "holes.tif", holes))
    assert (image[:8] == 0).all()
    assert image.max() == 255


def test_bands_are_chosen(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 256, (20, 30, 6), np.uint8)
    path = tmp_path / "six.tif"
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match=r"has 6 bands; say which .* bands = "):
        read_image(path)
    np.testing.assert_array_equal(ImageReader(bands=(3, 2, 5)).read(path), bands[..., [3, 2, 5]])
    with pytest.raises(DataError, match=r"has 6 bands, so \[0, 1, 6\]"):
        ImageReader(bands=(0, 1, 6)).read(path)
    look = look_at_images([path])
    assert look.bands == (0, 1, 2)
    assert "mend `bands`" in look.notes[0]
    separate = tmp_path / "separate.tif"
    tifffile.imwrite(separate, np.moveaxis(bands, -1, 0), photometric="minisblack")
    np.testing.assert_array_equal(
        ImageReader(bands=(3, 2, 5)).read(separate), bands[..., [3, 2, 5]]
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bands", [None, (0, 1, 2)])
def test_orientations_turn_images_or_do_not(
    orientation: int, bands: tuple[int, int, int] | None, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path, exif=exif)
    turned = as_rgb(Image.open(path))
    np.testing.assert_array_equal(ImageReader(bands=bands).read(path), turned)
    stored = ImageReader(bands=bands, orientation="stored")
    np.testing.assert_array_equal(stored.read(path), pixels)
    assert ImageReader(bands=bands).pixels(path)[1] == orientation
    assert ImageReader().size(path) == turned.shape[:2]
    assert stored.size(path) == pixels.shape[:2]


@pytest.mark.parametrize(
    ("extension", "form"),
    [("jfif", "JPEG"), ("avif", "AVIF"), ("gif", "GIF"), ("jp2", "JPEG2000"), ("dat", "PNG")],
)
@pytest.mark.parametrize("without_opencv", [False, True])
def test_formats_are_told_by_content(
    extension: str,
    form: str,
    without_opencv: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / f"x.{extension}"
    Image.new("RGB", (9, 6), (200, 60, 20)).save(path, form)
    if without_opencv and form != "PNG":  # OpenCV before 4.11 reads no GIF, many builds no AVIF.
        monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    image = read_image(path)
    assert image.shape == (6, 9, 3)
    assert np.abs(image.astype(int) - (200, 60, 20)).max() <= 6


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>404", "a web page"),
        (b"PK\x03\x04junk", "an archive; unpack it"),
        (b"%PDF-1.7 junk", "is a PDF"),
    ],
)
def test_what_stands_in_place_of_images_is_called_by_its_name(
    content: bytes, advice: str, tmp_path: Path
) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match=advice):
        read_image(tmp_path / "x.png")


def test_heic_without_its_library_says_which(tmp_path: Path) -> None:
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(64))
    with pytest.raises(DataError, match=r"pip install pillow-heif|damaged"):
        read_image(tmp_path / "x.heic")
