"""Cost of anchor maths over one matrix product, and its growth."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from cag_uda.adaptation import CategoryAnchors, by_anchor
from cag_uda.runs.bench.timing import Row, interleaved_s, median_ratio


@dataclass(frozen=True)
class Features:
    """A batch of feature maps and the classes they are compared with."""

    batch: int = 2
    channels: int = 256
    height: int = 128
    width: int = 224
    num_classes: int = 19


PAPER = Features()
"""The paper's: crops 896×512 at stride 4, two of its batch of four."""
GROWTH = {
    "image size ×4": replace(PAPER, height=256, width=448),
    "classes 19 → 150": replace(PAPER, num_classes=150),
    "channels 256 → 1024": replace(PAPER, channels=1024),
    "images 2 → 8": replace(PAPER, batch=8),
}


def over_product(device: torch.device, rounds: int) -> Row:
    """Time labels plus anchors over the float32 product of features and anchors alone."""
    product, ours = _work(PAPER, device)
    times = interleaved_s({"product": product, "ours": ours}, rounds, device)
    what = (
        f"labels and anchors / fp32 product, {PAPER.batch}×{PAPER.channels}×{PAPER.height}×"
        f"{PAPER.width}, {PAPER.num_classes} classes"
    )
    return Row("anchors", what, median_ratio(times["ours"], times["product"]), "×", at_most=5.0)


def growth(device: torch.device, rounds: int) -> list[Row]:
    """Time labels plus anchors when one size grows, over the time at the paper's sizes."""
    parts = {name: _work(size, device)[1] for name, size in GROWTH.items()}
    times = interleaved_s({"paper": _work(PAPER, device)[1], **parts}, rounds, device)
    return [
        Row("growth", f"labels and anchors, {name}", median_ratio(times[name], times["paper"]), "×")
        for name in GROWTH
    ]


def _work(
    size: Features, device: torch.device
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Make functions that compute the bare product, and a step's labels and anchors."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(size.num_classes, size.channels, generator=generator).to(device)
    shape = (size.batch, size.channels, size.height, size.width)
    features = torch.randn(shape, generator=generator).to(device)
    grid = (size.batch, size.height, size.width)
    label = torch.randint(0, size.num_classes, grid, generator=generator).to(device)
    anchors = CategoryAnchors.from_vectors(vectors)
    fresh = CategoryAnchors(size.num_classes, size.channels).to(device)

    def product() -> None:
        torch.bmm(vectors.expand(size.batch, -1, -1), features.flatten(2))

    def labels_and_anchors() -> None:
        by_anchor(anchors.distances(features), 2.5)
        fresh.update(features, label)

    return product, labels_and_anchors
