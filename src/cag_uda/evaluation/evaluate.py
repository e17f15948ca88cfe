"""Scores a segmenter on the labelled frames of a split, one confusion matrix a frame.

So two segmenters can be compared by resampling frames.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cag_uda.data.domains.domain import Domain, Item
from cag_uda.data.files.ahead import Room, ahead
from cag_uda.errors import DataError, ShapeError
from cag_uda.evaluation.bootstrap import Interval, bootstrap_of_means
from cag_uda.evaluation.confusion import ConfusionMatrix
from cag_uda.evaluation.scores import Scores, scores
from cag_uda.files import is_sound, whole_file
from cag_uda.models.inference import LabelMap, batches_of_one_kind, prepare
from cag_uda.models.label_maps import label_batch
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.views import WHOLE, Views

_LARGE_PIXELS, _HELD_BATCHES = 2048 * 1024, 4
"""Larger frames share a pass, and are read ahead, as far as so many of this size would."""
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
_MEND = "evaluate again; for a run, delete its scores.json and go on with --resume"
Progress = Callable[[int, int], None]
"""Function that takes the number of frames that are done, and of all frames."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Confusion matrices of a segmenter on N frames of K classes, frame by frame."""

    keys: tuple[str, ...]
    confusions: npt.NDArray[np.int64]
    """(N, K, K + 1), as `ConfusionMatrix.counts`."""
    names: tuple[str, ...]

    @property
    def confusion(self) -> ConfusionMatrix:
        """All frames together."""
        return ConfusionMatrix(len(self.names), self.confusions.sum(axis=0))

    @property
    def scores(self) -> Scores:
        """Scores over all classes and frames."""
        return self.scores_by(None)

    def scores_by(self, protocol: str | None) -> Scores:
        """Score by a protocol, or over all classes. Raises as `scores.scores` does."""
        return scores(self.confusion, self.names, protocol)

    def gain_over(self, other: "Evaluation") -> Interval:
        """Estimate the gain over another segmenter, with a 95 % interval; frames pair by key.

        Raises DataError if the two were not evaluated on the same frames and classes.
        """
        mine, theirs = np.argsort(self.keys), np.argsort(other.keys)
        if self.names != other.names or sorted(self.keys) != sorted(other.keys):
            raise DataError(
                f"the evaluations are of different frames ({len(self.keys)} and "
                f"{len(other.keys)}) or classes; evaluate both on one split of one domain"
            )
        return bootstrap_of_means([self.confusions[mine]], [other.confusions[theirs]])

    def save_frames(self, path: Path) -> None:
        """Write everything to an npz file, whole or not at all; raises RunError if it cannot."""
        with whole_file(path, sealed=True) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                keys=np.array(self.keys, dtype=np.str_),
                confusions=self.confusions,
                names=np.array(self.names, dtype=np.str_),
            )


def load_frames(path: Path) -> Evaluation:
    """Read what `save_frames` wrote; raises DataError if it is missing, damaged or another file."""
    if path.exists() and is_sound(path) is False:
        raise DataError(f"{path} is damaged: its checksum differs; {_MEND}")
    try:
        with np.load(path, allow_pickle=False) as file:
            keys, confusions, names = file["keys"], file["confusions"], file["names"]
    except _DAMAGE as error:
        raise DataError(
            f"cannot read the frames of an evaluation from {path}: {error}; {_MEND}"
        ) from error
    evaluation = Evaluation(tuple(keys.tolist()), confusions, tuple(names.tolist()))
    shape = (len(keys), len(names), len(names) + 1)
    if confusions.shape != shape or confusions.dtype != np.int64:
        raise DataError(
            f"{path} holds {confusions.dtype} {confusions.shape} where the confusion matrices of "
            f"its frames are int64 {shape}; evaluate again"
        )
    return evaluation


def merge(parts: Sequence[Evaluation]) -> Evaluation:
    """Put the shards of one evaluation, one of each process, together in the order of the keys.

    Raises ShapeError if there is no part, or the parts are not shards of one evaluation.
    """
    if len({part.names for part in parts}) != 1:
        raise ShapeError("merge wants the parts of one evaluation, of the same classes")
    keys = [key for part in parts for key in part.keys]
    if len(set(keys)) != len(keys):
        raise ShapeError("a frame is in two parts: give each process its own shard")
    order = np.argsort(keys)
    confusions = np.concatenate([part.confusions for part in parts])[order]
    return Evaluation(tuple(keys[index] for index in order), confusions, parts[0].names)


class _Frame(NamedTuple):
    """One frame, ready for the network."""

    key: str
    image: Tensor
    """(1, 3, H', W') uint8."""
    truth: LabelMap
    """(H, W) train ids; the label's size, which need not be the image's."""


def evaluate(
    segmenter: Segmenter,
    domain: Domain,
    split: str,
    *,
    batch_size: int = 4,
    views: Views = WHOLE,
    progress: Progress | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Evaluation:
    """Score a segmenter on a labelled split, at the resolution of the labels.

    Precision is the caller's: wrap the call in `torch.autocast` for anything but float32.

    Args:
        segmenter: the network; its mode is restored afterwards.
        domain: where images and labels come from.
        split: a labelled split of it.
        batch_size: frames a pass of the network, at most; only frames of one size share a pass.
        views: how the network looks at each image: whole or in windows, mirrored too, at scales.
        progress: told after every pass.
        shard: (rank, world size): this process takes every world-size-th frame, maybe none; put
            the parts together by `merge`.

    Returns:
        Confusion matrices in the order of the split.

    Raises:
        DataError: if the split has no labels, a file cannot be read, or the network has another
            number of classes than the domain.
    """
    names = _names_of_classes(domain, split)
    rank, world_size = shard
    if not 0 <= rank < world_size:
        raise ShapeError(f"shard should be (rank, world size) with rank below, got {shard}")
    items = domain.items(split)[rank::world_size]
    input_width_px = segmenter.config.input_width_px

    def read(item: Item) -> _Frame:
        image, label = domain.read_scored(item)
        return _Frame(item.key, prepare(image, input_width_px), label)

    keys: list[str] = []
    confusions: list[npt.NDArray[np.int64]] = []
    together = Room(batch_size * _LARGE_PIXELS)
    held = Room(_HELD_BATCHES * batch_size * _LARGE_PIXELS)

    def seen(frames: Iterable[_Frame]) -> Iterator[_Frame]:
        for frame in frames:
            pixels = max(frame.truth.size, frame.image[0, 0].numel())
            together.see(pixels)
            held.see(pixels)
            yield frame

    with closing(ahead(read, items, 2 * batch_size, held.count)) as frames:
        for batch in batches_of_one_kind(
            seen(frames),
            lambda frame: (frame.image.shape, frame.truth.shape),
            batch_size,
            lambda _: together.count(),
        ):
            height, width = batch[0].truth.shape
            images = [frame.image for frame in batch]
            found = label_batch(segmenter, images, (height, width), views, num_classes=len(names))
            for frame, label in zip(batch, found.label, strict=True):
                confusion = ConfusionMatrix(len(names))
                confusion.update(frame.truth, label)
                keys.append(frame.key)
                confusions.append(confusion.counts)
            if progress is not None:
                progress(len(keys), len(items))
    empty = np.zeros((0, len(names), len(names) + 1), np.int64)
    return Evaluation(tuple(keys), np.stack(confusions) if confusions else empty, names)


def _names_of_classes(domain: Domain, split: str) -> tuple[str, ...]:
    if domain.label_space is None or not domain.is_labelled(split):
        raise DataError(
            f"domain {domain.name!r}: split {split!r} has no labels, and scores need them; name a "
            "labelled split, or rank checkpoints without labels by `cag-uda select`"
        )
    return domain.label_space.names
