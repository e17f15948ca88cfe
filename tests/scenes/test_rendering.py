import hashlib
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from cag_uda.errors import DataError, RunError
from cag_uda.scenes import Look, render, render_folder
from cag_uda.scenes.camera import Camera, Pose
from cag_uda.scenes.cars import BODIES, park_car
from cag_uda.scenes.dice import Dice
from cag_uda.scenes.painting import back_to_front, paint_from_camera
from cag_uda.scenes.surfaces import Category, Paint, Scene
from tests.support.trees import read_pixels

LOOKS = get_args(Look)
SAMPLE = 60


@pytest.fixture(scope="module")
def samples() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    return {look: [render(5, index, look, 64, 128) for index in range(SAMPLE)] for look in LOOKS}


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.mark.parametrize("look", LOOKS)
def test_same_arguments_give_same_bytes_in_a_fresh_process(look: Look) -> None:
    code = (
        "import hashlib; from cag_uda.scenes import render; "
        f"pair = render(3, 8, {look!r}, 48, 80); "
        "print(hashlib.sha256(b''.join(part.tobytes() for part in pair)).hexdigest())"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Other scenes first: nothing may leak from one call into the next.
    render(0, 0, "hard", 32, 32)
    assert fresh.stdout.strip() == _digest(*render(3, 8, look, 48, 80))


def test_seed_index_and_look_each_change_the_scene() -> None:
    labels = [
        render(*key, 48, 80)[1].tobytes()
        for key in ((1, 2, "clean"), (2, 1, "clean"), (1, 3, "clean"), (1, 2, "hard"))
    ]
    assert len(set(labels)) == 4


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (90, 51), (64, 200), (240, 320)])
def test_any_size_works(size: tuple[int, int]) -> None:
    for look in LOOKS:
        image, label = render(0, 4, look, *size)
        assert image.shape == (*size, 3)
        assert image.dtype == np.uint8
        assert label.shape == size
        assert label.dtype == np.uint8


def test_another_size_shows_the_same_scene() -> None:
    for index in range(3):
        fine = render(0, index, "clean", 192, 320)[1]
        coarse = render(0, index, "clean", 96, 160)[1]
        assert (fine[::2, ::2] == coarse).mean() > 0.9


@pytest.mark.parametrize("look", LOOKS)
def test_labels_are_train_ids_and_every_class_is_common_enough(
    samples: dict[str, list[tuple[np.ndarray, np.ndarray]]], look: Look
) -> None:
    labels = np.stack([label for _, label in samples[look]])
    assert set(np.unique(labels)) == set(range(11))
    counts = np.stack([np.bincount(label.reshape(-1), minlength=11) for label in labels])
    # At least 0.05 % of an image, in at least three images of ten.
    assert ((counts >= 4).mean(axis=0) >= 0.3).all()
    shares = counts.sum(axis=0) / counts.sum()
    assert shares[[Category.ROAD, Category.BUILDING]].min() > 0.2
    assert shares[[Category.SIGN, Category.PEDESTRIAN, Category.BICYCLIST]].max() < 0.03


def test_sky_is_above_and_road_below(
    samples: dict[str, list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    for look in LOOKS:
        labels = np.stack([label for _, label in samples[look]])
        assert not (labels[:, 44:] == Category.SKY).any()
        assert not (labels[:, :16] == Category.ROAD).any()


def test_label_edges_lie_on_image_edges(
    samples: dict[str, list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    """Moving the labels by a pixel, in any direction, makes them fit the images less."""
    steps, edges = [], []
    for image, label in samples["clean"]:
        values = image.astype(np.float32)
        steps.append(np.abs(np.diff(values, axis=1)).sum(axis=2)[1:-1])
        edges.append(np.diff(label.astype(int), axis=1) != 0)
    step, edge = np.stack(steps), np.stack(edges)

    def fit(down: int, right: int) -> float:
        moved = np.roll(edge, (down, right), axis=(1, 2))[:, 1:-1, 3:-3]
        return float(step[:, :, 3:-3][moved].mean())

    others = [
        fit(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)
    ]
    assert fit(0, 0) > 1.15 * max(others)


def test_a_car_is_labelled_exactly_where_it_changes_the_picture() -> None:
    def paint(*, with_car: bool) -> tuple[np.ndarray, np.ndarray]:
        scene = Scene(viewer=(0.0, 0.0))
        ground = Paint(Category.ROAD, (0.3, 0.3, 0.3))
        scene.polygon([(-9, 0, -5), (9, 0, -5), (9, 0, 90), (-9, 0, 90)], ground)
        if with_car:
            park_car(scene, Dice(1), BODIES["saloon"], 1.5, 9.0, 0.3, drives=False)
        scene.begin((-0.2, 0.2), (5.0, 5.2))
        post = Paint(Category.POLE, (0.9, 0.1, 0.1))
        scene.polygon([(0.6, 0, 5), (0.8, 0, 5), (0.8, 3, 5), (0.6, 3, 5)], post)
        surfaces = scene.finish()
        camera = Camera(Pose(0.0, 1.5, 0.05, 0.05, 0.0, 0.9), 120, 160)
        numbers, _ = paint_from_camera(surfaces, camera)
        return surfaces.colour[numbers], surfaces.category[numbers]

    colour, category = paint(with_car=True)
    empty, _ = paint(with_car=False)
    is_car = category == Category.CAR
    assert is_car.sum() > 500
    assert np.array_equal((colour != empty).any(axis=-1), is_car)
    # The post stands before the car: it cuts it in two.
    assert (category == Category.POLE).any(axis=1)[is_car.any(axis=1)].mean() > 0.9


def test_nearer_things_hide_farther_ones() -> None:
    generator = np.random.default_rng(0)
    low = generator.uniform(-30, 30, (60, 2))
    boxes = np.stack([low[:, 0], low[:, 0] + 1, low[:, 1], low[:, 1] + 1], axis=1)
    boxes = np.concatenate([boxes, [[40.0, 41.0, -30.0, 30.0]]])
    order = back_to_front(boxes, (0.0, -40.0))
    assert sorted(order) == list(range(61))
    place = {thing: number for number, thing in enumerate(order)}
    for one in range(60):
        for two in range(60):
            same_column = boxes[one, 0] < boxes[two, 1] and boxes[two, 0] < boxes[one, 1]
            if same_column and boxes[one, 2] >= boxes[two, 3]:
                assert place[one] < place[two]


def test_hard_look_is_another_domain(
    samples: dict[str, list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    clean, hard = (np.stack([image for image, _ in samples[look]]).astype(float) for look in LOOKS)
    assert clean.mean() - hard.mean() > 20

    def grain(images: np.ndarray) -> float:
        return float(np.median(np.abs(images[:, 2:, :] - 2 * images[:, 1:-1] + images[:, :-2])))

    assert grain(hard) > 2 * grain(clean)
    # The shift differs from image to image: brightness and colour cast scatter more.
    means_clean, means_hard = clean.mean(axis=(1, 2)), hard.mean(axis=(1, 2))
    cast_clean, cast_hard = (
        means_clean / means_clean.mean(axis=1, keepdims=True),
        (means_hard / means_hard.mean(axis=1, keepdims=True)),
    )
    assert cast_hard.std(axis=0).mean() > 1.5 * cast_clean.std(axis=0).mean()


def _files(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_folder_holds_what_render_gives_and_is_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    render_folder(folder, "clean", range(4, 7), seed=2, height_px=32, width_px=64)
    names = {f"{kind}/{index:06d}.png" for kind in ("images", "labels") for index in (4, 5, 6)}
    before = _files(folder)
    assert set(before) == names
    assert {path.name for path in tmp_path.iterdir()} == {"scenes"}
    image, label = render(2, 5, "clean", 32, 64)
    assert np.array_equal(read_pixels(folder / "images/000005.png"), image)
    assert np.array_equal(read_pixels(folder / "labels/000005.png"), label)
    (folder / "labels/000006.png").unlink()
    render_folder(folder, "clean", range(3, 7), seed=2, height_px=32, width_px=64)
    after = _files(folder)
    assert set(after) == names | {"images/000003.png", "labels/000003.png"}
    untouched = {name for name in names if "000006" not in name}
    assert all(after[name] == before[name] for name in untouched)


def test_folder_on_two_processes_holds_the_same(tmp_path: Path) -> None:
    for processes in (1, 2):
        render_folder(tmp_path / str(processes), "hard", range(3), 1, 32, 48, processes=processes)
    for name in _files(tmp_path / "1"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_folder_that_cannot_be_written_is_a_readable_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for processes in (1, 2):
        with pytest.raises(RunError, match="cannot write"):
            render_folder(tmp_path / "file", "clean", range(2), 0, 32, 32, processes=processes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, "clean", 64, 64), "seed -1"),
        ((0, 0, "night", 64, 64), "unknown look 'night'; choose one of clean, hard"),
        ((0, 0, "clean", 31, 64), "31 x 64 px"),
    ],
)
def test_bad_arguments_are_readable_errors(
    arguments: tuple[int, int, Look, int, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        render(*arguments)
    seed, index, look, height_px, width_px = arguments
    with pytest.raises(DataError, match=message):
        render_folder(tmp_path, look, range(index, 2), seed, height_px, width_px)
    assert not list(tmp_path.iterdir())
