"""Judge a network by how well a linear probe predicts its labels, without labels of the target.

What a network has seen in images is seen by another network's features, too. What it makes up, by
wrong batch-norm statistics or by training on wrong labels, is not. So a linear classifier is fitted
to the labels that a network gives to half of the images, on features of the network with which the
run began, and held against its labels of the other half.

Sources: Alain & Bengio, *Understanding intermediate layers using linear classifier probes*, ICLR
workshop 2017; the classifier is linear discriminant analysis (Fisher 1936). To judge adapted
networks by how well their labels can be predicted is this project's (docs/LOG.md).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.models.backbone import middle_maps
from cag_uda.models.inference import inference
from cag_uda.models.segmenter import Segmenter

_CELLS = 20_000
"""Most cells that are looked at, equally many of each image."""
_SHRINKAGE = 0.05
"""Of the covariance towards a multiple of the identity."""
_FEWEST = 5
"""Cells of a class below which the probe does not predict it."""


class ProbedCells(NamedTuple):
    """N cells of the feature grids of some images."""

    places: Tensor
    """(N,) int64 indices into all cells of all images, in order."""
    features: Tensor
    """(N, D) float32, of mean 0 and deviation 1."""
    is_second: Tensor
    """(N,) bool: of the second half of the images, which are every other one."""


@torch.no_grad()
def probed_cells(segmenter: Segmenter, images: Sequence[Tensor]) -> ProbedCells:
    """Draw cells of images, the same each time, with features from the middle of a backbone.

    Args:
        segmenter: the network whose features they are: its backbone's middle maps. Normalises by
            the source's statistics; its mode is restored.
        images: batches (B, 3, H, W) float in [0, 1], on its device.
    """
    generator = torch.Generator().manual_seed(0)
    most, begin = _CELLS // max(1, sum(map(len, images))), 0
    places: list[Tensor] = []
    features: list[Tensor] = []
    halves: list[Tensor] = []
    with inference(segmenter):
        for image in images:
            maps = segmenter.encode(image, "source")
            h, w = segmenter.decode(maps, image).logits.shape[-2:]
            for number in range(len(image)):
                cells = torch.randperm(h * w, generator=generator)[:most].to(image.device)
                own = [each[number] for each in middle_maps(maps)]
                features.append(torch.cat([_at(each, cells, h, w) for each in own], dim=1))
                places.append(begin + cells)
                halves.append(torch.full_like(cells, len(halves) % 2, dtype=torch.bool))
                begin += h * w
    found = torch.cat(features)
    found = (found - found.mean(dim=0)) / found.std(dim=0).clamp_min(torch.finfo(found.dtype).eps)
    return ProbedCells(torch.cat(places), found, torch.cat(halves))


def _at(of_image: Tensor, cells: Tensor, h: int, w: int) -> Tensor:
    """Interpolate a map (C, h', w') at the centres of cells (n,) of a grid h × w: (n, C)."""
    y = (2 * cells.div(w, rounding_mode="floor") + 1) / h - 1
    x = (2 * (cells % w) + 1) / w - 1
    points = torch.stack([x, y], dim=1)[None, None].to(of_image.device)
    of_image = of_image.float()[None]
    found = F.grid_sample(of_image, points, padding_mode="border", align_corners=False)
    return found[0, :, 0].t()


def probe_iou(cells: ProbedCells, predicted: Tensor, num_classes: int) -> Tensor:
    """Compute the mIoU of a network's labels and a linear probe's, each half by the other.

    Of predicted classes (M,) int64 of all cells it is the mean over both halves, in [0, 1], of the
    mean over all classes; a class that neither predicts counts as 0, so that a network loses by a
    class that it has lost. NaN if all cells are of one image.
    """
    label = predicted[cells.places]
    found = []
    for half in (cells.is_second, ~cells.is_second):
        if not bool(half.any()) or bool(half.all()):
            return cells.features.new_full((), torch.nan)
        weight, bias = _discriminant(cells.features[half], label[half], num_classes)
        probed = F.linear(cells.features[~half], weight, bias).argmax(dim=1)
        pairs = torch.bincount(label[~half] * num_classes + probed, minlength=num_classes**2)
        counts = pairs.view(num_classes, num_classes).double()
        hits = counts.diagonal()
        union = counts.sum(dim=0) + counts.sum(dim=1) - hits
        found.append((hits / union.clamp(min=1)).mean())
    return torch.stack(found).mean()


def _discriminant(features: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Fit linear discriminant analysis to features (N, D), classes (N,): weight (K, D), bias (K,).

    Classes have one covariance, shrunk, and their shares as priors.
    """
    counts = torch.bincount(label, minlength=num_classes).to(features)
    mean = features.new_zeros(num_classes, features.shape[1]).index_add_(0, label, features)
    mean /= counts.clamp(min=1)[:, None]
    centred = features - mean[label]
    covariance = centred.t() @ centred / len(features)
    eye = torch.eye(len(covariance), device=features.device)
    covariance += _SHRINKAGE * covariance.diagonal().mean().clamp_min(1e-6) * eye
    weight = torch.linalg.solve(covariance, mean.t()).t()
    prior = (counts / counts.sum()).log()
    bias = (prior - (weight * mean).sum(dim=1) / 2).masked_fill(counts < _FEWEST, -torch.inf)
    return weight, bias
