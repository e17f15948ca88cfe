"""A pack: one safetensors file with a network and the figures of its source's classes.

Whoever has it can adapt the network without the source. It holds:

    network.*           the weights, as in a model folder
    source.vectors      (K, D) float32, the anchors: mean feature of each class; features are those
                        of all levels, `Segmenter.predict_levels`
    source.counts       (K,) int64, labelled cells of each class; by them, class shares
    source.covariance   (D, D) float32, covariance of the features within classes
    source.temperature  () float32, T of the class probabilities by anchors

and as text the configuration of the network, its classes, the names of the source's domains, and a
SHA-256 of all this, since the file travels alone. There is no image, no label map and no path.
Nothing is ever unpickled. Knows tensors and files; not how figures are made, nor what adapts.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cag_uda.adaptation.adapted_anchors import SourceFigures
from cag_uda.errors import ModelError
from cag_uda.files import write_with
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.storage import WEIGHTS, refuse_not_finite
from cag_uda.models.tuning import merged_state
from cag_uda.models.weight_files import below, fill, first_line

_FORMAT = "cag-uda-pack-3"
_OF_LOGITS = ("classifier.", "skip_scores.")
"""What the names of weights begin with on which no feature depends."""
_NETWORK, _SOURCE = "network.", "source."
_TEXTS = ("segmenter", "classes", "source")
_HERE_ALONE = {"weights": None, "start": None, "images": None}
"""Settings that name files of the machine that a network was trained on, or how a domain's
photographs are read: of no use elsewhere."""


@dataclass(frozen=True, eq=False)
class PackHeader:
    """Description of a pack's network, without the tensors."""

    config: SegmenterConfig
    classes: Classes
    source: str
    """Names of the source's domains and splits, "camvid-day/train"."""


@dataclass(frozen=True, eq=False)
class Pack(PackHeader):
    """The contents of a pack."""

    weights: Mapping[str, Tensor]
    """Tensors by their names in `Segmenter.state_dict`."""
    figures: SourceFigures
    """Statistics of the source in the network's features of all levels."""

    @classmethod
    def of(cls, segmenter: Segmenter, figures: SourceFigures, source: str) -> "Pack":
        """Pack a network with the figures that it has of the source, whose domains are named."""
        config = segmenter.config.model_copy(update=_HERE_ALONE)
        weights = {name: each.cpu().clone() for name, each in merged_state(segmenter).items()}
        figures = SourceFigures(*(each.cpu() for each in figures))
        return cls(config, segmenter.classes, source, weights, figures)

    def is_of(self, network: Segmenter) -> bool:
        """Tell whether a network's features are the pack's: all its weights but those of logits.

        Batch-norm statistics may be others.
        """
        return all(
            name in self.weights and each.cpu().equal(self.weights[name])
            for name, each in weights_of_features(network).items()
        )

    def segmenter(self) -> Segmenter:
        """Build the network, in evaluation mode, on the CPU. Raises ModelError if it cannot be."""
        segmenter = Segmenter(self.config, self.classes)
        fill(segmenter, self.weights, "the pack")
        wanted = (segmenter.num_classes, sum(segmenter.level_channels))
        if self.figures.vectors.shape != wanted:
            raise ModelError(
                f"the pack has anchors {tuple(self.figures.vectors.shape)}, and its network wants "
                f"{wanted} (classes, feature channels): make the pack anew by `cag-uda pack`"
            )
        return segmenter.eval()


def weights_of_features(network: Segmenter) -> dict[str, Tensor]:
    """Give the weights on which a network's features depend, additions of its tuning merged in."""
    buffers = {name for name, _ in network.named_buffers()}
    return {
        name: each
        for name, each in merged_state(network).items()
        if name not in buffers and not name.startswith(_OF_LOGITS)
    }


def save_pack(path: Path, pack: Pack) -> None:
    """Write a pack, whole or not at all.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
        ModelError: if a tensor is not finite.
    """
    tensors = {f"{_NETWORK}{name}": each for name, each in pack.weights.items()}
    tensors |= {f"{_SOURCE}{name}": each for name, each in pack.figures._asdict().items()}
    tensors = {name: each.cpu().contiguous() for name, each in tensors.items()}
    refuse_not_finite(tensors, "the network to pack")
    texts = {
        "segmenter": json.dumps(pack.config.model_dump(mode="json")),
        "classes": json.dumps(pack.classes.model_dump(mode="json")),
        "source": pack.source,
    }
    metadata = {"format": _FORMAT, **texts, "sha256": _digest(tensors, texts)}
    write_with(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def read_pack_header(path: Path) -> PackHeader:
    """Read what a pack says of its network; its tensors are not looked at.

    Raises ModelError if it is missing, or no pack.
    """
    try:
        if not path.is_file():
            raise ModelError(
                f"no pack at {path}; give the file that `cag-uda pack RUN` has written"
            )
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the pack {path}: {error}; copy it again") from error
    if metadata.get("format") != _FORMAT:
        if path.name == WEIGHTS:
            raise ModelError(
                f"{path} holds the weights of a model folder, and is no pack of this version; make "
                "one by `cag-uda pack RUN`, or, where a network is asked for, give the folder "
                f"{path.parent}"
            )
        raise ModelError(
            f"{path} is no pack of this version (its format is {metadata.get('format')!r}, not "
            f"{_FORMAT!r}); give the file that `cag-uda pack RUN` has written"
        )
    try:
        config = SegmenterConfig.model_validate_json(metadata["segmenter"])
        classes = Classes.model_validate_json(metadata["classes"])
        # A stranger's file shall not say what is to be fetched.
        config = config.model_copy(update=_HERE_ALONE)
        return PackHeader(config, classes, metadata["source"])
    except (KeyError, ValidationError) as error:
        raise _damaged(path, error) from error


def read_pack(path: Path) -> Pack:
    """Read a pack and compare it with its checksum.

    Raises ModelError if it is missing, damaged, not finite, or no pack.
    """
    header = read_pack_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        if _digest(tensors, {name: metadata[name] for name in _TEXTS}) != metadata["sha256"]:
            raise ModelError(
                f"the pack {path} is damaged: its checksum differs; copy it again, or make it anew "
                "by `cag-uda pack`"
            )
        found = {name: tensors[f"{_SOURCE}{name}"] for name in SourceFigures._fields}
    except (OSError, SafetensorError, KeyError) as error:
        raise _damaged(path, error) from error
    refuse_not_finite(tensors, f"the pack {path}")
    return Pack(**vars(header), weights=below(tensors, _NETWORK), figures=SourceFigures(**found))


def _digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """Compute the SHA-256 of all that a pack holds, whatever the order in the file."""
    total = hashlib.sha256()
    for name, text in sorted(texts.items()):
        total.update(f"{name} {len(text)} {text}\n".encode())
    for name, each in sorted(tensors.items()):
        total.update(f"{name} {each.dtype} {list(each.shape)}\n".encode())
        total.update(each.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"the pack {path} is damaged or foreign: {first_line(error)}; copy it again, or make it "
        "anew by `cag-uda pack`"
    )
