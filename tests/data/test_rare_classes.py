"""Rare-class sampling: chances by hand, counts in the cache, batches that show rare classes."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cag_uda.data.domains.domain import Domain
from cag_uda.data.loading.augment import choose_crop
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages
from cag_uda.data.loading.rare_classes import RareClasses, crop_showing
from cag_uda.data.loading.sampler import BatchSource, Shard, load_batches
from cag_uda.errors import DataError
from cag_uda.types import Batch
from tests.support.trees import write_domain

RARE = 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CAG_UDA_CACHE", str(folder))
    return folder / "class-pixels"


def write_day(folder: Path) -> Path:
    """Six images of two classes; two of them have a small corner of a third one."""
    path = write_domain(folder, "day")
    for index in range(6):
        label = np.zeros((48, 64), np.uint8)
        label[24:] = 1
        if index in (2, 5):
            label[:8, :8] = RARE
        cv2.imwrite(str(folder / "day" / "labels" / f"{index:03}.png"), label)
    return path


def config(**changes: object) -> LoadingConfig:
    given = {"batch_size": 4, "crop_px": [32, 32], "workers": 0, "scale": [1.0, 1.0]}
    return LoadingConfig.model_validate({**given, **changes})


def batches_of(folder: Path, settings: LoadingConfig, shard: Shard | None = None) -> BatchSource:
    if not (folder / "day.toml").exists():
        write_day(folder)
        write_domain(folder, "dusk", seed=9)
    source = LabelledImages(Domain.open(folder / "day.toml"), "train")
    target = UnlabelledImages(Domain.open(folder / "dusk.toml"), "train")
    return BatchSource([source], target, settings, 3, 1, shard or Shard())


def raw(source: BatchSource, step: int) -> Batch:
    batch = source[step]
    assert isinstance(batch, Batch)
    return batch


def test_chances_are_dafomers_formula_by_hand() -> None:
    counts = np.array([[90, 10, 0, 0], [60, 30, 10, 0]])
    chances = RareClasses.of(counts, 0.5).chance
    raised = [math.exp((1 - f) / 0.5) for f in (0.75, 0.2, 0.05)]
    np.testing.assert_allclose(chances, [*(each / sum(raised) for each in raised), 0.0])
    sharp = RareClasses.of(counts, 0.001).chance
    np.testing.assert_allclose(sharp, [0, 0, 1, 0], atol=1e-9)
    with pytest.raises(DataError, match="some pixel"):
        RareClasses.of(np.zeros((2, 3), np.int64), 0.1)


def test_an_image_counts_for_a_class_that_it_shows_clearly_or_that_no_image_does() -> None:
    counts = np.array([[9990, 10, 0], [9900, 100, 0], [9999, 0, 1]])
    images = RareClasses.of(counts, 0.1).images
    assert [each.tolist() for each in images] == [[0, 1, 2], [1], [2]]


def test_draws_follow_the_chances() -> None:
    rare = RareClasses.of(np.array([[50, 50, 0], [80, 0, 20]]), 0.3)
    drawn = [rare.draw(np.random.default_rng(seed)) for seed in range(1500)]
    share = np.bincount([train_id for train_id, _ in drawn], minlength=3) / 1500
    np.testing.assert_allclose(share, rare.chance, atol=0.04)
    assert {index for train_id, index in drawn if train_id == 1} == {0}
    assert {index for train_id, index in drawn if train_id == 2} == {1}
    assert {index for train_id, index in drawn if train_id == 0} == {0, 1}


def test_crops_are_drawn_until_one_shows_the_class() -> None:
    """A corner that one crop of 16 shows: about half of ten tries find it."""
    label = np.zeros((48, 64), np.uint8)
    label[:8, :8] = RARE
    rng, found = np.random.default_rng(0), 0
    for _ in range(100):
        drawn = [choose_crop((48, 64), config(), rng) for _ in range(10)]
        crop = crop_showing(RARE, label, iter(drawn).__next__)
        shows = [(each.of_label(label) == RARE).mean() >= 0.0057 for each in drawn]
        assert crop is drawn[shows.index(True) if any(shows) else -1]
        found += any(shows)
    assert 25 < found < 75


def test_batches_show_the_rare_class_and_are_functions_of_step_and_slot(tmp_path: Path) -> None:
    settings = config(rare_class_temperature=0.05)
    source = batches_of(tmp_path, settings)
    with_rare = [
        bool((label == RARE).any()) for step in range(8) for label in raw(source, step).source.label
    ]
    without = [
        bool((label == RARE).any())
        for step in range(8)
        for label in raw(batches_of(tmp_path, config()), step).source.label
    ]
    assert sum(with_rare) > 12 > 6 > sum(without), "32 crops of each"
    again = raw(batches_of(tmp_path, settings), 5)
    assert again.source.image.equal(raw(source, 5).source.image)
    assert not again.source.image.equal(raw(source, 6).source.image)
    halves = [raw(batches_of(tmp_path, settings, Shard(rank, 2)), 5) for rank in (0, 1)]
    assert torch.cat([half.source.label for half in halves]).equal(again.source.label)
    names = [Path(name).name for name in source.files(5)[:4]]
    assert set(names) <= {f"{index:03}.png" for index in range(6)}
    assert sum(name in ("002.png", "005.png") for name in names) >= 2


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    settings = config(rare_class_temperature=0.05)
    alone = list(load_batches(batches_of(tmp_path, settings), range(2, 4), cpu))
    helped = list(
        load_batches(
            batches_of(tmp_path, settings.model_copy(update={"workers": 1})), range(2, 4), cpu
        )
    )
    for one, other in zip(alone, helped, strict=True):
        assert one.source.image.equal(other.source.image)
        assert one.source.label.equal(other.source.label)


def test_counts_are_read_once_and_again_when_a_label_changes(tmp_path: Path, cache: Path) -> None:
    domain = Domain.open(write_day(tmp_path))
    notes: list[str] = []
    counts = LabelledImages(domain, "train").class_pixels(config(), notes.append)
    assert counts.tolist() == [
        [1536 - 64 * (index in (2, 5)), 1536, 0, 64 * (index in (2, 5))] for index in range(6)
    ]
    assert len(notes) == 1
    assert "6 labels of day" in notes[0]
    assert len(list(cache.rglob("*.npy"))) == 1
    again = LabelledImages(domain, "train").class_pixels(config(), notes.append)
    assert np.array_equal(again, counts)
    assert len(notes) == 1, "taken from the cache"
    changed = tmp_path / "day" / "labels" / "000.png"
    cv2.imwrite(str(changed), np.full((48, 64), 2, np.uint8))
    os.utime(changed, ns=(1, 1))
    fresh = LabelledImages(domain, "train").class_pixels(config(), notes.append)
    assert fresh[0].tolist() == [0, 0, 3072, 0]
    assert len(notes) == 2
    for kept in cache.rglob("*.npy"):
        kept.write_bytes(b"damaged")
    assert np.array_equal(LabelledImages(domain, "train").class_pixels(config()), fresh)


def test_unreadable_labels_stop_or_do_not_count_and_are_not_kept(
    tmp_path: Path, cache: Path
) -> None:
    domain = Domain.open(write_day(tmp_path))
    (tmp_path / "day" / "labels" / "002.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"002\.png"):
        LabelledImages(domain, "train").class_pixels(config())
    counts = LabelledImages(domain, "train").class_pixels(config(on_unreadable="skip"))
    assert counts.sum(axis=1).tolist() == [3072, 3072, 0, 3072, 3072, 3072]
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "file"))
    counts = LabelledImages(Domain.open(write_day(tmp_path)), "train").class_pixels(config())
    assert counts.sum() == 6 * 3072
    assert "CAG_UDA_CACHE" in caplog.text
