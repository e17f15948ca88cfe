"""ClassMix, colour jitter and blur against plain loops and known values."""

import colorsys
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cag_uda.adaptation.mixing import (
    choose_half_of_classes,
    class_mix,
    colour_jitter,
    confident_share,
    gaussian_blur,
    smaller_half,
)
from cag_uda.errors import ShapeError
from cag_uda.types import IGNORE
from tests.support.batches import seeded


def test_half_of_the_classes_shown_is_chosen_the_odd_one_included() -> None:
    label = torch.full((4, 6, 6), IGNORE)
    label[0, 0, :5] = torch.tensor([0, 2, 3, 5, 6])
    label[1, 0, :4] = torch.tensor([1, 1, 4, 6])
    label[2] = 3
    times = torch.zeros(4, 7)
    for seed in range(400):
        chosen = choose_half_of_classes(label, 7, seeded(seed))
        assert chosen.sum(dim=1).tolist() == [3, 2, 1, 0]
        times += chosen
    # Each class shown is chosen as often as another: 3 of 5, 2 of 3, always; no other ever.
    expected = torch.zeros(4, 7)
    expected[0, [0, 2, 3, 5, 6]] = 3 / 5
    expected[1, [1, 4, 6]] = 2 / 3
    expected[2, 3] = 1
    assert (times / 400 - expected).abs().max() < 0.08
    assert times[expected == 0].sum() == 0


def test_the_half_that_covers_less_is_chosen() -> None:
    label = torch.full((5, 2, 5), IGNORE)
    label[0] = torch.tensor([[0, 0, 0, 0, 0], [0, 1, 1, 1, 1]])  # class 0 on 6 of 10
    label[1] = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])  # on half
    label[2, 0, :3] = torch.tensor([0, 0, 1])  # on 2 of 3 that have a label
    label[3] = 0  # alone
    first, second = torch.tensor([[True, False, False], [False, True, False]])
    nothing = torch.tensor([False, False, False])
    got = smaller_half(first.expand(5, 3), label)
    assert got.equal(torch.stack([second, first, second, nothing, first]))
    assert smaller_half(second.expand(5, 3), label)[:3].equal(second.expand(3, 3))
    label[0, 1, 4] = 2
    assert smaller_half(first.expand(5, 3), label)[0].tolist() == [False, True, True]


def test_class_mix_is_the_loop_over_pixels() -> None:
    generator = seeded(1)
    images = torch.rand(2, 2, 3, 5, 7, generator=generator)
    source_label = torch.randint(0, 4, (2, 5, 7), generator=generator)
    source_label[0, 0] = IGNORE
    target_label = torch.randint(0, 4, (2, 5, 7), generator=generator)
    chosen = torch.tensor([[True, False, True, False], [False, False, False, True]])
    weight = torch.tensor(0.25)
    mixed = class_mix((images[0], source_label), (images[1], target_label), weight, chosen)
    for b in range(2):
        for y in range(5):
            for x in range(7):
                of_source = int(source_label[b, y, x])
                pasted = of_source != IGNORE and bool(chosen[b, of_source])
                origin = 0 if pasted else 1
                assert mixed.image[b, :, y, x].equal(images[origin, b, :, y, x])
                wanted = of_source if pasted else int(target_label[b, y, x])
                assert mixed.label[b, y, x] == wanted
                assert mixed.weight[b, y, x] == (1.0 if pasted else 0.25)


def test_class_mix_wants_one_size() -> None:
    image, label = torch.rand(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    with pytest.raises(ShapeError, match="one size"):
        class_mix(
            (image, label), (image[..., :3], label[..., :3]), torch.ones(()), torch.ones(1, 2) > 0
        )


def test_confident_share_counts_pixels() -> None:
    confidence = torch.tensor([[[0.5, 0.968], [0.99, 0.9]]])
    assert confident_share(confidence, 0.968).item() == 0.5
    assert confident_share(confidence, 0.3).item() == 1.0


def image_batch(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 12, 15, generator=seeded(3)) * 0.5 + 0.25


def test_no_strength_and_no_probability_leave_images_as_they_are() -> None:
    image = image_batch()
    torch.testing.assert_close(colour_jitter(image, 0.0), image, rtol=0, atol=1e-6)
    torch.testing.assert_close(colour_jitter(image, 0.9, 0.0), image, rtol=0, atol=1e-6)
    assert gaussian_blur(image, (0.15, 1.15), 0.0).equal(image)


def test_colour_jitter_is_its_four_steps_one_after_the_other() -> None:
    """Brightness, contrast, saturation and hue, each from its definition, on single pixels."""
    image, strength = image_batch() * 0.3 + 0.3, 0.05
    got = colour_jitter(image, strength, 1.0, seeded(5))
    spread = ((2 * torch.rand(3, 5, generator=seeded(5)) - 1) * strength).double().numpy()
    luma = np.array([0.299, 0.587, 0.114])
    to_yiq = np.array([luma, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    for b in range(3):
        x = image[b].double().numpy() * (1 + spread[b, 0])
        contrast, saturation, angle = 1 + spread[b, 1], 1 + spread[b, 2], 2 * np.pi * spread[b, 3]
        x = contrast * x + (1 - contrast) * np.tensordot(luma, x, 1).mean()
        x = saturation * x + (1 - saturation) * np.tensordot(luma, x, 1)
        yiq = np.tensordot(to_yiq, x, 1)
        chroma = (yiq[1] + 1j * yiq[2]) * np.exp(1j * angle)
        x = np.tensordot(np.linalg.inv(to_yiq), np.stack([yiq[0], chroma.real, chroma.imag]), 1)
        np.testing.assert_allclose(got[b].numpy(), np.clip(x, 0, 1), atol=1e-4)


def test_a_turn_of_the_hue_is_about_that_of_hsv_and_keeps_grey() -> None:
    from cag_uda.adaptation.mixing import _hue_rotation

    red = torch.tensor([0.7, 0.4, 0.4])
    for turn in (1 / 12, -1 / 12, 1 / 6):
        r, g, b = (_hue_rotation(torch.tensor([2 * math.pi * turn]))[0] @ red).tolist()
        moved = (colorsys.rgb_to_hsv(r, g, b)[0] + 0.5) % 1 - 0.5
        assert abs(moved + turn) < 0.06, "the two count in opposite directions"
    grey = torch.full((3,), 0.6)
    turned = _hue_rotation(torch.tensor([1.0]))[0] @ grey
    torch.testing.assert_close(turned, grey, rtol=0, atol=1e-5)


def test_each_image_draws_for_itself_and_the_seed_decides() -> None:
    same = image_batch(1).expand(4, -1, -1, -1)
    first = colour_jitter(same, 0.25, 1.0, seeded(7))
    assert first.equal(colour_jitter(same, 0.25, 1.0, seeded(7)))
    assert len({tuple(each.flatten().tolist()) for each in first}) == 4
    assert first.min() >= 0
    assert first.max() <= 1


def test_blur_is_the_gaussian_mean_of_the_neighbourhood() -> None:
    image = image_batch(2)
    got = gaussian_blur(image, (0.8, 0.8), 1.0, seeded(2))
    offsets = np.arange(-4, 5)
    kernel = np.exp(-0.5 * (offsets / 0.8) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(image.double().numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    expected = np.zeros(image.shape)
    for dy in range(9):
        for dx in range(9):
            expected += kernel[dy] * kernel[dx] * padded[..., dy : dy + 12, dx : dx + 15]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_some_images_are_blurred_and_the_others_untouched() -> None:
    image = image_batch(32)
    blurred = gaussian_blur(image, (0.5, 1.15), 0.5, seeded(4))
    untouched = [a.equal(b) for a, b in zip(blurred, image, strict=True)]
    assert 5 < sum(untouched) < 27
    # A blur keeps the mean and lowers the spread.
    changed = ~torch.tensor(untouched)
    assert (blurred[changed].std(dim=(2, 3)) < image[changed].std(dim=(2, 3))).all()
