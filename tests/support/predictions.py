"""A network and photographs for `predict`, and what it left in a folder."""

from pathlib import Path

import cv2
import numpy as np
import torch

from cag_uda.models.segmenter import Segmenter
from tests.support.command_line import run

LOG = "predictions.jsonl"


def write_model(segmenter: Segmenter, folder: Path) -> Path:
    """Write a network that tells classes apart at random; returns its folder."""
    torch.nn.init.normal_(segmenter.get_parameter("classifier.weight"))
    segmenter.save_pretrained(folder)
    return folder


def write_photo(path: Path, seed: int, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8)
    image = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
    cv2.imwrite(str(path), image)
    return image[:, :, ::-1]


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def predict(model: Path, *arguments: object) -> str:
    return run("predict", model, *arguments)
