"""Hundreds of damaged files: each is refused by name, or gives the image or label that it held."""

import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.label_map import ImageEncoding, build_label_map
from cag_uda.data.domains.label_reader import LabelReader
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.data.files.images import read_image
from cag_uda.data.inspection.check import check_domain
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages
from cag_uda.data.loading.sampler import BatchSource, Shard, load_batches
from cag_uda.data.loading.sweeps import sweep_source, sweep_target
from cag_uda.errors import DataError
from cag_uda.types import Batch
from tests.support.trees import COLOURS, NAMES, draw, write_domain

ROUNDS = 12
DAMAGES = ("bit", "byte", "cut", "drop", "repeat", "zeros", "foreign")
WHOLE = Shard()
LABEL = draw(np.random.default_rng(0))
PHOTO = np.clip(
    COLOURS[LABEL] + np.random.default_rng(1).normal(0, 6, (*LABEL.shape, 3)), 0, 255
).astype(np.uint8)
SPACE = LabelSpace.from_dict(
    {
        "name": "blocks",
        "classes": [
            {"name": name, "color": colour}
            for name, colour in zip(NAMES, COLOURS.tolist(), strict=True)
        ],
    }
)


def damage(data: bytes, how: str, rng: np.random.Generator) -> bytes:
    """One damage of a kind at a random place."""
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    before, part, after = data[:place], data[place : place + length], data[place + length :]
    match how:
        case "bit":
            return before + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
        case "byte":
            return before + rng.bytes(1) + data[place + 1 :]
        case "cut":
            return before
        case "drop":
            return before + after
        case "repeat":
            return before + part + part + after
        case "zeros":
            return before + bytes(len(part)) + after
        case _:
            return before + rng.bytes(len(part)) + after


def read_or_refusal(read: Callable[[Path], np.ndarray], path: Path) -> np.ndarray | str:
    """What a file gives, or why it is refused; any other error is a failure of the test."""
    try:
        return read(path)
    except DataError as error:
        return str(error)


def encoded(extension: str, pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(extension, pixels)
    assert done
    return data.tobytes()


def palette_png() -> bytes:
    image, data = Image.fromarray(LABEL, mode="P"), io.BytesIO()
    image.putpalette(COLOURS.ravel().tolist())
    image.save(data, "PNG")
    return data.getvalue()


def reader(encoding: ImageEncoding) -> LabelReader:
    label_map, problems = build_label_map(encoding, {}, None, SPACE)
    assert not problems
    return LabelReader(label_map, 0, "blocks.toml")


def channels(dtype: type) -> np.ndarray:
    """The label in the first channel of the file, something else in the others."""
    return np.stack([7 * LABEL, 5 * LABEL, LABEL], axis=2).astype(dtype)


LABELS: dict[str, tuple[ImageEncoding, Callable[[], bytes]]] = {
    "ids": ("ids", lambda: encoded(".png", LABEL)),
    "ids-16": ("ids", lambda: encoded(".png", LABEL.astype(np.uint16))),
    "palette": ("palette", palette_png),
    "rgb": ("rgb", lambda: encoded(".png", COLOURS[LABEL][:, :, ::-1])),
    "channel": ("channel", lambda: encoded(".png", channels(np.uint8))),
    "channel-16": ("channel", lambda: encoded(".png", channels(np.uint16))),
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_damaged_label_is_refused_or_read_as_it_was(tmp_path: Path, kind: str) -> None:
    encoding, make = LABELS[kind]
    path, rng, whole = tmp_path / "label.png", np.random.default_rng(len(kind)), make()
    path.write_bytes(whole)
    assert np.array_equal(reader(encoding).read(path), LABEL)
    refused = 0
    for how in DAMAGES * ROUNDS:
        path.write_bytes(damage(whole, how, rng))
        label = read_or_refusal(reader(encoding).read, path)
        if isinstance(label, str):
            assert str(path) in label
            refused += 1
        else:
            assert np.array_equal(label, LABEL), how
    assert refused > len(DAMAGES) * ROUNDS / 2


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".tif", ".bmp", ".ppm"])
def test_a_damaged_photograph_is_refused_or_an_image(tmp_path: Path, extension: str) -> None:
    path, rng = tmp_path / f"photo{extension}", np.random.default_rng(len(extension))
    whole = encoded(extension, PHOTO[:, :, ::-1])
    begun_s = time.process_time()
    for how in DAMAGES * ROUNDS:
        path.write_bytes(damage(whole, how, rng))
        image = read_or_refusal(read_image, path)
        if isinstance(image, str):
            assert str(path) in image
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert image.size
    assert time.process_time() - begun_s < 10


def png_claiming(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, body, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg_claiming(width: int, height: int) -> bytes:
    data = encoded(".jpg", PHOTO)
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def bmp_claiming(width: int, height: int) -> bytes:
    data = encoded(".bmp", PHOTO)
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


@pytest.mark.parametrize("bomb", [png_claiming, jpeg_claiming, bmp_claiming])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, bomb: Callable[[int, int], bytes]
) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(bomb(60_000, 60_000))
    begun_s = time.process_time()
    with pytest.raises(DataError, match="claims to be"):
        read_image(path)
    with pytest.raises(DataError, match=r"claims to be|JPEG"):
        reader("ids").read(path)
    assert time.process_time() - begun_s < 1


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(DataError, match="is no file"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png")


# ---- a whole domain ---------------------------------------------------------------------------


def write_damaged_domain(folder: Path) -> tuple[Path, dict[str, str]]:
    """A domain of 14 images of which most have something wrong: the file → what `check` says."""
    toml = write_domain(folder, "day", count=14)
    images, labels = folder / "day" / "images", folder / "day" / "labels"
    whole = (images / "000.png").read_bytes()
    (images / "000.png").write_bytes(b"")
    (images / "001.png").write_bytes(whole[: len(whole) // 2])
    (images / "002.png").write_text("not an image")
    (images / "003.png").write_bytes(png_claiming(60_000, 60_000))
    (labels / "004.png").write_bytes(encoded(".png", LABEL[:24]))
    (labels / "005.png").write_bytes(encoded(".png", LABEL + 4))
    (labels / "006.png").unlink()
    (labels / "007.png").write_bytes(encoded(".jpg", LABEL))
    (labels / "008.png").write_bytes(encoded(".png", COLOURS[LABEL]))
    return toml, {
        "images/000.png": "is empty",
        "images/001.png": "damaged, cut off",
        "images/002.png": "damaged, cut off",
        "images/003.png": "claims to be",
        "labels/004.png": "the label is 64×24",
        "labels/007.png": "is a JPEG",
        "labels/008.png": "has 3 channels",
    }


def test_check_reports_every_damage_at_once(tmp_path: Path) -> None:
    toml, expected = write_damaged_domain(tmp_path)
    report = check_domain(Domain.open(toml), "train")
    (split,) = report.splits
    messages = {**split.unreadable, **split.mismatched}
    for name, said in expected.items():
        (message,) = [each for each in messages.values() if name in each]
        assert said in message
    assert len(messages) == len(expected)
    assert set(split.unmapped) == {"4", "5", "6", "7"}
    assert "1 of 14 images" in "".join(split.problems), "the label that is missing"
    assert "images/006" in "".join(split.problems)


def test_check_takes_the_odd_but_usable(tmp_path: Path) -> None:
    """CMYK, 16 bits, grey, transparency, and a photograph that was held upright."""
    toml = write_domain(tmp_path, "day", labels=False)
    folder = tmp_path / "day" / "images"
    photo = Image.fromarray(PHOTO)
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("L").save(folder / "grey.png")
    photo.convert("LA").save(folder / "grey-alpha.png")
    photo.convert("RGBA").save(folder / "alpha.png")
    photo.convert("P").save(folder / "palette.png")
    photo.save(folder / "turned.jpg", exif=turned)
    (folder / "deep.png").write_bytes(encoded(".png", PHOTO.astype(np.uint16) * 257))
    (split,) = check_domain(Domain.open(toml), "train", with_labels=False).splits
    assert not split.problems
    assert split.image_sizes == {(48, 64): 12, (64, 48): 1}


# ---- training ---------------------------------------------------------------------------------


def batches_of(
    folder: Path, on_unreadable: str, shard: Shard = WHOLE, workers: int = 0
) -> BatchSource:
    config = LoadingConfig.model_validate(
        {
            "batch_size": 4,
            "crop_px": [32, 40],
            "workers": workers,
            "on_unreadable": on_unreadable,
        }
    )
    sources = [LabelledImages(Domain.open(folder / "day.toml"), "train")]
    target = UnlabelledImages(Domain.open(folder / "dusk.toml"), "train")
    return BatchSource(sources, target, config, seed=3, stage=1, shard=shard)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two domains of six images: a source image and label and a target image are unreadable."""
    write_domain(tmp_path, "day")
    write_domain(tmp_path, "dusk", light=0.4, seed=9)
    (tmp_path / "day/images/001.png").write_bytes(b"")
    (tmp_path / "day/labels/004.png").write_bytes(b"no label")
    (tmp_path / "dusk/images/002.png").unlink()
    (tmp_path / "dusk/images/002.png").symlink_to("nowhere.png")
    return tmp_path


def test_training_stops_at_a_bad_file_and_names_it(folder: Path) -> None:
    with pytest.raises(DataError, match=r"day/(images/001|labels/004)|dusk/images/002"):
        list(load_batches(batches_of(folder, "stop"), range(6), torch.device("cpu")))


def test_a_skipped_file_is_replaced_alike_whatever_processes_and_workers(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = [batches_of(folder, "skip")[step] for step in range(6)]
    shards = [batches_of(folder, "skip", Shard(rank, 2)) for rank in (0, 1)]
    workers = load_batches(batches_of(folder, "skip", workers=1), range(6), torch.device("cpu"))
    for step, helped in enumerate(workers):
        batch, parts = whole[step], [shard[step] for shard in shards]
        assert isinstance(batch, Batch)
        for field in (0, 1):
            joined = torch.cat([part.source[field] for part in parts if isinstance(part, Batch)])
            assert joined.equal(batch.source[field])
        assert helped.source.label.equal(batch.source.label.long())
    said = caplog.text
    for name in ("day/images/001.png", "day/labels/004.png", "dusk/images/002.png"):
        assert said.count(name) == 1, "every bad file is named, once"


def test_sweeps_leave_bad_files_out(folder: Path) -> None:
    batches = batches_of(folder, "skip")
    config, cpu = batches.config, torch.device("cpu")
    labelled = list(sweep_source(batches.sources[0], config, 4, Shard(), cpu))
    assert [len(each.image) for each in labelled] == [3, 1]
    assert (
        sum(len(each.image) for each in sweep_target(batches.target, config, 4, Shard(), cpu)) == 5
    )
    with pytest.raises(DataError):
        list(sweep_target(batches_of(folder, "stop").target, LoadingConfig(), 4, Shard(), cpu))


def test_a_domain_of_bad_files_alone_stops_even_where_they_are_skipped(folder: Path) -> None:
    for path in (folder / "dusk/images").iterdir():
        path.unlink()
        path.write_bytes(b"")
    error = batches_of(folder, "skip")[0]
    assert isinstance(error, DataError)
    assert len(error.problems) == 6
