"""Crops, augmentation, and batches that depend on step and slot alone."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cag_uda.data.domains.domain import Domain
from cag_uda.data.files.resizing import resize_label, resize_to_width
from cag_uda.data.loading.augment import choose_crop, photometric
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages
from cag_uda.data.loading.sampler import BatchSource, Shard, load_batches
from cag_uda.data.loading.sweeps import sweep_source, sweep_target
from cag_uda.errors import DataError
from cag_uda.types import IGNORE, Batch, Unlabelled
from tests.support.trees import COLOURS, read_pixels, write_domain

CPU = torch.device("cpu")
WHOLE = Shard()


def config(**changes: object) -> LoadingConfig:
    return LoadingConfig.model_validate(
        {"batch_size": 4, "crop_px": [32, 40], "workers": 0, **changes}
    )


def source_of(
    folder: Path, settings: LoadingConfig, shard: Shard = WHOLE, sources: int = 1
) -> BatchSource:
    if not (folder / "dusk.toml").exists():
        for number in range(sources):
            write_domain(folder, f"day{number}", seed=number, light=1 - 0.5 * number)
        write_domain(folder, "dusk", light=0.4, seed=9)
    labelled = [
        LabelledImages(Domain.open(folder / f"day{number}.toml"), "train")
        for number in range(sources)
    ]
    target = UnlabelledImages(Domain.open(folder / "dusk.toml"), "train")
    return BatchSource(labelled, target, settings, seed=3, stage=1, shard=shard)


def raw(source: BatchSource, step: int) -> Batch:
    batch = source[step]
    assert isinstance(batch, Batch)
    return batch


def assert_equal(first: Batch, second: Batch) -> None:
    pairs = zip((*first.source, *first.target), (*second.source, *second.target), strict=True)
    for one, other in pairs:
        assert one.equal(other)


@pytest.mark.parametrize("seed", range(20))
def test_image_and_label_are_cropped_alike(seed: int) -> None:
    """An image whose colour is its label still shows its label after every crop."""
    rng = np.random.default_rng(seed)
    label = np.kron(rng.integers(0, 4, (6, 8)), np.ones((16, 16))).astype(np.uint8)
    image = COLOURS[label]
    crop = choose_crop((96, 128), config(scale=[0.5, 2.0]), rng)
    shown, expected = crop.of_image(image), crop.of_label(label)
    assert shown.shape == (32, 40, 3)
    difference = np.abs(shown.astype(int) - COLOURS[expected]).max(axis=2)
    assert (difference < 30).mean() > 0.7, "all but the blended edges of blocks"


def test_crops_cover_scales_places_and_flips() -> None:
    rng = np.random.default_rng(0)
    crops = [choose_crop((96, 128), config(scale=[0.5, 2.0]), rng) for _ in range(200)]
    heights = [crop.window[0].stop - crop.window[0].start for crop in crops]
    assert min(heights) <= 18
    assert max(heights) >= 60
    assert 60 < sum(crop.is_flipped for crop in crops) < 140
    assert min(crop.window[1].start for crop in crops) == 0
    assert max(crop.window[1].stop for crop in crops) == 128


def test_a_small_image_is_enlarged_to_fill_the_crop() -> None:
    crop = choose_crop((16, 20), config(scale=[0.5, 0.5]), np.random.default_rng(0))
    assert crop.window == (slice(0, 16), slice(0, 20))
    assert crop.of_label(np.ones((16, 20), np.uint8)).shape == (32, 40)


def test_resizing_keeps_label_ids_and_aspect_ratio() -> None:
    label = np.array([[0, 255], [3, 7]], np.uint8)
    assert resize_label(label, 4, 4).tolist() == [[0, 0, 255, 255]] * 2 + [[3, 3, 7, 7]] * 2
    assert resize_to_width(np.zeros((30, 40, 3), np.uint8), 20).shape == (15, 20, 3)
    assert resize_to_width(np.zeros((30, 40, 3), np.uint8), None).shape == (30, 40, 3)


def test_photometric_strength_zero_is_identity_and_one_changes_light_not_shape() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    assert photometric(image, 0.0, np.random.default_rng(1)) is image
    changed = [photometric(image, 1.0, np.random.default_rng(seed)) for seed in range(30)]
    means = [picture.mean() for picture in changed]
    assert all(picture.shape == image.shape for picture in changed)
    assert min(means) < 90 < 150 < max(means)
    assert np.array_equal(changed[0], photometric(image, 1.0, np.random.default_rng(0)))


def test_a_batch_is_a_function_of_its_step(tmp_path: Path) -> None:
    source = source_of(tmp_path, config(photometric=1.0))
    assert_equal(raw(source, 5), raw(source_of(tmp_path, config(photometric=1.0)), 5))
    assert not raw(source, 5).source.image.equal(raw(source, 6).source.image)
    tensors = (*raw(source, 5).source, *raw(source, 5).target)
    assert {each.dtype for each in tensors} == {torch.uint8}, "8 bits until they are on the device"


def test_two_processes_see_the_halves_of_the_one_process_batch(tmp_path: Path) -> None:
    whole = raw(source_of(tmp_path, config()), 3)
    halves = [raw(source_of(tmp_path, config(), Shard(rank, 2)), 3) for rank in (0, 1)]
    for index in (0, 1):
        joined = torch.cat([half.source[index] for half in halves])
        assert joined.equal(whole.source[index])
        assert torch.cat([half.target[index] for half in halves]).equal(whole.target[index])


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    alone = list(load_batches(source_of(tmp_path, config()), range(2, 6), CPU))
    helped = list(load_batches(source_of(tmp_path, config(workers=2)), range(2, 6), CPU))
    assert len(alone) == len(helped) == 4
    for one, other in zip(alone, helped, strict=True):
        assert_equal(one, other)
    assert alone[0].source.image.dtype == torch.float32
    assert 0 <= alone[0].source.image.min() < alone[0].source.image.max() <= 1
    assert alone[0].source.label.dtype == torch.int64


def test_every_image_is_seen_once_an_epoch(tmp_path: Path) -> None:
    settings = config(batch_size=3, crop_px=[48, 64], scale=[1.0, 1.0], flip=0.0)
    source = source_of(tmp_path, settings)
    for epoch in range(2):
        steps = [raw(source, 2 * epoch + step) for step in (0, 1)]
        for images in (
            torch.cat([batch.source.image for batch in steps]),
            torch.cat([batch.target.image for batch in steps]),
        ):
            assert len({image.numpy().tobytes() for image in images}) == 6


def test_the_files_of_a_whole_batch_are_known_without_reading_them(tmp_path: Path) -> None:
    settings = config(crop_px=[48, 64], scale=[1.0, 1.0], flip=0.0)
    source = source_of(tmp_path, settings, Shard(1, 2))
    files = [Path(file) for file in source.files(7)]
    assert len(files) == 8
    shown = [read_pixels(file) for file in (*files[2:4], *files[6:8])]
    batch = raw(source, 7)
    for image, expected in zip((*batch.source.image, *batch.target.image), shown, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_several_sources_have_equal_shares(tmp_path: Path) -> None:
    batch = raw(source_of(tmp_path, config(), sources=2), 0)
    light = batch.source.image.float().mean(dim=(1, 2, 3))
    assert light[[0, 2]].min() > light[[1, 3]].max(), "slots alternate between the domains"


def test_the_target_has_no_label_and_plain_is_without_photometric(tmp_path: Path) -> None:
    assert "label" not in Unlabelled._fields
    batch = raw(source_of(tmp_path, config(photometric=1.0)), 0)
    plain = raw(source_of(tmp_path, config()), 0)
    assert batch.target.plain.equal(plain.target.image)
    assert not batch.target.image.equal(batch.target.plain)


def test_sweeps_go_through_a_split_once_and_share_it_out(tmp_path: Path) -> None:
    source_of(tmp_path, config())
    labelled = LabelledImages(Domain.open(tmp_path / "day0.toml"), "train")
    narrow = config(width_px=32)
    swept = list(sweep_source(labelled, narrow, 4, Shard(), CPU))
    assert [tuple(batch.image.shape) for batch in swept] == [(4, 3, 24, 32), (2, 3, 24, 32)]
    assert [tuple(batch.label.shape) for batch in swept] == [(4, 24, 32), (2, 24, 32)]
    halves = [list(sweep_source(labelled, narrow, 4, Shard(rank, 2), CPU)) for rank in (0, 1)]
    assert halves[0][0].image.equal(swept[0].image)
    assert halves[1][0].image.equal(swept[1].image)
    target = UnlabelledImages(Domain.open(tmp_path / "dusk.toml"), "train")
    assert sum(len(b.image) for b in sweep_target(target, config(), 4, Shard(), CPU)) == 6


def test_a_corrupt_image_names_itself_when_its_step_comes(tmp_path: Path) -> None:
    source = source_of(tmp_path, config(workers=1))
    for path in (tmp_path / "day0" / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"images/00\d\.png"):
        list(load_batches(source, range(0, 3), CPU))


def test_a_source_without_labels_is_refused(tmp_path: Path) -> None:
    path = write_domain(tmp_path, "bare", labels=False)
    with pytest.raises(DataError, match="label"):
        LabelledImages(Domain.open(path), "train")


def with_few(folder: Path, settings: LoadingConfig, shard: Shard = WHOLE) -> BatchSource:
    """Batches that have labelled images of the target too."""
    source = source_of(folder, settings, shard)
    few = LabelledImages(Domain.open(folder / "dusk.toml"), "train")
    return replace(source, labelled=few)


def test_labelled_images_of_the_target_are_a_stated_share_of_a_batch(tmp_path: Path) -> None:
    settings = config(labelled_share=0.75)
    without = raw(source_of(tmp_path, settings), 5)
    source = with_few(tmp_path, settings)
    whole = raw(source, 5)
    assert without.labelled is None
    assert_equal(whole, without)
    assert whole.labelled is not None
    assert whole.labelled.image.shape == (3, 3, 32, 40)
    assert whole.labelled.label.shape == (3, 32, 40)
    assert len(source.files(5)) == 4 + 4 + 3
    difference = whole.labelled.image.permute(0, 2, 3, 1).numpy().astype(int)
    difference = np.abs(difference - 0.4 * COLOURS[whole.labelled.label.numpy()]).max(axis=3)
    assert (difference < 30).mean() > 0.7, "labels are those of the images"


def test_labelled_images_are_the_same_whoever_loads_them(tmp_path: Path) -> None:
    settings = config(labelled_share=0.5)
    whole = raw(with_few(tmp_path, settings), 2).labelled
    halves = [raw(with_few(tmp_path, settings, Shard(rank, 2)), 2).labelled for rank in (0, 1)]
    assert whole is not None
    for number, half in enumerate(halves):
        assert half is not None
        assert half.label.equal(whole.label[number : number + 1])
    seen = [path for step in range(6) for path in with_few(tmp_path, settings).files(step)[8:]]
    assert sorted(seen) == sorted(2 * list(dict.fromkeys(seen))), "all, equally often"


def test_crops_of_images_that_are_labelled_in_one_place_show_it(tmp_path: Path) -> None:
    settings = config(labelled_share=1.0, scale=[1.0, 1.0])
    source = with_few(tmp_path, settings)
    for path in (tmp_path / "dusk" / "labels").iterdir():
        label = np.full((48, 64), 255, np.uint8)
        label[:6, :6] = 2
        cv2.imwrite(str(path), label)
    crops = [raw(source, step).labelled for step in range(10)]
    shown = [(crop.label != IGNORE).any(dim=(1, 2)) for crop in crops if crop is not None]
    assert torch.cat(shown).float().mean() > 0.9
