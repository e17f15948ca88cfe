"""`predict` on many images: batches of one size, work at the same time, bounded memory, speed."""

import gc
import importlib.util
import itertools
import resource
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from cag_uda.data.files.images import ImageReader
from cag_uda.models.inference import prepare
from cag_uda.models.label_maps import Labelling, label_batch
from cag_uda.models.segmentation import Segmentation, write_picture
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.views import WHOLE
from cag_uda.prediction import predict as predict_command
from cag_uda.prediction import stream as predict_stream
from cag_uda.prediction.jobs import Job
from cag_uda.prediction.log import PredictionLog
from cag_uda.prediction.stream import BATCH_SIZE, Behind, Frame, batches_of_one_size, segment
from tests.support.places import REPOSITORY
from tests.support.predictions import LOG, predict, write_model, write_photo
from tests.support.trees import read_pixels

T = TypeVar("T")


@pytest.fixture
def model(segmenter: Segmenter, tmp_path: Path) -> Path:
    return write_model(segmenter, tmp_path / "model")


def frame(number: int, size: tuple[int, int]) -> Frame[int]:
    image = np.zeros((*size, 3), np.uint8)
    return Frame(number, image, prepare(image, None))


def test_images_of_one_size_share_batches_though_others_come_between() -> None:
    sizes = [(8, 8), (8, 9)]
    frames = [frame(number, sizes[number % 2]) for number in range(18)]
    batches = [[each.origin for each in batch] for batch in batches_of_one_size(frames)]
    assert batches == [
        [0, 2, 4, 6],
        [1, 3, 5, 7],
        [8, 10, 12, 14],
        [9, 11, 13, 15],
        [16],
        [17],
    ]


def test_images_of_many_sizes_do_not_pile_up() -> None:
    handed_on = 0

    def frames() -> Iterator[Frame[int]]:
        for number in range(200):
            yield frame(number, (8, 8 + number))
            assert number - handed_on < 20

    for batch in batches_of_one_size(frames()):
        handed_on += len(batch)
    assert handed_on == 200


def test_large_images_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_stream, "_PIXELS_PER_BATCH", 200)
    frames = [frame(number, (10, 10)) for number in range(4)]
    assert [len(batch) for batch in batches_of_one_size(frames)] == [2, 2]
    frames = [frame(number, (20, 20)) for number in range(2)]
    assert [len(batch) for batch in batches_of_one_size(frames)] == [1, 1]


def test_writing_behind_is_bounded_and_raises_the_first_error() -> None:
    gate, running = threading.Event(), []

    def slow() -> None:
        running.append(1)
        gate.wait(5)

    with Behind(1, 3) as behind:
        threading.Timer(0.2, gate.set).start()
        for _ in range(6):
            behind.call(slow)
            assert len(running) <= 6
        assert gate.is_set(), "the fourth call waits for the first"

    def fail() -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"), Behind(1, 1) as behind:
        behind.call(fail)


def test_reading_labelling_and_writing_overlap(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for what only happens at the same time if none waits for another to end.

    The network takes its second batch only when the third is being read, and the first picture is
    only written when the network has its second batch.
    """
    folder = copies_of_a_photo(tmp_path / "photos", 4 * BATCH_SIZE)
    of_third_batch, second_batch, in_time = threading.Event(), threading.Event(), []
    batches = itertools.count(1)

    plain_read = ImageReader.read

    def read_and_tell(self: ImageReader, path: Path, large: bool) -> np.ndarray:
        if int(path.stem) == 2 * BATCH_SIZE:
            of_third_batch.set()
        return plain_read(self, path, large)

    def label_and_tell(*arguments: Any, **options: Any) -> Labelling:
        if next(batches) == 2:
            in_time.append(of_third_batch.wait(30))
            second_batch.set()
        return label_batch(*arguments, **options)

    def wait_and_write(path: Path, picture: np.ndarray) -> None:
        in_time.append(second_batch.wait(30))
        write_picture(path, picture)

    monkeypatch.setattr(ImageReader, "read", read_and_tell)
    monkeypatch.setattr(predict_stream, "label_batch", label_and_tell)
    monkeypatch.setattr(predict_command, "write_picture", wait_and_write)
    predict(model, folder, "--out", tmp_path / "out", "--as", "train-ids")
    assert in_time == [True] * (4 * BATCH_SIZE + 1)


def test_segmenting_restores_the_networks_mode(segmenter: Segmenter) -> None:
    segmenter.train()
    frames = [frame(number, (32, 40)) for number in range(3)]
    results = [each for batch in segment(segmenter, frames, WHOLE, True) for each in batch]
    assert [number for number, _ in results] == [0, 1, 2]
    assert segmenter.training


def test_no_more_pictures_are_held_than_the_queues_take(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many images there are: of 200, at no time were more than some tens in memory."""
    held: weakref.WeakSet[object] = weakref.WeakSet()
    most = 0

    class CountedFrame(Frame[T]):
        def __init__(self, *parts: Any) -> None:
            super().__init__(*parts)
            count(self)

    class CountedSegmentation(Segmentation):
        def __init__(self, *parts: Any) -> None:
            super().__init__(*parts)
            count(self)

    def count(picture: object) -> None:
        nonlocal most
        held.add(picture)
        most = max(most, len(held))

    monkeypatch.setattr(predict_stream, "Frame", CountedFrame)
    monkeypatch.setattr(predict_stream, "Segmentation", CountedSegmentation)
    folder = copies_of_a_photo(tmp_path / "photos", 200)
    assert "200 predictions" in predict(model, folder, "--out", tmp_path / "out")
    # Read ahead, waiting for others of their size, in the network, waiting to be written.
    assert BATCH_SIZE <= most <= (2 + 4 + 1 + 4 + 1) * BATCH_SIZE
    gc.collect()
    assert not held


def copies_of_a_photo(folder: Path, count: int) -> Path:
    folder.mkdir()
    write_photo(folder / "00000.png", 0, (32, 32))
    for number in range(1, count):
        (folder / f"{number:05}.png").hardlink_to(folder / "00000.png")
    return folder


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def kill_on_the_way(model: Path, folder: Path, out: Path) -> int:
    """Begin to predict in a process of its own, and kill it; returns how many are done."""
    command = [sys.executable, "-m", "cag_uda", "predict", model, folder, "--out", out]
    process = subprocess.Popen([*map(str, command), "--as", "train-ids"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not ((out / LOG).exists() and (out / LOG).stat().st_size > 40_000):
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    return (out / LOG).read_text().count("\n") - 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's own counts")
def test_ten_thousand_images_after_a_kill_in_constant_memory(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done before the kill stays; all but the first 2,000 take next to no memory more."""
    folder, out = copies_of_a_photo(tmp_path / "photos", 10_000), tmp_path / "out"
    done = kill_on_the_way(model, folder, out)
    assert 0 < done < 4000
    before = {path: path.stat().st_mtime_ns for path in sorted(out.glob("*.png"))}
    written, after = itertools.count(1), {}
    add = PredictionLog.add

    def add_and_measure(log: PredictionLog, job: Job) -> None:
        add(log, job)
        number = next(written)
        if number % 1000 == 0:
            after[number] = resident_mb()

    monkeypatch.setattr(PredictionLog, "add", add_and_measure)
    printed = predict(model, folder, "--out", out, "--as", "train-ids")
    assert f"{10_000 - done} predictions" in printed
    assert f"{done} were there already" in printed
    assert after[max(after)] - after[2000] < 8, after
    assert len(list(out.glob("*.png"))) == 10_000
    changed = [path for path, written_ns in before.items() if path.stat().st_mtime_ns != written_ns]
    assert len(changed) == len(before) - done, "written, but not yet recorded"
    first = read_pixels(out / "00000.png")
    assert all(np.array_equal(read_pixels(path), first) for path in before)


@pytest.mark.slow
@pytest.mark.quiet
@pytest.mark.timeout(900)
def test_predicting_has_nine_tenths_of_the_bare_networks_throughput() -> None:
    """The benchmark with fewer images; of three attempts, as the machine may have other work."""
    spec = importlib.util.spec_from_file_location(
        "benchmark_of_prediction", REPOSITORY / "benchmarks" / "prediction.py"
    )
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    ratios: list[float] = []
    while len(ratios) < 3 and max(ratios, default=0) < 0.9:
        found = benchmark.measure(benchmark.options(["--images", "8", "--rounds", "3"]))
        ratios.append(found.predict / found.bare)
    assert max(ratios) >= 0.9, ratios
