"""Choose the images to label first: those that teach most and stand for many others.

Pure functions of names, values and image features; knows no network and reads no file.

Sources: greedy facility location (k-medoids) finds images that stand for many others, as in Wei,
Iyer, Bilmes, *Submodularity in Data Subset Selection and Active Learning*, ICML 2015. Where few are
labelled, typical images teach more than unusual ones: Hacohen, Dekel, Weinshall, *Active Learning
on a Budget*, ICML 2022. How it compares with random choice and k-centre: docs/LOG.md.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DIVERSITY, RANDOM = "diversity", "random"
_REPRESENTED = 2000
"""Most images, evenly spread, that the chosen ones are to stand for."""
_LEAST_MERIT = 0.5
"""Added to the merit: images that stand for many others count, however little they teach."""
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


class Candidates(NamedTuple):
    """Images that may be chosen."""

    keys: Sequence[str]
    """Names; those of frames of one sequence differ only in their last number."""
    values: Mapping[str, NDArray[np.float64]]
    """Criterion → (N,), higher where a label would teach more."""
    looks: NDArray[np.float64]
    """(N, D) features of the whole images."""


class Chosen(NamedTuple):
    """One image that was chosen."""

    number: int
    merit: float
    """Mean of its ranks by the criteria, in [0, 1]; 1 where there are none but diversity."""
    apart: float | None
    """Distance of its features to the nearest image that was chosen before it, or is labelled."""
    nearest: int | None
    """Index of that candidate; None for a labelled image, or where there is none."""


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the share of the others that each value exceeds, (N,) in [0, 1]; ties share a rank."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, side="left")
    above = np.searchsorted(ordered, values, side="right")
    rank: NDArray[np.float64] = (below + above - 1) / 2 / max(1, len(values) - 1)
    return rank


def choose(
    candidates: Candidates,
    count: int,
    criteria: Sequence[str],
    labelled: NDArray[np.float64],
    labelled_keys: Sequence[str] = (),
    seed: int = 0,
) -> list[Chosen]:
    """Choose images to label, the best first.

    The merit of an image is the mean of its ranks by the criteria. With diversity, 0.5 plus merit
    is multiplied by how much nearer all images are, in sum, to the chosen or labelled ones once
    this one is among them; and frames that follow each other closely in a sequence are not both
    chosen as long as there are others.

    Args:
        candidates: N images.
        count: how many; at most N are chosen.
        criteria: keys of `candidates.values`, "diversity", "random".
        labelled: (M, D) features of images that have labels already.
        labelled_keys: their names.
        seed: of "random".
    """
    total = len(candidates.keys)
    parts = [ranks(candidates.values[name]) for name in criteria if name in candidates.values]
    if RANDOM in criteria:
        parts.append(ranks(np.random.default_rng(seed).random(total)))
    merit = np.mean(parts, axis=0) if parts else np.ones(total)
    if DIVERSITY not in criteria:
        best = np.argsort(-merit, kind="stable")[:count]
        return [Chosen(int(index), float(merit[index]), None, None) for index in best]

    places = _places([*candidates.keys, *labelled_keys])
    gap = max(1, (total + len(labelled_keys)) // (2 * max(1, count + len(labelled_keys))))
    looks = candidates.looks
    others = looks[:: -(-total // _REPRESENTED)]
    between = np.stack([_distances(others, row) for row in looks])
    left = np.full(len(others), between.max())  # Distances to the nearest chosen image.
    distance, nearest = np.full(total, np.inf), np.full(total, -1)
    is_free, is_left = np.ones(total, bool), np.ones(total, bool)
    for row, place in zip(labelled, places[total:], strict=True):
        left = np.minimum(left, _distances(others, row))
        distance = np.minimum(distance, _distances(looks, row))
        is_free &= ~_are_near(places[:total], place, gap)
    chosen: list[Chosen] = []
    for _ in range(min(count, total)):
        may_be = is_left & is_free if (is_left & is_free).any() else is_left
        nearer = np.maximum(left - between, 0).sum(axis=1)
        index = int(np.where(may_be, (_LEAST_MERIT + merit) * nearer, -np.inf).argmax())
        apart = float(distance[index]) if np.isfinite(distance[index]) else None
        near = int(nearest[index]) if nearest[index] >= 0 else None
        chosen.append(Chosen(index, float(merit[index]), apart, near))
        is_left[index] = False
        is_free &= ~_are_near(places[:total], places[index], gap)
        left = np.minimum(left, between[index])
        now = _distances(looks, looks[index])
        nearest = np.where(now < distance, index, nearest)
        distance = np.minimum(distance, now)
    return chosen


def _distances(looks: NDArray[np.float64], row: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(looks - row, axis=1)
    return lengths


def _places(keys: Sequence[str]) -> list[tuple[str, int]]:
    """Find the sequence of frames that each name belongs to, and its place in that sequence."""
    numbered: dict[str, list[tuple[int, int]]] = defaultdict(list)
    places = [("", 0)] * len(keys)
    for index, key in enumerate(keys):
        match = _NUMBERED.fullmatch(key)
        name = f"{match[1]}\0{match[3]}" if match else key
        numbered[name].append((int(match[2]) if match else 0, index))
    for name, members in numbered.items():
        for place, (_, index) in enumerate(sorted(members)):
            places[index] = (name, place)
    return places


def _are_near(
    places: Sequence[tuple[str, int]], place: tuple[str, int], gap: int
) -> NDArray[np.bool_]:
    """Mark the places of the same sequence that are fewer than `gap` frames away: (N,) bool."""
    return np.array([name == place[0] and abs(at - place[1]) < gap for name, at in places])
