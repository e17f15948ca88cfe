"""Category anchors against plain loops and float64."""

import pytest
import torch
from torch import Tensor

from cag_uda.adaptation import CategoryAnchors, by_anchor, downsample
from cag_uda.adaptation.anchors import Average
from cag_uda.adaptation.margins import RelativeMargin
from cag_uda.adaptation.tensors import one_hot
from cag_uda.errors import ShapeError, UserError
from cag_uda.types import IGNORE


def a_batch(seed: int = 0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Features (3, 8, 6, 7) and labels of 5 classes, some ignored, class 4 absent."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 8, 6, 7, generator=generator) + offset
    label = torch.randint(0, 5, (3, 6, 7), generator=generator)
    return features, torch.where(label == 4, IGNORE, label)


def plain_anchors(
    batches: list[tuple[Tensor, Tensor]], average: str, min_pixels: int
) -> tuple[Tensor, Tensor]:
    """The definition, as loops in float64."""
    vectors = torch.full((5, 8), torch.nan, dtype=torch.float64)
    counts = torch.zeros(5, dtype=torch.int64)
    for k in range(5):
        pixels = [f[:, y == k].double() for fs, ys in batches for f, y in zip(fs, ys, strict=True)]
        pixels = [p for p in pixels if p.shape[1] >= min_pixels]
        if pixels:
            parts = torch.cat(pixels, 1) if average == "pixel" else mean_of_each(pixels)
            vectors[k], counts[k] = parts.mean(1), parts.shape[1]
    return vectors, counts


def mean_of_each(pixels: list[Tensor]) -> Tensor:
    return torch.stack([p.mean(1) for p in pixels], 1)


@pytest.mark.parametrize("average", ["pixel", "image"])
@pytest.mark.parametrize("min_pixels", [1, 9])
def test_anchors_are_those_of_plain_loops(average: Average, min_pixels: int) -> None:
    batches = [a_batch(0), a_batch(1)]
    anchors = CategoryAnchors(5, 8, average=average, min_pixels=min_pixels)
    for features, label in batches:
        anchors.update(features, label)
    vectors, counts = plain_anchors(batches, average, min_pixels)
    assert torch.equal(anchors.counts, counts)
    assert counts[4] == 0
    assert (counts[:4] > 0).any()
    torch.testing.assert_close(anchors.vectors, vectors.float(), equal_nan=True)


def test_min_pixels_is_per_image_and_class() -> None:
    features = torch.ones(2, 1, 1, 4)
    features[1] = 5
    label = torch.tensor([[[0, 0, 0, 1]], [[0, 1, 1, 1]]])
    anchors = CategoryAnchors(2, 1, min_pixels=3)
    anchors.update(features, label)
    assert anchors.counts.tolist() == [3, 3]
    assert anchors.vectors.flatten().tolist() == [1.0, 5.0]


def test_image_average_weighs_images_alike_and_pixel_average_pixels() -> None:
    # Image 0 has three pixels of value 1, image 1 one of value 5: (1+5)/2 = 3, (1+1+1+5)/4 = 2.
    features = torch.tensor([[[[1.0, 1.0, 1.0]]], [[[5.0, 9.0, 9.0]]]])
    label = torch.tensor([[[0, 0, 0]], [[0, IGNORE, IGNORE]]])
    rows: list[tuple[Average, float, int]] = [("image", 3.0, 2), ("pixel", 2.0, 4)]
    for average, expected, count in rows:
        anchors = CategoryAnchors(2, 1, average=average)
        anchors.update(features, label)
        assert anchors.vectors[0].item() == expected
        assert anchors.counts.tolist() == [count, 0]
        assert anchors.vectors[1].isnan().all()


def test_order_of_updates_does_not_show() -> None:
    forth, back = CategoryAnchors(5, 8), CategoryAnchors(5, 8)
    batches = [a_batch(seed, offset=100.0) for seed in range(6)]
    for features, label in batches:
        forth.update(features, label)
    for features, label in reversed(batches):
        back.update(features, label)
    assert torch.equal(forth.vectors[:4], back.vectors[:4])


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_anchors_are_exact_far_from_the_origin(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 16, 60, 80, generator=generator) + offset
    label = torch.randint(0, 3, (2, 60, 80), generator=generator)
    anchors = CategoryAnchors(3, 16)
    anchors.update(features, label)
    exact = torch.stack([features.double().movedim(1, -1)[label == k].mean(0) for k in range(3)])
    # The sums are no worse for the offset; the float32 vectors by half a last place of 1,000.
    means = anchors.sums / anchors.counts[:, None]
    torch.testing.assert_close(means, exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(anchors.vectors, exact.float(), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_distances_are_within_a_thousandth_of_float64(
    offset: float, layout: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 256, 16, 20, generator=generator) + offset
    vectors = 0.5 * torch.randn(19, 256, generator=generator) + offset
    distances = CategoryAnchors.from_vectors(vectors).distances(
        features.contiguous(memory_format=layout)
    )
    exact = torch.linalg.vector_norm(
        features.double()[:, None] - vectors.double()[:, :, None, None], dim=2
    )
    assert distances.shape == (2, 19, 16, 20)
    assert distances.dtype == torch.float32
    assert ((distances - exact).abs() / exact).max() < 1e-5
    assert torch.equal(distances.argmin(1), exact.argmin(1))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("rule", [2.5, RelativeMargin(0.06)])
def test_no_label_flips_that_is_not_on_the_edge(
    offset: float, rule: float | RelativeMargin
) -> None:
    """Against float64: only a gap within a thousandth of the margin, or of none, may differ."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(19, 256, generator=generator)
    label = torch.randint(0, 19, (2, 32, 40), generator=generator)
    noise = torch.randn(2, 256, 32, 40, generator=generator)
    features = (0.35 * vectors[label].movedim(-1, 1) + noise + offset).float()
    vectors = vectors + offset
    exact = torch.linalg.vector_norm(
        features.double()[:, None] - vectors.double()[:, :, None, None], dim=2
    )
    nearest, second = exact.topk(2, dim=1, largest=False).values.unbind(dim=1)
    gap, margin = second - nearest, rule if isinstance(rule, float) else 0.06 * (nearest + second)
    on_edge = ((gap - margin).abs() < 1e-3 * nearest) | (gap < 1e-3 * nearest)
    expected = torch.where(gap >= margin, exact.argmin(dim=1), IGNORE)
    got = by_anchor(CategoryAnchors.from_vectors(vectors).distances(features), rule).label
    assert torch.equal(got[~on_edge], expected[~on_edge])
    share = (expected != IGNORE).float().mean()
    assert 0.02 < share < 0.98, "the margin divides them"
    assert on_edge.float().mean() < 0.1


def test_distance_to_a_coinciding_anchor_is_nearly_nothing_and_never_nan() -> None:
    vectors = torch.randn(4, 256, generator=torch.Generator().manual_seed(0)) + 1000
    features = vectors.t()[None, :, None, :]
    distances = CategoryAnchors.from_vectors(vectors).distances(features)
    assert distances[0, :, 0].diagonal().max() < 0.05
    assert distances.isfinite().all()


def test_class_never_seen_is_infinitely_far() -> None:
    features, label = a_batch()
    anchors = CategoryAnchors(5, 8)
    assert anchors.distances(features).isposinf().all()
    anchors.update(features, label)
    distances = anchors.distances(features)
    assert distances[:, 4].isposinf().all()
    assert distances[:, :4].isfinite().all()


def test_a_feature_that_is_not_finite_spoils_its_own_distances_only() -> None:
    features, label = a_batch()
    anchors = CategoryAnchors(5, 8)
    anchors.update(features, label)
    features[0, 3, 2, 2] = torch.nan
    distances = anchors.distances(features)
    assert distances[0, :, 2, 2].isnan().all()
    assert distances.isnan().sum() == 5


def test_bfloat16_features_are_computed_in_float32_also_under_autocast() -> None:
    features, label = a_batch()
    features = features.bfloat16()
    plain, cast = CategoryAnchors(5, 8), CategoryAnchors(5, 8)
    plain.update(features.float(), label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast.update(features, label)
        distances = cast.distances(features)
    assert torch.equal(cast.vectors[:4], plain.vectors[:4])
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances, plain.distances(features.float()))


def test_state_travels_with_state_dict_and_reset_forgets() -> None:
    anchors, copy = CategoryAnchors(5, 8), CategoryAnchors(5, 8)
    features, label = a_batch()
    anchors.update(features, label)
    copy.load_state_dict(anchors.state_dict())
    copy.update(features, label)
    assert torch.equal(copy.counts, 2 * anchors.counts)
    copy.reset()
    assert copy.counts.sum() == 0
    assert copy.vectors.isnan().all()


def test_from_vectors_gives_the_vectors_back_and_goes_on_averaging() -> None:
    features, label = a_batch()
    anchors = CategoryAnchors(5, 8)
    anchors.update(features, label)
    again = CategoryAnchors.from_vectors(anchors.vectors, anchors.counts)
    assert torch.equal(again.vectors[:4], anchors.vectors[:4])
    assert torch.equal(again.counts, anchors.counts)
    again.update(*a_batch(1))
    anchors.update(*a_batch(1))
    torch.testing.assert_close(again.vectors, anchors.vectors, equal_nan=True)
    assert CategoryAnchors.from_vectors(anchors.vectors).counts.tolist() == [1, 1, 1, 1, 0]


def test_reduce_makes_one_of_the_parts_of_processes() -> None:
    whole, first, second = (CategoryAnchors(5, 8) for _ in range(3))
    for part, batch in ((first, a_batch(0)), (second, a_batch(1))):
        part.update(*batch)
        whole.update(*batch)
    of_second = {tuple(t.shape): t for t in second.buffers()}
    first.reduce(lambda tensor: tensor + of_second[tuple(tensor.shape)])
    assert torch.equal(first.counts, whole.counts)
    torch.testing.assert_close(first.sums, whole.sums)


def test_what_does_not_fit_is_refused_in_words() -> None:
    features, label = a_batch()
    anchors = CategoryAnchors(5, 8)
    with pytest.raises(ShapeError, match="downsample"):
        anchors.update(features, label.repeat(1, 2, 2))
    with pytest.raises(ShapeError, match=r"\(B, 8, h, w\)"):
        anchors.distances(features[:, :7])
    with pytest.raises(ShapeError, match="vectors"):
        CategoryAnchors.from_vectors(torch.zeros(5, 8), torch.zeros(4))
    with pytest.raises(UserError, match="median"):
        CategoryAnchors(5, 8, average="median")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least one"):
        CategoryAnchors(0, 8)


def test_downsample_reads_the_pixel_at_each_cell_centre() -> None:
    label = torch.arange(8).view(1, 1, 8).expand(1, 4, 8) + 10 * torch.arange(4).view(1, 4, 1)
    # Cells of four columns span 0–4 and 4–8 with centres 2 and 6; of two rows, 1 and 3.
    assert downsample(label, (2, 2)).tolist() == [[[12, 16], [32, 36]]]
    assert downsample(label, (4, 8)) is label
    # 7 pixels in 3 cells: centres 7/6, 7/2, 35/6 → pixels 1, 3, 5.
    assert downsample(torch.arange(7).view(1, 1, 7), (1, 3)).tolist() == [[[1, 3, 5]]]
    with pytest.raises(ShapeError, match="positive size"):
        downsample(label, (0, 2))


def test_downsample_is_exact_nearest_resizing() -> None:
    label = torch.randint(0, 19, (2, 61, 83), generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(
        label[:, None].float(), size=(16, 21), mode="nearest-exact"
    )
    assert torch.equal(downsample(label, (16, 21)), expected[:, 0].long())
    corners = torch.nn.functional.interpolate(label[:, None].float(), size=(16, 21))
    assert torch.equal(downsample(label, (16, 21), align_corners=True), corners[:, 0].long())


def test_one_hot_has_nothing_for_ids_that_are_no_class() -> None:
    rows = one_hot(torch.tensor([[[0, 2, IGNORE, -1, 3]]]), 3)
    assert rows.tolist() == [[[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]]
