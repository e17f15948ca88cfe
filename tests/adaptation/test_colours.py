"""Colour transfer between domains: made-up images whose colours are known."""

import math

import pytest
import torch
from torch import Tensor

from cag_uda.adaptation import colours
from cag_uda.adaptation.colours import ColourTransfer, colour_statistics, recolour
from cag_uda.types import IGNORE, Batch, Labelled, Unlabelled
from tests.support.batches import seeded

TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def logit(light: float) -> float:
    """Of light between one step of 8 bits and that below 1."""
    light = min(max(light, 1 / 255), 254 / 255)
    return math.log(light / (1 - light))


def images(generator: torch.Generator, centre: float, spread: float, between: float) -> Tensor:
    """Four images of noise, whose means vary by `between` from image to image."""
    noise = spread * (torch.rand(4, 3, 24, 32, generator=generator) - 0.5)
    moved = between * torch.randn(4, 1, 1, 1, generator=generator)
    return (centre + noise + moved).clamp(0, 1)


def batch_of(source: Tensor, target: Tensor) -> Batch:
    label = torch.full(source.shape[:1] + source.shape[2:], IGNORE)
    return Batch(Labelled(source, label), Unlabelled(torch.zeros_like(target), target))


def test_statistics_are_those_of_a_plain_loop() -> None:
    image = torch.rand(2, 3, 5, 7, generator=seeded(0))
    found = colour_statistics(image)
    for number in range(2):
        for row, weights in enumerate(TO_YIQ):
            values = [
                sum(w * logit(image[number, c, y, x].item()) for c, w in enumerate(weights))
                for y in range(5)
                for x in range(7)
            ]
            channel = torch.tensor(values, dtype=torch.float64)
            assert found[number, row].item() == pytest.approx(channel.mean().item(), abs=1e-5)
            deviation = channel.std(correction=0).log().item()
            assert found[number, 3 + row].item() == pytest.approx(deviation, abs=1e-4)


def test_recoloured_images_have_the_statistics_asked_for() -> None:
    image = images(seeded(1), 0.5, 0.3, 0.05)
    seen = colour_statistics(image)
    shift = torch.tensor([[0.05, 0.02, -0.01, 0.2, -0.3, 0.1]]).expand(4, 6)
    torch.testing.assert_close(
        colour_statistics(recolour(image, seen, shift)), seen + shift, rtol=0, atol=1e-4
    )
    same = recolour(image, seen, torch.zeros(4, 6))
    torch.testing.assert_close(same, image, rtol=0, atol=1e-5)
    extremes = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2).contiguous()
    for hard in (torch.full((1, 3, 4, 4), 0.5), extremes):
        changed = recolour(hard, colour_statistics(hard), shift[:1])
        assert changed.isfinite().all()
        assert changed.min() >= 0
        assert changed.max() <= 1


def test_source_images_get_the_mean_and_the_variation_of_the_targets() -> None:
    transfer, generator = ColourTransfer(), seeded(2)
    recoloured, wanted = [], []
    for step in range(60):
        source, target = images(generator, 0.45, 0.2, 0.02), images(generator, 0.48, 0.4, 0.08)
        got = transfer(batch_of(source, target), generator)
        if step >= 10:
            recoloured.append(colour_statistics(got.image))
            wanted.append(colour_statistics(target))
    found, target_statistics = torch.cat(recoloured), torch.cat(wanted)
    torch.testing.assert_close(found.mean(0), target_statistics.mean(0), rtol=0, atol=0.1)
    luma = found[:, 0].std().item()
    assert luma == pytest.approx(target_statistics[:, 0].std().item(), rel=0.2)


def test_domains_that_look_alike_stay_as_they_are() -> None:
    transfer, generator = ColourTransfer(), seeded(3)
    change = torch.zeros(())
    for step in range(200):
        source, target = (images(generator, 0.4, 0.3, 0.05) for _ in range(2))
        got = transfer(batch_of(source, target), generator)
        if step >= 150:
            change = torch.maximum(change, (got.image - source).abs().mean())
    assert change < 0.015


def test_running_statistics_are_those_of_all_images() -> None:
    transfer, generator = ColourTransfer(), seeded(4)
    seen: tuple[list[Tensor], list[Tensor]] = ([], [])
    for _ in range(5):
        pair = images(generator, 0.3, 0.2, 0.1), images(generator, 0.6, 0.2, 0.1)
        transfer(batch_of(*pair), generator)
        for kept, image in zip(seen, pair, strict=True):
            kept.append(colour_statistics(image))
    assert transfer.count == 20
    for domain in range(2):
        every = torch.cat(seen[domain])
        torch.testing.assert_close(transfer.mean[domain], every.mean(0))
        torch.testing.assert_close(
            transfer.variance[domain], every.var(0, correction=0), rtol=1e-3, atol=1e-6
        )


def test_statistics_are_summed_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = seeded(6)
    mine = [colour_statistics(images(generator, centre, 0.2, 0.1)) for centre in (0.3, 0.6)]
    theirs = [colour_statistics(images(generator, centre, 0.2, 0.1)) for centre in (0.3, 0.6)]
    alone, shared = ColourTransfer(), ColourTransfer()
    alone.update(*(torch.cat(each) for each in zip(mine, theirs, strict=True)))
    other = torch.stack(theirs)
    sums = torch.stack([torch.ones_like(other), other, other.square()]).sum(dim=2)
    monkeypatch.setattr(colours, "over_processes", lambda tensor: tensor + sums)
    shared.update(*mine)
    assert shared.count == alone.count == 8
    torch.testing.assert_close(shared.mean, alone.mean)
    torch.testing.assert_close(shared.variance, alone.variance)


def test_domains_of_inverted_contrast_move_by_one_deviation() -> None:
    transfer, generator = ColourTransfer(), seeded(5)
    dark, bright = images(generator, 0.1, 0.1, 0.0), images(generator, 0.9, 0.1, 0.0)
    got = transfer(batch_of(dark, bright), generator)
    before, after = colour_statistics(dark), colour_statistics(got.image)
    moved = after[:, 0] - before[:, 0]
    torch.testing.assert_close(moved, before[:, 3].mean().exp().expand(4), rtol=0.05, atol=0.01)
    assert (colour_statistics(bright)[:, 0] - before[:, 0]).min() > 5 * moved.max()
