"""How a stage of CAG fits its margin to the domains."""

import copy
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.adaptation.margins import relative_gap, two_nearest
from cag_uda.adaptation.tensors import downsample
from cag_uda.methods import Passes
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.methods.margin_fitting import MarginConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE
from tests.support.batches import make_batch, make_passes, same


@pytest.mark.parametrize(
    ("kind", "value"),
    [("absolute", 0.1), ("relative", 0.1), ("clearest", 0.4), ("calibrated", 0.4)],
)
def test_every_margin_kind_labels_and_survives_a_checkpoint(
    kind: str, value: float, segmenter: Segmenter
) -> None:
    config = CAGConfig(margin=MarginConfig.model_validate({"kind": kind, "value": value}))
    method = CAG(segmenter, config)
    method.prepare(make_passes())
    fresh = CAG(copy.deepcopy(segmenter), config)
    fresh.load_state_dict(method.state_dict())
    image = make_batch(9).target.image
    labels = method.pseudo_labels(image)["anchor"].label
    assert fresh.pseudo_labels(image)["anchor"].label.equal(labels)


def gaps_and_hits(
    method: CAG, anchors: CategoryAnchors, image: Tensor, label: Tensor
) -> list[tuple[int, float, bool]]:
    """Nearest class, relative gap, and whether the class is right, of each labelled pixel."""
    features = method.labeller(image, "source").features
    nearest, second, assigned = two_nearest(anchors.distances(features))
    truth = downsample(label, (features.shape[2], features.shape[3]))
    gap = relative_gap(nearest, second)
    rows = zip(assigned[truth != IGNORE], gap[truth != IGNORE], truth[truth != IGNORE], strict=True)
    return [(int(k), float(g), bool(k == t)) for k, g, t in rows]


def smallest_gap(pixels: list[tuple[int, float, bool]], num_class: int, precision: float) -> float:
    """By trying every pixel's gap: the smallest at which a class is right so often."""
    mine = sorted((gap, hit) for assigned, gap, hit in pixels if assigned == num_class)
    for place, (gap, _) in enumerate(mine):
        hits = [hit for _, hit in mine[place:]]
        if len(hits) >= 100 and sum(hits) >= precision * len(hits):
            return gap
    return math.inf


def assert_margin_is_of(pixels: list[tuple[int, float, bool]], method: CAG) -> None:
    """The margin is the smallest at which a class is right in 26 of 100 of these pixels."""
    wanted = [smallest_gap(pixels, k, 0.26) for k in range(len(method.anchor_labels.threshold))]
    assert any(math.isfinite(gap) for gap in wanted)
    for found, exact in zip(method.anchor_labels.threshold.tolist(), wanted, strict=True):
        # A fitted margin is the lower edge of a bin, of 4096, that the exact one lies in.
        assert found == exact or abs(found - exact) <= 2 / 4096


@pytest.mark.parametrize("is_held_out", [True, False])
def test_calibrated_margins_are_of_pixels_that_made_none_of_their_anchors(
    is_held_out: bool, segmenter: Segmenter
) -> None:
    seen, unseen = [make_batch(n, 128) for n in range(3)], [make_batch(n, 128) for n in (7, 8)]
    passes = Passes(
        lambda: (b.source for b in seen),
        lambda: (b.target for b in seen),
        same,
        lambda: (b.source for b in unseen) if is_held_out else None,
    )
    margin = MarginConfig(kind="calibrated", value=0.26)
    method = CAG(segmenter, CAGConfig(margin=margin))
    method.prepare(passes)
    pixels = []
    if is_held_out:
        for batch in unseen:
            pixels += gaps_and_hits(method, method.anchors, *batch.source)
    else:
        images, labels = (
            torch.cat([getattr(b.source, name) for b in seen]) for name in ("image", "label")
        )
        for half in (0, 1):
            features = method.labeller(images[half::2], "source").features
            anchors = CategoryAnchors(*method.anchors.vectors.shape)
            anchors.update(features, downsample(labels[half::2], tuple(features.shape[2:])))
            pixels += gaps_and_hits(method, anchors, images[1 - half :: 2], labels[1 - half :: 2])
    assert_margin_is_of(pixels, method)


def test_classes_that_no_margin_makes_precise_get_none_or_their_most_precise(
    segmenter: Segmenter,
) -> None:
    def thresholds(unreachable: str) -> Tensor:
        margin = {"kind": "calibrated", "value": 1.0, "unreachable": unreachable}
        method = CAG(segmenter, CAGConfig(margin=MarginConfig.model_validate(margin)))
        batch = make_batch(0, 128)
        method.prepare(Passes(lambda: [batch.source], lambda: [batch.target], same))
        return method.anchor_labels.threshold

    assert thresholds("never").isinf().all()
    assert thresholds("best").isfinite().any()


def test_clearest_margin_labels_the_asked_share(segmenter: Segmenter) -> None:
    config = CAGConfig(margin=MarginConfig(kind="clearest", value=0.3))
    method = CAG(segmenter, config)
    method.prepare(make_passes())
    labels = [method.pseudo_labels(t.image)["anchor"].label for t in make_passes().target()]
    share = (torch.stack(labels) != IGNORE).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.05)


def test_no_class_labels_more_of_the_target_than_its_share_of_the_source(
    segmenter: Segmenter,
) -> None:
    passes, portion, num_classes = make_passes(), 0.3, segmenter.num_classes

    def shares(prior_portion: float | None) -> tuple[Tensor, Tensor]:
        margin = MarginConfig(kind="relative", value=0.0, prior_portion=prior_portion)
        method = CAG(segmenter, CAGConfig(margin=margin))
        method.prepare(passes)
        labels = [method.pseudo_labels(t.image)["anchor"].label for t in passes.target()]
        given = torch.bincount(torch.stack(labels).flatten(), minlength=256)[:num_classes]
        return given / torch.stack(labels).numel(), method.anchor_labels.threshold

    grid = segmenter(make_batch(0).target.image, "target").logits.shape[-2:]
    source = torch.cat([downsample(s.label, tuple(grid)).flatten() for s in passes.source()])
    known = source[source != IGNORE]
    prior = torch.bincount(known, minlength=num_classes) / len(known)
    unbounded, _ = shares(None)
    bounded, threshold = shares(portion)
    assert (unbounded > portion * prior).any()
    assert (bounded <= portion * prior + 1e-6).all()
    # Where the bound was not reached, nothing was taken away.
    kept = unbounded <= portion * prior
    assert bounded[kept].equal(unbounded[kept])
    assert (threshold[kept] == 0).all()


def test_a_bound_by_the_prior_wants_a_margin_without_a_unit() -> None:
    with pytest.raises(ValidationError, match="without a unit"):
        MarginConfig(kind="absolute", prior_portion=0.5)
