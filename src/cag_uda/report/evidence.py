"""Reads what a stage left of its features, anchors and mistakes, as arrays.

Each reader gives None where the file is not there, as older runs lack some, and names in `remarks`
what is there but cannot be read.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from cag_uda.files import is_sound

Floats = NDArray[np.float32]
Ids = NDArray[np.uint8]


@dataclass(frozen=True)
class FeatureMap:
    """Features of both domains' classes in two dimensions; see `cag_uda.runs.pictures`."""

    source_xy: Floats
    """(n, 2), in standard deviations within a class."""
    source_class: Ids
    """(n,) train ids."""
    target_xy: Floats
    target_class: Ids
    anchors_xy: Floats
    """(K, 2), NaN for a class that was not seen."""
    distances: Floats
    """(K, K) between anchors, in feature units."""
    spread: Floats
    """(K,) mean distance of the source's cells from their class's anchor."""
    shift: Floats
    """(K,) distance of the target's mean feature of a class from its anchor."""
    by_truth: bool
    """True if a target cell's class is the truth; else it is the network's prediction."""

    @property
    def relative_distances(self) -> Floats:
        """(K, K) `distances` ÷ the mean spread of a class: free of the features' scale."""
        spread = self.spread[np.isfinite(self.spread)]
        ratio: Floats = self.distances / (spread.mean() if len(spread) else np.nan)
        return ratio

    @property
    def separation(self) -> float | None:
        """Mean over classes: nearest other anchor ÷ how far the class's own pixels lie."""
        apart = np.where(np.eye(len(self.distances), dtype=bool), np.nan, self.distances)
        finite = np.isfinite(apart).any(axis=1)
        nearest = np.full(len(apart), np.nan)
        nearest[finite] = np.nanmin(apart[finite], axis=1)
        return _mean(nearest / self.spread)

    @property
    def domain_shift(self) -> float | None:
        """Mean over classes: target mean to anchor ÷ how far the source's pixels lie from it."""
        return _mean(self.shift / self.spread)


def _mean(values: NDArray[np.floating]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def read_features(folder: Path, num_classes: int, remarks: list[str]) -> FeatureMap | None:
    """Read `features.safetensors` of a stage's folder, for K classes."""

    def read(file: Path) -> FeatureMap:
        tensors, metadata = _tensors(file)
        wanted = FeatureMap.__dataclass_fields__.keys() - {"by_truth"}
        by_truth = metadata.get("target_classes") == "truth"
        found = FeatureMap(**{name: tensors[name] for name in wanted}, by_truth=by_truth)
        shapes = (found.anchors_xy.shape, found.distances.shape, found.spread.shape)
        if shapes != ((num_classes, 2), (num_classes, num_classes), (num_classes,)):
            raise ValueError(f"of other than {num_classes} classes")
        return found

    return _read(folder / "features.safetensors", read, remarks)


def read_anchor_distances(folder: Path, num_classes: int, remarks: list[str]) -> Floats | None:
    """Measure distances (K, K) between the anchors that guided a stage, in feature units."""

    def read(file: Path) -> Floats:
        vectors = _tensors(file)[0]["vectors"].astype(np.float64)
        if vectors.ndim != 2 or len(vectors) != num_classes:
            raise ValueError(f"of other than {num_classes} classes")
        distances: Floats = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
        return distances.astype(np.float32)

    return _read(folder / "anchors.safetensors", read, remarks)


def read_confusion(folder: Path, num_classes: int, remarks: list[str]) -> Floats | None:
    """Read the target's confusion matrix: (K, K) shares of each true class, rows sum to 1.

    A class that no true pixel has is a row of NaN.
    """

    def read(file: Path) -> Floats:
        with np.load(file, allow_pickle=False) as frames:
            counts = frames["confusions"].sum(axis=0)
        if counts.shape != (num_classes, num_classes + 1):
            raise ValueError(f"of other than {num_classes} classes")
        totals = counts.sum(axis=1, keepdims=True).astype(np.float64)
        totals[totals == 0] = np.nan
        shares: Floats = (counts[:, :num_classes] / totals).astype(np.float32)
        return shares

    return _read(folder / "frames.npz", read, remarks)


def read_frame_keys(folder: Path) -> list[str]:
    """Give the names of the frames that a stage was scored on; none where that is not known."""

    def read(file: Path) -> list[str]:
        with np.load(file, allow_pickle=False) as frames:
            return [str(key) for key in frames["keys"]]

    return _read(folder / "frames.npz", read, []) or []


def pseudo_label_pictures(folder: Path) -> dict[str, dict[str, Path]]:
    """Find pictures of pseudo-labels on the feature grid: kind → sample → file."""
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.glob("pseudo_labels/*-*.png")):
        sample, kind = file.stem.split("-", 1)
        found.setdefault(kind, {})[sample] = file
    return found


def _tensors(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    with safe_open(file, framework="numpy") as opened:
        names = opened.keys()
        return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}


T = TypeVar("T")
_DAMAGE = (OSError, ValueError, KeyError, TypeError, SafetensorError, zipfile.BadZipFile)


def _read(file: Path, read: Callable[[Path], T], remarks: list[str]) -> T | None:
    if not file.is_file():
        return None
    try:
        if is_sound(file) is False:
            raise ValueError("its checksum differs")
        return read(file)
    except _DAMAGE:
        remarks.append(f"{file.parent.name}/{file.name} cannot be understood and is left out.")
        return None
