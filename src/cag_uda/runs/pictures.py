"""Files that a stage leaves for its report to draw; nothing in training ever reads them.

`STAGE/pseudo_labels/{image}-{kind}.png`: the pseudo-labels of the run's sample images on the
feature grid, grey levels = train ids, IGNORE where the labeller abstains.

`STAGE/features.safetensors`: features of each class in a few images, by the stage's network.
    source_xy, target_xy (n, 2) float32: cells of the feature grid in a plane (see `plane`).
    source_class, target_class (n,) uint8: their train ids.
    anchors_xy (K, 2), distances (K, K) float32: the source's mean feature of each class, in the
        plane and from each other in feature units; NaN for a class that the images lack.
    spread (K,) float32: mean distance of the source's cells from their own class's anchor.
    shift (K,) float32: distance of the target's mean feature of a class from the source's.
    Metadata: target_classes = "truth" or "prediction", the origin of the target cells' classes.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.data.files.resizing import Image
from cag_uda.files import write_with
from cag_uda.methods.base import Method
from cag_uda.models.inference import inference, prepare
from cag_uda.models.segmentation import write_picture
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE, DomainName

_CELLS_PER_CLASS_AND_IMAGE = 24
"""Cells that one image gives to a class; few, so that large classes do not hide the others."""
_CELLS_SHOWN_PER_CLASS = 60
_TRACKED_HEIGHT_PX = 256
_SHRINKAGE = 0.1
"""Part of the within-class covariance that is replaced by its mean variance: few cells estimate it,
and without it the plane separates by noise."""


def side_by_side(*pictures: Image | None) -> Image:
    """Join pictures (H, W, 3) uint8 RGB in a row, small enough for a log; None is left out.

    The first gives the size, at most 256 pixels high.
    """
    shown = [each for each in pictures if each is not None]
    height, width = shown[0].shape[:2]
    factor = min(1.0, _TRACKED_HEIGHT_PX / height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = [cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in shown]
    return np.asarray(np.concatenate(small, axis=1), np.uint8)


def write_pseudo_labels(folder: Path, method: Method, images: Iterable[Image]) -> None:
    """Write each kind of pseudo-label of images (H, W, 3), if any, into a stage's folder."""
    network = method.segmenter
    for number, image in enumerate(images):
        pixels = prepare(image, network.config.input_width_px).to(network.mean.device)
        for kind, pseudo in method.pseudo_labels(pixels).items():
            label = pseudo.label[0].to(torch.uint8).cpu().numpy()
            write_picture(folder / "pseudo_labels" / f"{number}-{kind}.png", label, sealed=True)


def write_features(
    path: Path,
    segmenter: Segmenter,
    source: Iterable[tuple[Image, Image]],
    target: Iterable[tuple[Image, Image | None]],
) -> None:
    """Write features of the classes of both domains by a network, in the plane and as distances.

    Args:
        path: of the safetensors file.
        segmenter: the network; its mode is restored.
        source: images (H, W, 3) uint8 RGB and labels (H, W) uint8 train ids. The plane is fitted to
            every other image; the rest are shown in it.
        target: the same; where the label is None, the prediction takes its place.
    """
    target = list(target)
    anchors, features, labels = _cells(segmenter, source, "source")
    target_means, target_features, target_labels = _cells(segmenter, target, "target")
    # Of a single image the cells that are shown are those that the plane is fitted to.
    rest = slice(1, None, 2) if len(labels) > 1 else slice(None)
    fitted = torch.cat(features[::2]), torch.cat(labels[::2])
    centre, axes = plane(*fitted, segmenter.num_classes)
    label = torch.cat(labels)
    own = (torch.cat(features) - anchors[label]).norm(dim=1)
    tensors = {
        "anchors_xy": (anchors - centre) @ axes,
        "distances": torch.cdist(anchors, anchors),
        "spread": torch.stack([own[label == k].mean() for k in range(segmenter.num_classes)]),
        "shift": (target_means - anchors).norm(dim=1),
    }
    for name, (some, ids) in {
        "source": (features[rest], labels[rest]),
        "target": (target_features, target_labels),
    }.items():
        chosen = _at_most(torch.cat(ids), _CELLS_SHOWN_PER_CLASS)
        tensors[f"{name}_xy"] = (torch.cat(some)[chosen] - centre) @ axes
        tensors[f"{name}_class"] = torch.cat(ids)[chosen].to(torch.uint8)
    small = {
        name: (value.float() if value.is_floating_point() else value).contiguous()
        for name, value in tensors.items()
    }
    is_labelled = all(label is not None for _, label in target)
    metadata = {"target_classes": "truth" if is_labelled else "prediction"}
    write_with(path, lambda temporary: save_file(small, temporary, metadata=metadata), sealed=True)


def plane(features: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Find the plane in which the classes lie furthest apart, by linear discriminant analysis.

    Distances in it are in standard deviations within a class, along its two axes.

    Of features (n, D) float64 and train ids (n,) int64 it returns centre (D,) and axes (D, 2), to
    be used as (features − centre) @ axes. With fewer than three classes or two channels the axes
    that are missing are arbitrary, or zero.

    Source: Fisher, *The use of multiple measurements in taxonomic problems*, 1936; the shrinkage is
    that of Friedman, *Regularized discriminant analysis*, 1989.
    """
    channels = features.shape[1]
    present = [train_id for train_id in range(num_classes) if bool((label == train_id).any())]
    if not present:
        return features.new_zeros(channels), torch.eye(channels, 2, dtype=features.dtype)
    means = torch.stack([features[label == train_id].mean(dim=0) for train_id in present])
    counts = torch.stack([(label == train_id).sum() for train_id in present])
    rows = label.new_full((num_classes,), -1)
    rows[present] = torch.arange(len(present))
    inside = features - means[rows[label]]
    scatter = inside.T @ inside / max(1, len(features) - len(present))
    size = scatter.diagonal().mean().clamp(min=1e-12)
    scatter = (1 - _SHRINKAGE) * scatter + _SHRINKAGE * size * torch.eye(channels).to(scatter)
    whiten = torch.linalg.inv(torch.linalg.cholesky(scatter)).T
    centre = features.mean(dim=0)
    between = counts.sqrt()[:, None] * (means - centre)
    _, _, directions = torch.linalg.svd(between @ whiten)
    axes = whiten @ directions[:2].T
    return centre, torch.nn.functional.pad(axes, (0, 2 - axes.shape[1]))


def _cells(
    segmenter: Segmenter, images: Iterable[tuple[Image, Image | None]], domain: DomainName
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Take some cells of each class from the feature grid of a few images.

    An image without a label is labelled by the network. Returns the classes' mean features (K, D)
    float64, over all cells; and of each image its cells' features (n, D) float64 and labels (n,).
    """
    device = segmenter.mean.device
    anchors = CategoryAnchors(segmenter.num_classes, segmenter.feature_channels).to(device)
    features, labels = [], []
    with inference(segmenter):
        for image, label in images:
            pixels = prepare(image, segmenter.config.input_width_px).to(device)
            prediction = segmenter(pixels, domain)
            if label is None:
                assigned = prediction.logits.argmax(1)
            else:
                truth = torch.tensor(label).long()[None].to(device)
                assigned = segmenter.on_grid(truth, prediction.features)
            anchors.update(prediction.features, assigned)
            ids = assigned[0].flatten().cpu()
            chosen = _at_most(ids, _CELLS_PER_CLASS_AND_IMAGE)
            by_cell = prediction.features[0].flatten(1).T
            features.append(by_cell[chosen.to(device)].double().cpu())
            labels.append(ids[chosen])
    return anchors.vectors.cpu().double(), features, labels


def _at_most(label: Tensor, most: int) -> Tensor:
    """Choose indices of at most so many cells of each class at random, always the same."""
    chosen: list[NDArray[np.int64]] = []
    rng = np.random.default_rng(0)
    ids = label.numpy()
    for train_id in np.unique(ids[ids != IGNORE]):
        chosen.append(rng.permutation(np.flatnonzero(ids == train_id))[:most])
    return torch.from_numpy(np.concatenate([*chosen, np.empty(0, np.int64)]))


def evenly(count: int, most: int) -> Iterator[int]:
    """Yield at most `most` indices from 0 to count − 1, evenly spread, both ends among them."""
    yield from np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
