"""Cells of the feature grid, taken by plain loops."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cag_uda.models.segmenter import Segmenter
from tests.support.trees import read_pixels

Cells = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""Features (N, D), probabilities (N, K) and truth (N,) of all cells of a domain's images."""


def write_labels_by_pixel(folder: Path, seed: int) -> None:
    """Labels of which no two neighbours need be equal, so that it shows where they are read."""
    rng = np.random.default_rng(seed)
    for path in sorted((folder / "labels").iterdir()):
        cv2.imwrite(str(path), rng.integers(0, 4, (48, 64)).astype(np.uint8))


def cells_of(folder: Path, network: Segmenter, domain: Any, first_px: int) -> Cells:
    """Every cell of 4 by 4 pixels of a domain's six images of 48 by 64."""
    found: list[Cells] = []
    for path in sorted((folder / "images").iterdir()):
        image = torch.from_numpy(read_pixels(path)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            features, logits = network.eval()(image, domain)
        truth = read_pixels(folder / "labels" / path.name)
        rows, probability = (
            each[0].flatten(1).t().numpy() for each in (features, logits.softmax(dim=1))
        )
        on_grid = truth[first_px::4, first_px::4].astype(np.int64)
        found.append((rows, probability, on_grid.flatten()))
    of_images = zip(*found, strict=True)
    all_features, all_probabilities, all_truth = (np.concatenate(each) for each in of_images)
    return all_features, all_probabilities, all_truth
