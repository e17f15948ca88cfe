"""Decoded images on disk: the same images, decoded once, whatever goes wrong with the folder."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from cag_uda.data.domains.domain import Domain
from cag_uda.data.files import cache
from cag_uda.data.files.images import ImageReader
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.decoded import DecodedImages
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages
from cag_uda.data.loading.sampler import BatchSource
from cag_uda.types import Batch
from tests.support.trees import write_domain


def config(**changes: object) -> LoadingConfig:
    return LoadingConfig.model_validate(
        {"batch_size": 4, "crop_px": [32, 40], "workers": 0, "photometric": 1.0, **changes}
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A day and a dusk domain of 64 × 48 pixels, and an empty cache folder."""
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    write_domain(tmp_path, "day")
    write_domain(tmp_path, "dusk", light=0.4, seed=9)
    return tmp_path


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "cache").rglob("*.npy"))


def batches(folder: Path, settings: LoadingConfig, steps: int = 4) -> list[Batch]:
    decoded = DecodedImages(settings) if settings.cache else None
    sources = [LabelledImages(Domain.open(folder / "day.toml"), "train", None, decoded)]
    target = UnlabelledImages(Domain.open(folder / "dusk.toml"), "train", decoded)
    source = BatchSource(sources, target, settings, seed=3, stage=1)
    read = [source[step] for step in range(steps)]
    return [batch for batch in read if isinstance(batch, Batch)]


def are_equal(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        one.equal(other)
        for batch, twin in zip(first, second, strict=True)
        for one, other in zip(
            (*batch.source, *batch.target), (*twin.source, *twin.target), strict=True
        )
    )


def without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ImageReader, path: Path) -> np.ndarray:
        raise AssertionError(f"{path} is decoded again")

    monkeypatch.setattr(ImageReader, "read", refuse)


def test_at_their_own_size_kept_images_give_the_very_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = batches(folder, config())
    assert are_equal(batches(folder, config(cache=True)), plain)
    assert len(kept(folder)) == 12
    without_decoding(monkeypatch)
    assert are_equal(batches(folder, config(cache=True)), plain)


def test_shrunk_images_are_kept_at_the_width_of_the_largest_crop(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(cache=True, width_px=32, scale=[0.8, 1.5], crop_px=[32, 40])
    first = batches(folder, settings)
    assert {np.load(path).shape for path in kept(folder)} == {(36, 48, 4), (36, 48, 3)}
    plain = batches(folder, settings.model_copy(update={"cache": False}))
    without_decoding(monkeypatch)
    assert are_equal(batches(folder, settings), first)
    for one, other in zip(first, plain, strict=True):
        difference = one.target.plain.float() - other.target.plain.float()
        assert difference.abs().mean() < 12, "the same places, shrunk in two steps"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "day/images/000.png").touch(),
        lambda folder: (folder / "day/labels/000.png").touch(),
        lambda folder: (folder / "day.toml").write_text(
            (folder / "day.toml").read_text() + '[labels.map]\n"3" = "ignore"\n'
        ),
    ],
)
def test_another_file_or_label_map_is_another_image(
    folder: Path, change: Callable[[Path], object]
) -> None:
    def read() -> None:
        decoded = DecodedImages(config())
        LabelledImages(Domain.open(folder / "day.toml"), "train", None, decoded).read(0)

    read()
    read()
    assert len(kept(folder)) == 1
    change(folder)
    read()
    assert len(kept(folder)) == 2


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY nothing", None])
def test_a_damaged_kept_image_is_made_anew(folder: Path, damage: bytes | None) -> None:
    settings = config(cache=True)
    first = batches(folder, settings)
    for path in kept(folder):
        path.write_bytes(path.read_bytes()[:200] if damage is None else damage)
    assert are_equal(batches(folder, settings), first)
    assert all(np.load(path).shape[:2] == (48, 64) for path in kept(folder))


def test_flipped_bits_of_kept_images_are_seen_and_made_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(cache=True)
    first = batches(folder, settings)
    rng = np.random.default_rng(0)
    for path in kept(folder):
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content) - 8)] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
    monkeypatch.setattr(cache, "_sound", set())  # As in the process of a later run.
    cache.warn_once.cache_clear()
    assert are_equal(batches(folder, settings), first)
    assert "are damaged, or of an earlier version: they are made anew" in caplog.text
    monkeypatch.setattr(cache, "_sound", set())
    without_decoding(monkeypatch)
    assert are_equal(batches(folder, settings), first)


def test_a_folder_that_cannot_be_written_costs_time_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = batches(folder, config())
    (folder / "file").write_text("in the way")
    monkeypatch.setenv("CAG_UDA_CACHE", str(folder / "file" / "cache"))
    assert are_equal(batches(folder, config(cache=True)), plain)
    assert "decoded every time" in caplog.text


def test_several_readers_fill_one_folder_at_once(folder: Path) -> None:
    plain = torch.stack([batch.source.image for batch in batches(folder, config())])
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: batches(folder, config(cache=True)), range(4)))
    for run in runs:
        assert torch.stack([batch.source.image for batch in run]).equal(plain)
    assert len(kept(folder)) == 12
    assert not list((folder / "cache").rglob(".*.part"))
