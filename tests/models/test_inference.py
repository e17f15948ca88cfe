"""How a segmenter is applied to images of any size, in one view or several."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cag_uda.errors import DataError, ShapeError
from cag_uda.models.inference import (
    class_logits,
    most_likely,
    prepare,
    upsample,
)
from cag_uda.models.label_maps import label_map, label_maps
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.views import WHOLE, Views
from tests.support.stub_network import CLASSES, Image, picture, stub_network

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
    stub = stub_network(width_px)
    label = label_map(stub, picture(37, 53))
    assert label.shape == (37, 53)
    assert label.dtype == np.uint8
    assert stub.calls[0][0][-1] == (width_px or 53)


def test_a_label_map_is_the_argmax_of_the_class_logits() -> None:
    stub = stub_network(40).eval()
    image = picture(60, 80)
    logits = class_logits(stub, prepare(image, 40), (60, 80))
    assert logits.shape == (1, CLASSES, 60, 80)
    np.testing.assert_array_equal(label_map(stub, image), logits[0].argmax(0))
    assert len(set(label_map(stub, image).flat)) > 2


def test_class_logits_take_bytes_and_floats_alike_and_let_gradients_flow() -> None:
    stub = stub_network().eval()
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
    stub = stub_network()
    alone = [label_map(stub, image) for image in images]
    stub.calls.clear()
    together = list(label_maps(stub, iter(images), batch_size=2))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [shape[0] for shape, *_ in stub.calls] == [2, 1, 1, 2]


def test_images_that_meet_at_the_input_width_keep_their_own_sizes() -> None:
    images = [picture(40, 60), picture(20, 30)]
    assert [m.shape for m in label_maps(stub_network(30), images, batch_size=2)] == [
        (40, 60),
        (20, 30),
    ]


def test_images_are_read_one_batch_at_a_time() -> None:
    read = []

    def images() -> Iterator[Image]:
        for seed in range(8):
            read.append(seed)
            yield picture(8, 8, seed)

    next(label_maps(stub_network(), images(), batch_size=2))
    assert len(read) <= 3


def test_every_module_gets_its_mode_back_and_results_are_plain() -> None:
    stub = stub_network().train()
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

    stub = stub_network().train()
    monkeypatch.setattr(stub.encoder, "forward", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        label_map(stub, picture(8, 8))
    assert stub.encoder.training
    assert not torch.is_inference_mode_enabled()


def test_flip_averages_with_the_mirrored_image() -> None:
    stub = stub_network().eval()
    image = prepare(picture(16, 24), None)
    mirrored = class_logits(stub, image.flip(-1), (16, 24)).flip(-1)
    expected = (class_logits(stub, image, (16, 24)) + mirrored) / 2
    flipped = class_logits(stub, image, (16, 24), Views(flip=True))
    torch.testing.assert_close(flipped, expected)
    assert not torch.allclose(flipped, class_logits(stub, image, (16, 24)))
    symmetric = class_logits(stub, image.flip(-1), (16, 24), Views(flip=True)).flip(-1)
    torch.testing.assert_close(flipped, symmetric)


def test_a_batch_size_of_0_is_refused() -> None:
    with pytest.raises(DataError, match="batch size"):
        next(label_maps(stub_network(), [picture(8, 8)], batch_size=0))


# ---- views ------------------------------------------------------------------------------------


def logits_of(stub: Segmenter, image: Tensor, views: Views = WHOLE) -> Tensor:
    with torch.no_grad():
        return class_logits(stub.eval(), image, (image.shape[-2], image.shape[-1]), views)


def test_scales_average_the_logits_of_resized_images() -> None:
    stub, image = stub_network(), prepare(picture(40, 60), None)
    looks = []
    for size in ((20, 30), (40, 60), (60, 90)):
        shrinks = size[0] < 40
        resized = torch.nn.functional.interpolate(
            image.float() / 255, size, mode="bilinear", antialias=shrinks
        )
        with torch.no_grad():
            looks.append(class_logits(stub.eval(), resized, (40, 60)))
    views = Views(scales=(0.5, 1.0, 1.5))
    torch.testing.assert_close(logits_of(stub, image, views), sum(looks) / 3)
    assert stub.calls[-1][0] == (1, 3, 60, 90)
    stub.calls.clear()
    labels = label_map(stub, picture(40, 60), views)
    np.testing.assert_array_equal(labels, logits_of(stub, image, views)[0].argmax(0))
    assert [shape[2:] for shape, *_ in stub.calls[:3]] == [(20, 30), (40, 60), (60, 90)]


def test_scales_are_relative_to_the_width_that_the_network_was_trained_at() -> None:
    stub = stub_network(input_width_px=40)
    assert label_map(stub, picture(60, 80), Views(scales=(0.5, 2.0))).shape == (60, 80)
    assert [shape[2:] for shape, *_ in stub.calls] == [(15, 20), (60, 80)]


def by_windows(
    stub: Segmenter, image: Tensor, tops: list[int], lefts: list[int], side: int
) -> Tensor:
    """The mean over windows, pixel by pixel."""
    height, width = image.shape[-2:]
    total, looks = torch.zeros(1, CLASSES, height, width), torch.zeros(height, width)
    for top in tops:
        for left in lefts:
            piece = image[..., top : top + side, left : left + side]
            total[..., top : top + side, left : left + side] += logits_of(stub, piece)
            looks[top : top + side, left : left + side] += 1
    assert (looks > 0).all()
    return total / looks


def test_windows_average_where_they_overlap_and_end_with_the_image() -> None:
    stub, image = stub_network(), prepare(picture(70, 100), None)
    # Steps of round(33 · 2/3) = 22: 0, 22, then 70 - 33; 0, 22, 44, 66, then 100 - 33.
    expected = by_windows(stub, image, [0, 22, 37], [0, 22, 44, 66, 67], 33)
    views = Views(window_px=(33, 33))
    torch.testing.assert_close(logits_of(stub, image, views), expected)
    labels = label_map(stub, picture(70, 100), views)
    np.testing.assert_array_equal(labels, expected[0].argmax(0))


def test_windows_without_overlap_tile_the_image() -> None:
    stub, image = stub_network(), prepare(picture(64, 96), None)
    expected = by_windows(stub, image, [0, 32], [0, 32, 64], 32)
    views = Views(window_px=(32, 32), overlap=0.0)
    torch.testing.assert_close(logits_of(stub, image, views), expected)
    assert [shape for shape, *_ in stub.calls[-6:]] == [(1, 3, 32, 32)] * 6


@pytest.mark.parametrize("window_px", [(40, 60), (400, 600), (40, 999)])
def test_a_window_that_holds_the_image_is_the_whole(window_px: tuple[int, int]) -> None:
    stub, image = stub_network(), prepare(picture(40, 60), None)
    views = Views(window_px=window_px)
    assert torch.equal(logits_of(stub, image, views), logits_of(stub, image))


def test_windows_flips_and_scales_go_together() -> None:
    # Of sizes whose windows lie alike from both ends, so that mirroring pieces or images is one.
    stub, image = stub_network(), prepare(picture(60, 96), None)
    plain = Views(scales=(1.0, 2.0), window_px=(40, 48), overlap=0.5)
    mirrored = logits_of(stub, image.flip(-1), plain).flip(-1)
    expected = (logits_of(stub, image, plain) + mirrored) / 2
    torch.testing.assert_close(logits_of(stub, image, replace(plain, flip=True)), expected)


def test_a_batch_is_looked_at_like_its_images() -> None:
    views = Views(flip=True, scales=(0.75, 1.0), window_px=(32, 32))
    images, stub = [picture(50, 70, seed) for seed in range(3)], stub_network()
    together = list(label_maps(stub, images, batch_size=3, views=views))
    for image, label in zip(images, together, strict=True):
        np.testing.assert_array_equal(label_map(stub, image, views), label)


def test_the_released_way_of_enlarging_aligns_corners() -> None:
    stub, image = stub_network(), prepare(picture(40, 60), None)
    with torch.no_grad():
        grid = stub.eval()(image.float() / 255).logits
    expected = torch.nn.functional.interpolate(grid, (40, 60), mode="bilinear", align_corners=True)
    views = Views(align_corners=True)
    torch.testing.assert_close(logits_of(stub, image, views), expected)
    np.testing.assert_array_equal(label_map(stub, picture(40, 60), views), expected[0].argmax(0))
    stub.config.align_corners = True  # A network that was trained so needs no asking.
    torch.testing.assert_close(logits_of(stub, image, Views()), expected)
    np.testing.assert_array_equal(label_map(stub, picture(40, 60)), expected[0].argmax(0))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, 0.0)}, "scales"),
        ({"scales": (float("nan"),)}, "scales"),
        ({"window_px": (512, 8)}, "512×8"),
        ({"overlap": 1.0}, "overlap"),
        ({"scales": (-1.0,), "overlap": -0.1}, "(?s)scales.*overlap"),
    ],
)
def test_views_out_of_range_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        Views(**wrong)
