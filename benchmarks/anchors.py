"""Time anchors and anchor pseudo-labels against one matrix product and the released code's way.

Run: python benchmarks/anchors.py [--threads N] [--repeats N]

One table: the time of each part at two feature maps 256×128×224 and 19 classes, as a ratio to the
float32 product of anchors and features that any method needs; how far the results are from float64;
and how the time of labels and anchors grows with images, image size, channels and classes.
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from cag_uda.adaptation import CategoryAnchors, MarginStatistics, RelativeMargin, by_anchor
from cag_uda.types import IGNORE

BATCH, CHANNELS, HEIGHT, WIDTH, CLASSES = 2, 256, 128, 224, 19
MARGIN = 2.5
LABELS_AND_ANCHORS_AT_MOST = 5.0
"""Wanted: labels and anchors within this many products."""
FASTER_THAN_RELEASED_AT_LEAST = 15.0
"""Wanted: labels and anchors this many times faster than the released code's way."""


def keep_memory() -> None:
    """Make glibc keep freed tensors; given back to the kernel, each would fault in page by page."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def medians(parts: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of every part.

    Every round runs every part once, so that a noisy neighbour disturbs all of them alike; two
    rounds do not count. The slow parts, the released code's, are run in every fifth round.
    """
    times: dict[str, list[float]] = {name: [] for name in parts}
    for index in range(repeats + 2):
        for name, work in parts.items():
            if name.startswith("released") and index % 5 != 1:
                continue
            begin = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begin)
    return {
        name: statistics.median(runs if name.startswith("released") else runs[2:])
        for name, runs in times.items()
    }


def released_labels(features: Tensor, vectors: Tensor) -> Tensor:
    """Pseudo-labels as the released code makes them: a norm per class, then scatter and compare."""
    batch, _, height, width = features.shape
    distances = features.new_empty(batch, len(vectors), height, width)
    for k, vector in enumerate(vectors):
        anchor = vector.reshape(-1, 1, 1).expand(-1, height, width)
        distances[:, k] = torch.norm(anchor - features, 2, dim=1)
    nearest, label = distances.min(dim=1, keepdim=True)
    second = distances.scatter_(1, label, 100).min(dim=1, keepdim=True).values
    label[(second - nearest) < MARGIN] = IGNORE
    return label.squeeze(1)


def released_anchors(features: Tensor, label: Tensor) -> dict[tuple[int, int], Tensor]:
    """Mean features as the released code makes them: a masked copy per image and class."""
    means = {}
    for image in range(features.shape[0]):
        for k in range(CLASSES):
            mask = (label[image] == k).float()
            if mask.sum() >= 10:
                means[image, k] = (features[image] * mask).mean(dim=(1, 2)) / mask.mean()
    return means


def scene(offset: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Features around their class's vector, labels with ignored pixels, and the vectors."""
    generator = torch.Generator().manual_seed(0)
    vectors = 0.6 * torch.randn(CLASSES, CHANNELS, generator=generator)
    label = torch.randint(0, CLASSES, (BATCH, HEIGHT, WIDTH), generator=generator)
    noise = torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, generator=generator)
    features = vectors[label].movedim(-1, 1) * 0.4 + 0.6 * noise
    label = torch.where(torch.rand(label.shape, generator=generator) < 0.1, IGNORE, label)
    return (features + offset).contiguous(), label, vectors + offset


def timings(repeats: int) -> dict[str, float]:
    """Median seconds of every part, by its name."""
    features, label, vectors = scene()
    flat, rounded = features.flatten(2), features.bfloat16()
    channels_last = features.contiguous(memory_format=torch.channels_last)
    anchors = CategoryAnchors.from_vectors(vectors)
    fresh = CategoryAnchors(CLASSES, CHANNELS, average="image", min_pixels=10)
    distances = anchors.distances(features)
    gaps = MarginStatistics(CLASSES)
    relative = RelativeMargin(torch.full((CLASSES,), 0.1))

    def labels(of: Tensor) -> Tensor:
        return by_anchor(anchors.distances(of), MARGIN).label

    def labels_and_anchors(of: Tensor) -> None:
        labels(of)
        fresh.update(of, label)

    def released() -> None:
        released_labels(features, vectors)
        released_anchors(features, label)

    parts: dict[str, Callable[[], object]] = {
        "product": lambda: torch.bmm(vectors.expand(BATCH, -1, -1), flat),
        "distances": lambda: anchors.distances(features),
        "by_anchor, absolute margin": lambda: by_anchor(distances, MARGIN),
        "by_anchor, relative per class": lambda: by_anchor(distances, relative),
        "margin statistics": lambda: gaps.update(distances, label),
        "labels (distances, by_anchor)": lambda: labels(features),
        "anchors (update)": lambda: fresh.update(features, label),
        "labels and anchors": lambda: labels_and_anchors(features),
        "  channels-last features": lambda: labels_and_anchors(channels_last),
        "  bfloat16 features": lambda: labels_and_anchors(rounded),
        "released labels": lambda: released_labels(features, vectors),
        "released anchors": lambda: released_anchors(features, label),
        "released labels and anchors": released,
    }
    return medians(parts, repeats)


GROWTH = {
    "image size ×4": {"height": 2 * HEIGHT, "width": 2 * WIDTH},
    "classes 19 → 150": {"classes": 150},
    "channels 256 → 1024": {"channels": 4 * CHANNELS},
    "images 2 → 8": {"batch": 4 * BATCH},
}
"""Sizes of which one grows, by name."""


def labels_and_anchors_of(
    batch: int = BATCH,
    channels: int = CHANNELS,
    height: int = HEIGHT,
    width: int = WIDTH,
    classes: int = CLASSES,
) -> Callable[[], object]:
    """Make a function that computes a step's labels and anchors, of features without structure."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(classes, channels, generator=generator)
    features = torch.randn(batch, channels, height, width, generator=generator)
    label = torch.randint(0, classes, (batch, height, width), generator=generator)
    anchors, fresh = CategoryAnchors.from_vectors(vectors), CategoryAnchors(classes, channels)

    def work() -> None:
        by_anchor(anchors.distances(features), MARGIN)
        fresh.update(features, label)

    return work


def growth(repeats: int) -> dict[str, float]:
    """Time of labels and anchors when one size grows, over that at the sizes of the table."""
    grown = {name: labels_and_anchors_of(**sizes) for name, sizes in GROWTH.items()}
    times = medians({"": labels_and_anchors_of(), **grown}, repeats)
    return {name: times[name] / times[""] for name in GROWTH}


def exactness(offset: float) -> str:
    """Errors of distances, labels and anchors against float64, `offset` from the origin."""
    features, label, vectors = scene(offset)
    exact = torch.stack(
        [(features.double() - v.double()[:, None, None]).norm(dim=1) for v in vectors], dim=1
    )
    distances = CategoryAnchors.from_vectors(vectors).distances(features)
    relative = ((distances - exact).abs() / exact).max().item()
    flipped = (by_anchor(distances, MARGIN).label != by_anchor(exact, MARGIN).label).sum().item()
    anchors = CategoryAnchors(CLASSES, CHANNELS)
    anchors.update(features, label)
    means = [features.double().movedim(1, -1)[label == k].mean(dim=0) for k in range(CLASSES)]
    worst = (anchors.vectors - torch.stack(means)).abs().max().item()
    return (
        f"offset {offset:>6.0f}: distances within {relative:.1e} (relative), "
        f"{flipped} of {label.numel()} labels differ, anchors within {worst:.1e} (features of "
        "spread about 0.7)"
    )


def main() -> None:
    """Print the table, the exactness and whether the two wanted ratios are met."""
    parser = argparse.ArgumentParser(description="Anchors and pseudo-labels, timed.")
    parser.add_argument("--threads", type=int, help="of torch; as torch chooses if not given")
    parser.add_argument("--repeats", type=int, default=15, help="rounds, each of every part")
    arguments = parser.parse_args()
    keep_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # The first large square root of a process is inexact on some builds of torch.
    torch.rand(1_000_000).sqrt()
    times = timings(arguments.repeats)
    product, ours = times["product"], times["labels and anchors"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, ", end="")
    print(f"features {BATCH}×{CHANNELS}×{HEIGHT}×{WIDTH}, {CLASSES} classes")
    print(f"{'part':<34}{'ms':>9}{'ratio':>9}")
    for name, elapsed_s in times.items():
        print(f"{name:<34}{1e3 * elapsed_s:>9.2f}{elapsed_s / product:>9.2f}")
    for offset in (0.0, 1000.0):
        print(exactness(offset))
    for name, factor in growth(arguments.repeats).items():
        print(f"labels and anchors, {name}: {factor:.2f} times as long")
    faster = times["released labels and anchors"] / ours
    print(
        f"labels and anchors: {ours / product:.1f} products (wanted at most "
        f"{LABELS_AND_ANCHORS_AT_MOST:g}), {faster:.0f} times faster than released (wanted at "
        f"least {FASTER_THAN_RELEASED_AT_LEAST:g})"
    )


if __name__ == "__main__":
    main()
