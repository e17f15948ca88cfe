"""How a segmenter is scored on a split, frame by frame."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch

from cag_uda.data.domains.domain import Domain
from cag_uda.data.files.ahead import Room, ahead
from cag_uda.errors import DataError, ShapeError
from cag_uda.evaluation.evaluate import Evaluation, evaluate, load_frames, merge
from cag_uda.models.config import Classes
from cag_uda.models.inference import class_logits, prepare
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.views import Views
from cag_uda.types import IGNORE
from tests.support.stub_network import CLASSES, Image, picture, stub_network

# ---- read-ahead -------------------------------------------------------------------------------


def test_reading_ahead_keeps_order_and_bounds_what_is_held() -> None:
    begun: list[int] = []

    def slow_first(number: int) -> int:
        begun.append(number)
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    results = ahead(slow_first, range(20), depth=4)
    assert next(results) == 0
    assert len(begun) <= 5
    assert list(results) == [n * n for n in range(1, 20)]


def test_reading_ahead_passes_errors_on_and_leaves_no_thread() -> None:
    def fails_at_2(number: int) -> int:
        if number == 2:
            raise DataError("frame 2 is damaged")
        return number

    results = ahead(fails_at_2, range(9), depth=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError, match="frame 2"):
        next(results)
    left = ahead(abs, range(9), depth=3)
    next(left)
    left.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


# ---- evaluate ---------------------------------------------------------------------------------


@dataclass
class FakeDomain:
    """Frames in memory behind the interface of a domain."""

    frames: dict[str, tuple[Image, Image]]
    name: str = "fake"
    label_space: Any = field(
        default_factory=lambda: SimpleNamespace(names=tuple(f"class {k}" for k in range(CLASSES)))
    )

    def items(self, split: str) -> list[Any]:
        return [SimpleNamespace(key=key) for key in self.frames]

    def is_labelled(self, split: str) -> bool:
        return split == "test"

    def read_scored(self, item: Any) -> tuple[Image, Image]:
        return self.frames[item.key]


def fake_domain(count: int = 7) -> Domain:
    generator = np.random.default_rng(0)
    ids = np.array([*range(CLASSES), IGNORE], np.uint8)
    frames = {}
    for index in range(count):
        label_size = (40, 60) if index % 3 == 0 else (20, 30)
        label = generator.choice(ids, label_size)
        frames[f"frame-{(index * 3) % count}"] = (picture(20, 30, index), label)
    return cast(Domain, FakeDomain(frames))


def by_hand(segmenter: Segmenter, domain: Domain, key: str) -> npt.NDArray[np.int64]:
    """A frame's counts, pixel by pixel, at the resolution of the label."""
    image, label = cast(FakeDomain, domain).frames[key]
    with torch.no_grad():
        prepared = prepare(image, segmenter.config.input_width_px)
        logits = class_logits(segmenter.eval(), prepared, label.shape)
    counts = np.zeros((CLASSES, CLASSES + 1), np.int64)
    for true, predicted in zip(label.flat, logits[0].argmax(0).flatten().tolist(), strict=True):
        if true != IGNORE:
            counts[true, predicted] += 1
    return counts


def test_evaluation_counts_every_frame_at_the_size_of_its_label() -> None:
    domain, stub = fake_domain(), stub_network(20)
    told: list[tuple[int, int]] = []
    evaluation = evaluate(
        stub, domain, "test", batch_size=2, progress=lambda done, total: told.append((done, total))
    )
    assert evaluation.keys == tuple(item.key for item in domain.items("test"))
    for key, counts in zip(evaluation.keys, evaluation.confusions, strict=True):
        np.testing.assert_array_equal(counts, by_hand(stub, domain, key))
    total = evaluation.confusions.sum(0)
    union = total.sum(1) + total[:, :CLASSES].sum(0) - total.diagonal()
    np.testing.assert_allclose(evaluation.scores.iou, total.diagonal() / union)
    assert told[-1] == (7, 7)
    assert told == sorted(told)


def test_large_frames_are_held_and_labelled_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And counted in parts; all of that changes nothing."""
    domain, stub = fake_domain(), stub_network()
    expected = evaluate(stub, domain, "test")
    together = max(shape[0] for shape, *_ in stub.calls)
    stub.calls.clear()
    monkeypatch.setattr("cag_uda.evaluation.evaluate._LARGE_PIXELS", 100)
    monkeypatch.setattr("cag_uda.evaluation.confusion._PIXELS_AT_ONCE", 7)
    found = evaluate(stub, domain, "test")
    assert (together, max(shape[0] for shape, *_ in stub.calls)) == (2, 1)
    np.testing.assert_array_equal(found.confusions, expected.confusions)


def test_room_is_for_one_at_first_and_then_by_the_largest() -> None:
    room = Room(1000)
    assert room.count() == 1
    for pixels, count in ((100, 10), (50, 10), (300, 3), (5000, 1), (1, 1)):
        room.see(pixels)
        assert room.count() == count


def test_shards_merge_into_the_whole_whatever_their_number() -> None:
    domain, stub = fake_domain(), stub_network()
    whole = merge([evaluate(stub, domain, "test")])
    for world_size in (2, 9):
        parts = [evaluate(stub, domain, "test", shard=(r, world_size)) for r in range(world_size)]
        merged = merge(parts[::-1])
        assert merged.keys == whole.keys == tuple(sorted(whole.keys))
        np.testing.assert_array_equal(merged.confusions, whole.confusions)
    with pytest.raises(ShapeError, match="two parts"):
        merge([whole, whole])


def test_frames_survive_the_file(tmp_path: Path) -> None:
    evaluation = evaluate(stub_network(), fake_domain(), "test")
    path = tmp_path / "new" / "frames.npz"
    evaluation.save_frames(path)
    assert {each.name for each in path.parent.iterdir()} == {path.name, "SHA256SUMS"}
    loaded = load_frames(path)
    assert (loaded.keys, loaded.names) == (evaluation.keys, evaluation.names)
    np.testing.assert_array_equal(loaded.confusions, evaluation.confusions)


def test_damaged_and_missing_frame_files_are_user_errors(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    evaluate(stub_network(), fake_domain(), "test").save_frames(whole)
    content = whole.read_bytes()
    bad: dict[str, bytes] = {
        "empty": b"",
        "text": b"no archive",
        "cut": content[: len(content) // 2],
        "hurt": content[:90] + bytes(20) + content[110:],
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    np.savez(tmp_path / "other.npz", keys=np.array(["a"]), confusions=np.zeros(3), names=["b"])
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in (*bad, "other.npz", "array.npy", "missing.npz"):
        with pytest.raises(DataError, match="evaluate again"):
            load_frames(tmp_path / name)


def test_gain_pairs_frames_by_key() -> None:
    domain = fake_domain()
    first, second = (
        evaluate(stub_network(), domain, "test"),
        evaluate(stub_network(20), domain, "test"),
    )
    shuffled = Evaluation(second.keys[::-1], second.confusions[::-1], second.names)
    gain = first.gain_over(second)
    assert first.gain_over(shuffled) == gain
    assert gain.difference == pytest.approx(first.scores.miou - second.scores.miou)
    assert gain.difference != 0
    fewer = Evaluation(second.keys[:3], second.confusions[:3], second.names)
    with pytest.raises(DataError, match="different frames"):
        first.gain_over(fewer)


def test_a_split_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="split 'train' has no labels"):
        evaluate(stub_network(), fake_domain(), "train")


def test_a_real_network_is_scored_on_a_real_folder(
    tmp_path: Path, segmenter: Segmenter, classes: Classes
) -> None:
    names = ", ".join(f'{{ name = "{name}" }}' for name in classes.names)
    ids = "\n".join(f'{10 + index} = "{name}"' for index, name in enumerate(classes.names))
    (tmp_path / "mine.toml").write_text(
        f"""
        name = "mine"
        root = "."
        classes = [{names}]
        [labels]
        encoding = "ids"
        other = "ignore"
        [labels.map]
        {ids}
        [splits.test]
        images = "images/*"
        labels = "labels/*"
        """
    )
    for index in range(3):
        for folder, mode in (("images", "RGB"), ("labels", "L")):
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = picture(48, 64, index)
            array = pixels if mode == "RGB" else 9 + pixels[..., 0] % 5
            PIL.Image.fromarray(array).save(tmp_path / folder / f"{index}.png")
    domain = Domain.open(tmp_path / "mine.toml")
    segmenter.train()
    evaluation = evaluate(segmenter, domain, "test", batch_size=2, views=Views(flip=True))
    assert len(evaluation.keys) == 3
    assert segmenter.training
    labelled = sum(int((domain.read_label(i) != IGNORE).sum()) for i in domain.items("test"))
    assert evaluation.confusions.sum() == labelled > 0
    assert 0 <= evaluation.scores.miou < 1


def test_a_network_of_other_classes_is_refused() -> None:
    with pytest.raises(DataError, match="tells 4 classes apart, but the domain has 5"):
        evaluate(stub_network(num_classes=4), fake_domain(), "test")


def test_a_shard_out_of_range_is_refused() -> None:
    with pytest.raises(ShapeError, match="shard"):
        evaluate(stub_network(), fake_domain(), "test", shard=(2, 2))
