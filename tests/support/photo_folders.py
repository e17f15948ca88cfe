"""Folders of photographs and labels as others lay them out, and the domain file written for one."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.support.command_line import run
from tests.support.trees import COLOURS, draw

RNG = np.random.default_rng(0)


def picture(label: np.ndarray) -> np.ndarray:
    noisy = COLOURS[label % 4] + RNG.normal(0, 6, (*label.shape, 3))
    pixels: np.ndarray = np.clip(noisy, 0, 255).astype(np.uint8)
    return pixels


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels if pixels.ndim == 2 else pixels[:, :, ::-1])


def write_pairs(
    root: Path,
    image: str,
    label: str,
    count: int = 4,
    encode: Callable[[np.ndarray], np.ndarray] = lambda label: label,
) -> list[np.ndarray]:
    """Write photographs and labels at places that hold the number; returns the labels' ids."""
    labels = [draw(RNG) for _ in range(count)]
    for number, ids in enumerate(labels):
        write(root / image.format(number), picture(ids))
        if label:
            write(root / label.format(number), encode(ids))
    return labels


def new(folder: Path, *arguments: object) -> tuple[dict[str, Any], str, str]:
    """What `domains new` writes, parsed and as text, and what it prints."""
    out = folder.parent / f"{folder.name}.toml"
    printed = run("domains", "new", folder, "--out", out, *arguments)
    return tomllib.loads(out.read_text()), out.read_text(), printed
