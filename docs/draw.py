"""Draw the pictures of the documentation from rendered scenes and a run of the demo.

Usage: python docs/draw.py RUN [FOLDER]       (RUN as `cag-uda demo --out RUN` writes it)
"""

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from cag_uda import CategoryAnchors, Segmenter, by_anchor, by_confidence, load
from cag_uda.adaptation.margins import RelativeMargin
from cag_uda.adaptation.tensors import at_least_float32, downsample
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.models.inference import inference, prepare
from cag_uda.runs.pictures import plane
from cag_uda.scenes import Look, render
from cag_uda.types import IGNORE

SIZE_PX = 128, 256
SOURCE, TARGET, SHOWN = range(24), range(1000, 1008), 1004
NAMES_ABOVE = {
    "sky": True,
    "building": True,
    "road": True,
    "car": True,
    "pavement": False,
    "tree": False,
}
"""Classes that are shown, and whether their names stand above their anchors."""
MARGIN, CONFIDENCE = 0.1, 0.95
SPACE = LabelSpace.load("camvid-11")
INK = "#303030"


class Cells(NamedTuple):
    """Cells of the feature grid of some images."""

    features: Tensor
    """(B, D, h, w)."""
    logits: Tensor
    """(B, K, h, w)."""
    truth: Tensor
    """(B, h, w) int64."""


def scenes(look: Look, indices: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images (H, W, 3) and labels (H, W) of the demo's domains."""
    return [render(0 if look == "clean" else 1, index, look, *SIZE_PX) for index in indices]


def cells(segmenter: Segmenter, look: Look, indices: Sequence[int]) -> Cells:
    """What a network sees in some scenes."""
    parts = []
    with inference(segmenter):
        for image, label in scenes(look, indices):
            batch = prepare(image, segmenter.config.input_width_px).float() / 255
            seen = segmenter(batch, "source" if look == "clean" else "target")
            grid = seen.features.shape[-2], seen.features.shape[-1]
            truth = downsample(torch.from_numpy(label).long()[None], grid)
            parts.append(Cells(at_least_float32(seen.features), seen.logits, truth))
    return Cells(*(torch.cat(each) for each in zip(*parts, strict=True)))


def row(pictures: Sequence[np.ndarray], captions: Sequence[str], path: Path) -> None:
    """RGB pictures side by side under captions."""
    figure, axes = pyplot.subplots(1, len(pictures), figsize=(3.2 * len(pictures), 2.1))
    for axis, picture, caption in zip(axes, pictures, captions, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(caption, fontsize=9, color=INK)
        axis.axis("off")
    save(figure, path)


def save(figure: pyplot.Figure, path: Path) -> None:
    """Write a figure; the pictures are small, and so is the file."""
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110, facecolor="white", bbox_inches="tight", pad_inches=0.05)
    pyplot.close(figure)


def draw_domains(folder: Path) -> None:
    """The labelled source and the target without labels."""
    (source, label), (target, _) = scenes("clean", [3])[0], scenes("hard", [SHOWN])[0]
    captions = ["source image", "its labels", "target image, without labels"]
    row([source, SPACE.colorize(label), target], captions, folder / "domains.png")


def draw_pseudo_labels(target: Cells, anchors: CategoryAnchors, folder: Path) -> None:
    """Both kinds of pseudo-label of one target image, and how right they are on all of them."""
    anchored = by_anchor(anchors.distances(target.features), RelativeMargin(MARGIN)).label
    confident = by_confidence(target.logits, CONFIDENCE).label
    kinds = {
        f"confidence > {CONFIDENCE}": confident,
        f"anchors, relative margin {MARGIN}": anchored,
    }
    place = TARGET.index(SHOWN)
    image, _ = scenes("hard", [SHOWN])[0]
    pictures, captions = [image], ["target image"]
    for name, label in kinds.items():
        is_given = label != IGNORE
        right = (label == target.truth)[is_given].float().mean()
        captions.append(
            f"{name}\n{100 * right:.0f} % right, {100 * is_given.float().mean():.0f} % of cells"
        )
        pictures.append(_enlarged(label[place]))
    row(
        [*pictures, _enlarged(target.truth[place])],
        [*captions, "truth"],
        folder / "pseudo_labels.png",
    )


def draw_features(source: Cells, target: Cells, anchors: CategoryAnchors, folder: Path) -> None:
    """Target cells around the anchors in the plane that separates the source's classes best."""
    centre, axes = plane(
        _flat(source.features).double(), source.truth.flatten(), anchors.num_classes
    )
    spots = ((_flat(target.features).double() - centre) @ axes).numpy()
    rings = ((anchors.vectors.double() - centre) @ axes).numpy()
    active = by_anchor(anchors.distances(target.features), RelativeMargin(MARGIN)).label.flatten()
    truth = target.truth.flatten()
    rng = np.random.default_rng(0)
    panels = {
        "all target cells, coloured by the truth": truth,
        "active cells, coloured by their nearest anchor": active,
    }
    figure, drawn = pyplot.subplots(1, 2, figsize=(9.6, 4.4), sharex=True, sharey=True)
    for axis, (caption, label) in zip(drawn, panels.items(), strict=True):
        for name, is_above in NAMES_ABOVE.items():
            train_id = SPACE.names.index(name)
            colour = SPACE.palette[train_id] / 255
            chosen = rng.permutation(np.flatnonzero((label == train_id).numpy()))[:150]
            axis.scatter(*spots[chosen].T, s=7, color=colour, alpha=0.6, linewidths=0)
            axis.scatter(*rings[train_id], s=150, color=colour, edgecolors="black", zorder=3)
            spot = (8, 6 if is_above else -14)
            axis.annotate(name, rings[train_id], spot, textcoords="offset points", fontsize=9)
        axis.set_title(caption, fontsize=10, color=INK)
        axis.set(xticks=[], yticks=[])
        axis.margins(0.1)
    save(figure, folder / "features.png")


def draw_stages(folder: Path) -> None:
    """What happens in which order."""
    figure, axis = pyplot.subplots(figsize=(8.4, 2.0))
    axis.set(xlim=(0, 96), ylim=(0, 22))
    axis.axis("off")
    boxes = {
        "warm-up": (
            1,
            9,
            15,
            "source labels;\na discriminator aligns\nboth domains' outputs",
        ),
        "anchors": (23, 9, 13, "mean feature\nof each class\nover the source"),
        "pseudo-labels": (41, 9, 15, "target pixels with\none anchor clearly\nthe nearest"),
        "training": (61, 9, 15, "source labels, pseudo-labels,\nfeatures pulled\nto their anchors"),
        "network": (81, 9, 14, "the last stage's,\nor the best by a\nlabel-free criterion"),
    }
    for name, (left, bottom, width, text) in boxes.items():
        box = FancyBboxPatch((left, bottom), width, 11, "round,pad=0.6", fc="#eef2f8", ec="#4a6fa5")
        axis.add_patch(box)
        axis.text(left + width / 2, bottom + 9, name, ha="center", weight="bold", fontsize=9)
        axis.text(left + width / 2, bottom + 3.4, text, ha="center", va="center", fontsize=6.8)
    ends = [(left, left + width) for left, _, width, _ in boxes.values()]
    for (_, tail), (head, _) in pairwise(ends):
        axis.add_patch(_arrow((tail + 0.8, 14.5), (head - 0.8, 14.5), 0))
    axis.add_patch(_arrow((68.5, 8), (29.5, 8), -0.25))
    caption = "next stage: new anchors and labels by the trained network"
    axis.text(49, 0.6, caption, ha="center", fontsize=8)
    save(figure, folder / "stages.png")


def _arrow(tail: tuple[float, float], head: tuple[float, float], bend: float) -> FancyArrowPatch:
    style = f"arc3,rad={bend}"
    return FancyArrowPatch(
        tail, head, connectionstyle=style, arrowstyle="-|>", mutation_scale=12, color="#4a6fa5"
    )


def _flat(features: Tensor) -> Tensor:
    """(B, D, h, w) to (n, D)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def _enlarged(label: Tensor) -> np.ndarray:
    """Labels of the feature grid in colours, at the size of the image."""
    colours = SPACE.colorize(label.to(torch.uint8).numpy())
    return cv2.resize(colours, SIZE_PX[::-1], interpolation=cv2.INTER_NEAREST)


def main() -> None:
    """Draw them all."""
    mpl.use("Agg")
    run = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    (network,) = run.glob("stages/*-statistics/model")
    segmenter = load(network)
    source, target = cells(segmenter, "clean", SOURCE), cells(segmenter, "hard", TARGET)
    anchors = CategoryAnchors(segmenter.num_classes, segmenter.feature_channels)
    anchors.update(source.features, source.truth)
    draw_domains(folder)
    draw_stages(folder)
    draw_pseudo_labels(target, anchors, folder)
    draw_features(source, target, anchors, folder)


if __name__ == "__main__":
    main()
