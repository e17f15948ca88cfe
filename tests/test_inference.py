"""How a segmenter is applied to images, and how it is scored on a split."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from cag_uda.data.ahead import ahead
from cag_uda.data.domain import Domain
from cag_uda.errors import DataError, ShapeError
from cag_uda.evaluation.evaluate import Evaluation, evaluate, load_frames, merge
from cag_uda.models.config import Classes
from cag_uda.models.inference import (
    class_logits,
    label_map,
    label_maps,
    most_likely,
    prepare,
    upsample,
)
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE, Prediction

Image = npt.NDArray[np.uint8]
CLASSES = 5


class Stub(nn.Module):
    """Stride-2 random convolution; notes the shape, type and mode of every call."""

    def __init__(self, input_width_px: int | None = None, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.config = SimpleNamespace(input_width_px=input_width_px)
        generator = torch.Generator().manual_seed(0)
        self.encoder = nn.Conv2d(3, num_classes, 3, stride=2, padding=1)
        self.frozen_norm = nn.BatchNorm2d(num_classes)
        for parameter in self.encoder.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.calls: list[tuple[tuple[int, ...], bool, bool]] = []

    def forward(self, image: Tensor) -> Prediction:
        assert image.dtype == torch.float32
        assert image.min() >= 0
        assert image.max() <= 1
        self.calls.append((tuple(image.shape), self.training, torch.is_inference_mode_enabled()))
        features = self.encoder(image)
        return Prediction(features, self.frozen_norm(features))


def picture(height: int, width: int, seed: int = 0) -> Image:
    coarse = np.random.default_rng(seed).integers(
        0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8
    )
    return coarse.repeat(4, 0).repeat(4, 1)[:height, :width].copy()


# ---- prepare ----------------------------------------------------------------------------------


def test_images_keep_their_size_where_no_width_is_asked() -> None:
    image = picture(7, 11)
    prepared = prepare(image, None)
    assert prepared.dtype == torch.uint8
    assert torch.equal(prepared[0].permute(1, 2, 0), torch.from_numpy(image))


@pytest.mark.parametrize(
    ("size", "width_px", "expected"),
    [
        ((60, 80), 40, (30, 40)),
        ((30, 40), 80, (60, 80)),
        ((33, 50), 20, (13, 20)),
        ((1, 99), 9, (1, 9)),
    ],
)
def test_the_width_is_met_and_the_aspect_kept(
    size: tuple[int, int], width_px: int, expected: tuple[int, int]
) -> None:
    assert prepare(picture(*size), width_px).shape == (1, 3, *expected)


def test_shrinking_averages_areas() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    means = image.reshape(3, 4, 5, 4, 3).mean(axis=(1, 3))
    shrunk = prepare(image, 5)[0].permute(1, 2, 0).numpy()
    assert np.abs(shrunk - means).max() <= 0.51


@pytest.mark.parametrize("view", [np.s_[:, :, ::-1], np.s_[::-1], np.s_[:, 1::2]])
@pytest.mark.parametrize("width_px", [None, 8])
def test_views_of_images_are_as_good_as_copies(view: Any, width_px: int | None) -> None:
    image = picture(12, 16)[view]
    image.flags.writeable = False
    assert torch.equal(prepare(image, width_px), prepare(image.copy(), width_px))


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)],
)
def test_anything_but_rgb_of_8_bits_is_refused(image: Image) -> None:
    with pytest.raises(DataError, match="RGB"):
        prepare(image, None)


# ---- label maps -------------------------------------------------------------------------------


@pytest.mark.parametrize("width_px", [None, 24, 100])
def test_label_maps_have_the_size_of_their_images(width_px: int | None) -> None:
    stub = Stub(width_px)
    label = label_map(stub, picture(37, 53))
    assert label.shape == (37, 53)
    assert label.dtype == np.uint8
    assert stub.calls[0][0][-1] == (width_px or 53)


def test_a_label_map_is_the_argmax_of_the_class_logits() -> None:
    stub = Stub(40).eval()
    image = picture(60, 80)
    logits = class_logits(stub, prepare(image, 40), (60, 80))
    assert logits.shape == (1, CLASSES, 60, 80)
    np.testing.assert_array_equal(label_map(stub, image), logits[0].argmax(0))
    assert len(set(label_map(stub, image).flat)) > 2


def test_class_logits_take_bytes_and_floats_alike_and_let_gradients_flow() -> None:
    stub = Stub().eval()
    image = prepare(picture(8, 8), None)
    logits = class_logits(stub, image, (8, 8))
    assert torch.equal(logits, class_logits(stub, image.float() / 255, (8, 8)))
    assert logits.requires_grad


@pytest.mark.parametrize("size", [(64, 96), (61, 97), (16, 24), (10, 11)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_class_by_class_equals_all_at_once(
    size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    logits = torch.randn(2, 19, 16, 24, generator=torch.Generator().manual_seed(1))
    logits = logits.contiguous(memory_format=memory_format)
    assert torch.equal(most_likely(logits, size).long(), upsample(logits, size).argmax(1))


def test_the_first_class_wins_a_tie() -> None:
    assert not most_likely(torch.zeros(1, 3, 2, 2), (4, 4)).any()


def test_more_classes_than_a_byte_are_refused() -> None:
    with pytest.raises(ShapeError, match="256"):
        most_likely(torch.zeros(1, 256, 1, 1), (1, 1))


def test_label_maps_come_in_order_whatever_the_batches() -> None:
    sizes = [(20, 30)] * 3 + [(30, 20)] + [(20, 30)] * 2
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    stub = Stub()
    alone = [label_map(stub, image) for image in images]
    stub.calls.clear()
    together = list(label_maps(stub, iter(images), batch_size=2))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [shape[0] for shape, *_ in stub.calls] == [2, 1, 1, 2]


def test_images_that_meet_at_the_input_width_keep_their_own_sizes() -> None:
    images = [picture(40, 60), picture(20, 30)]
    assert [m.shape for m in label_maps(Stub(30), images, batch_size=2)] == [(40, 60), (20, 30)]


def test_images_are_read_one_batch_at_a_time() -> None:
    read = []

    def images() -> Iterator[Image]:
        for seed in range(8):
            read.append(seed)
            yield picture(8, 8, seed)

    next(label_maps(Stub(), images(), batch_size=2))
    assert len(read) <= 3


def test_every_module_gets_its_mode_back_and_results_are_plain() -> None:
    stub = Stub().train()
    stub.frozen_norm.eval()
    for _ in label_maps(stub, [picture(8, 8)] * 2, batch_size=1):
        assert stub.training  # between results, too
        assert not torch.is_inference_mode_enabled()
    assert stub.encoder.training
    assert not stub.frozen_norm.training
    assert all(not training and inference for _, training, inference in stub.calls)


def test_modes_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(image: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    stub = Stub().train()
    monkeypatch.setattr(stub.encoder, "forward", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        label_map(stub, picture(8, 8))
    assert stub.encoder.training
    assert not torch.is_inference_mode_enabled()


def test_flip_averages_with_the_mirrored_image() -> None:
    stub = Stub().eval()
    image = prepare(picture(16, 24), None)
    mirrored = class_logits(stub, image.flip(-1), (16, 24)).flip(-1)
    expected = (class_logits(stub, image, (16, 24)) + mirrored) / 2
    flipped = class_logits(stub, image, (16, 24), flip=True)
    torch.testing.assert_close(flipped, expected)
    assert not torch.allclose(flipped, class_logits(stub, image, (16, 24)))
    symmetric = class_logits(stub, image.flip(-1), (16, 24), flip=True).flip(-1)
    torch.testing.assert_close(flipped, symmetric)


def test_a_batch_size_of_0_is_refused() -> None:
    with pytest.raises(DataError, match="batch size"):
        next(label_maps(Stub(), [picture(8, 8)], batch_size=0))


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

    def read_image(self, item: Any) -> Image:
        return self.frames[item.key][0]

    def read_label(self, item: Any) -> Image:
        return self.frames[item.key][1]


def fake_domain(count: int = 7) -> Domain:
    generator = np.random.default_rng(0)
    ids = np.array([*range(CLASSES), IGNORE], np.uint8)
    frames = {}
    for index in range(count):
        label_size = (40, 60) if index % 3 == 0 else (20, 30)
        label = generator.choice(ids, label_size)
        frames[f"frame-{(index * 3) % count}"] = (picture(20, 30, index), label)
    return cast(Domain, FakeDomain(frames))


def by_hand(segmenter: Stub, domain: Domain, key: str) -> npt.NDArray[np.int64]:
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
    domain, stub = fake_domain(), Stub(20)
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


def test_shards_merge_into_the_whole_whatever_their_number() -> None:
    domain, stub = fake_domain(), Stub()
    whole = merge([evaluate(stub, domain, "test")])
    for world_size in (2, 9):
        parts = [evaluate(stub, domain, "test", shard=(r, world_size)) for r in range(world_size)]
        merged = merge(parts[::-1])
        assert merged.keys == whole.keys == tuple(sorted(whole.keys))
        np.testing.assert_array_equal(merged.confusions, whole.confusions)
    with pytest.raises(ShapeError, match="two parts"):
        merge([whole, whole])


def test_frames_survive_the_file(tmp_path: Path) -> None:
    evaluation = evaluate(Stub(), fake_domain(), "test")
    path = tmp_path / "new" / "frames.npz"
    evaluation.save_frames(path)
    assert list(path.parent.iterdir()) == [path]
    loaded = load_frames(path)
    assert (loaded.keys, loaded.names) == (evaluation.keys, evaluation.names)
    np.testing.assert_array_equal(loaded.confusions, evaluation.confusions)


def test_damaged_and_missing_frame_files_are_user_errors(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    evaluate(Stub(), fake_domain(), "test").save_frames(whole)
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
    first, second = evaluate(Stub(), domain, "test"), evaluate(Stub(20), domain, "test")
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
        evaluate(Stub(), fake_domain(), "train")


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
    evaluation = evaluate(segmenter, domain, "test", batch_size=2, flip=True)
    assert len(evaluation.keys) == 3
    assert segmenter.training
    labelled = sum(int((domain.read_label(i) != IGNORE).sum()) for i in domain.items("test"))
    assert evaluation.confusions.sum() == labelled > 0
    assert 0 <= evaluation.scores.miou < 1


def test_a_network_of_other_classes_is_refused() -> None:
    with pytest.raises(DataError, match="tells 4 classes apart, but the domain has 5"):
        evaluate(Stub(num_classes=4), fake_domain(), "test")


def test_a_shard_out_of_range_is_refused() -> None:
    with pytest.raises(ShapeError, match="shard"):
        evaluate(Stub(), fake_domain(), "test", shard=(2, 2))
