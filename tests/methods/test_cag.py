"""A stage of the paper's CAG against a loop over pixels, written from the paper's equations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.methods.margin_fitting import MarginConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE, Batch
from tests.support.batches import make_batch, make_passes
from tests.support.method_steps import OPTIM, step

DELTA, LAMBDA = 0.05, 0.7
CLASSES, CELLS, PIXELS_A_CELL = 4, 8, 4


def pixels_of(maps: Tensor) -> Tensor:
    """(B, C, h, w) as (B·h·w, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def cells_of(label: Tensor) -> list[int]:
    """The label (B, H, W) at the centre of each cell."""
    centre = PIXELS_A_CELL // 2
    return label[:, centre::PIXELS_A_CELL, centre::PIXELS_A_CELL].flatten().tolist()


def class_means(labeller: Segmenter) -> Tensor:
    """A_c = mean of f_D(x_s) over the source's pixels of class c."""
    members: list[list[Tensor]] = [[] for _ in range(CLASSES)]
    for source in make_passes().source():
        features = pixels_of(labeller(source.image, "source").features)
        for feature, c in zip(features, cells_of(source.label), strict=True):
            if c != IGNORE:
                members[c].append(feature)
    return torch.stack([torch.stack(each).mean(0) for each in members])


def assigned(labeller: Segmenter, anchors: Tensor, image: Tensor) -> list[int]:
    """argmin_c ‖A_c − f_D(x_t)‖ where the second nearest is further by Δ, else IGNORE."""
    labels = []
    for feature in pixels_of(labeller(image, "target").features):
        distances = [(feature - anchor).norm().item() for anchor in anchors]
        first, second = sorted(range(CLASSES), key=lambda c: distances[c])[:2]
        gap = distances[second] - distances[first]
        assert abs(gap - DELTA) > 1e-5, "no pixel is so near to the margin that rounding decides"
        labels.append(first if gap >= DELTA else IGNORE)
    return labels


def mean_cross_entropy(logits: Tensor, labels: list[int]) -> Tensor:
    losses = [
        -row.softmax(0)[c].log() for row, c in zip(logits, labels, strict=True) if c != IGNORE
    ]
    return torch.stack(losses).mean()


def mean_distance(features: Tensor, anchors: Tensor, labels: list[int]) -> Tensor:
    labelled = [(row, c) for row, c in zip(features, labels, strict=True) if c != IGNORE]
    return torch.stack([(row - anchors[c]).norm() for row, c in labelled]).mean()


def paper_step(student: Segmenter, labeller: Segmenter, batch: Batch) -> dict[str, Tensor]:
    """L = CE_s + CE_t + λ (L_dis^s + L_dis^t), by its terms."""
    with torch.no_grad():
        anchors = class_means(labeller)
        pseudo = assigned(labeller, anchors, batch.target.plain)
    assert 0.1 < sum(c != IGNORE for c in pseudo) / len(pseudo) < 0.9
    source = student(batch.source.image, "source")
    size = (batch.source.label.shape[1], batch.source.label.shape[2])
    large = F.interpolate(source.logits, size, mode="bilinear", align_corners=False)
    target = student(batch.target.image, "target")
    known = cells_of(batch.source.label)
    return {
        "source/ce": mean_cross_entropy(pixels_of(large), batch.source.label.flatten().tolist()),
        "source/distance": LAMBDA * mean_distance(pixels_of(source.features), anchors, known),
        "target/anchor": mean_cross_entropy(pixels_of(target.logits), pseudo),
        "target/distance": LAMBDA * mean_distance(pixels_of(target.features), anchors, pseudo),
    }


def test_a_step_is_that_of_the_papers_equations(segmenter: Segmenter) -> None:
    """Every loss, and every weight after the step."""
    labeller, batch = copy.deepcopy(segmenter).eval(), make_batch(5)
    student = copy.deepcopy(segmenter).train()
    torch.manual_seed(0)
    expected = paper_step(student, labeller, batch)
    torch.stack(list(expected.values())).sum().backward()
    torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4).step()

    margin = MarginConfig(kind="absolute", value=DELTA)
    method = CAG(segmenter, CAGConfig(margin=margin, distance_weight=LAMBDA))
    method.prepare(make_passes())
    method.train()
    torch.manual_seed(0)
    found: dict[str, Tensor] = {}
    for losses in method.losses(batch):
        torch.stack(list(losses.values())).sum().backward()
        found |= losses
    method.optimizers(OPTIM)["segmenter"].step()
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-4), name
    theirs = dict(student.named_parameters())
    for name, weight in method.segmenter.named_parameters():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-5, msg=name)


def test_within_a_stage_labeller_and_anchors_are_made_anew(segmenter: Segmenter) -> None:
    method = CAG(segmenter, CAGConfig())
    method.prepare(make_passes())
    first, labeller = method.anchors.vectors.clone(), copy.deepcopy(method.labeller.state_dict())
    step(method.train(), make_batch())
    assert method.anchors.vectors.equal(first), "a step leaves them alone"
    method.refresh(make_passes())
    renewed = CAG(copy.deepcopy(method.segmenter), CAGConfig())
    renewed.prepare(make_passes())
    torch.testing.assert_close(method.anchors.vectors, renewed.anchors.vectors)
    weights = method.labeller.state_dict()
    assert any(not weights[name].equal(labeller[name]) for name in weights)
