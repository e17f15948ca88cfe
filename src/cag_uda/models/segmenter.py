"""The segmenter: normalise, encode, decode, classify; features and logits from one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, cast, overload

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cag_uda.adaptation.tensors import downsample
from cag_uda.data.files.images import DEFAULT, ImageReader
from cag_uda.errors import ModelError
from cag_uda.models import storage
from cag_uda.models.backbone import middle_maps, multiples
from cag_uda.models.backbones import backbone_entry, build_backbone
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.context_detail import ContextDetail
from cag_uda.models.decoders import DECODERS, Decoder, SkipScores
from cag_uda.models.given_images import GivenImage, as_image, is_one
from cag_uda.models.inference import upsample
from cag_uda.models.label_maps import label_map, label_maps, segmentations
from cag_uda.models.norm import (
    copy_statistics,
    domain_norms,
    running_statistics,
    separate_statistics,
)
from cag_uda.models.segmentation import Segmentation
from cag_uda.models.tuning import merged_state
from cag_uda.models.weight_files import fill
from cag_uda.models.windows import Window
from cag_uda.types import DomainName, Prediction


class Segmenter(nn.Module):
    """A semantic segmentation network that owns its preprocessing and its classes.

    Args:
        config: backbone, decoder, detail, norm and preprocessing.
        classes: names and colours of the K classes.

    Raises:
        ModelError: for an unknown backbone or decoder, weights that cannot be had, or a detail crop
            that does not fit the grids.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: SegmenterConfig, classes: Classes) -> None:
        super().__init__()
        if config.decoder not in DECODERS:
            names = ", ".join(DECODERS)
            raise ModelError(f"unknown decoder {config.decoder!r}; choose from {names}")
        own = backbone_entry(config.backbone)
        mean, std = config.mean or own.mean, config.std or own.std
        self.config = config.model_copy(update={"mean": mean, "std": std})
        self.classes = classes
        self.card: str | None = None
        """The README.md of the model folder that this was loaded from."""
        self.num_classes = len(classes.names)
        self.backbone = build_backbone(
            config.backbone, config.weights, config.output_stride, config.multi_grid
        )
        self.decoder = DECODERS[config.decoder](self.backbone.channels, self.backbone.strides)
        self.feature_channels = self.decoder.feature_channels
        self.dropout = nn.Dropout(self.decoder.dropout)
        self.classifier = self.decoder.classifier(self.num_classes)
        self.skip_scores: SkipScores | None = None
        if config.skip_scores:
            self.skip_scores = SkipScores(self.backbone.channels, self.num_classes)
        self.detail: ContextDetail | None = None
        if config.detail is not None:
            self.detail = ContextDetail(
                config.detail, self.backbone, self.decoder.stride, self.num_classes
            )
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        if config.norm == "per-domain":
            separate_statistics(self, config.target_share)
        self._domain_norms = domain_norms(self)

    @property
    def grid_px(self) -> int:
        """Least shift of an image, in pixels, that shifts its logits by whole cells."""
        unit_px = math.lcm(self.backbone.multiple, *self.backbone.strides)
        if self.detail is None:
            return unit_px
        return math.lcm(unit_px * self.detail.scale, self.detail.unit_px)

    @contextmanager
    def in_window(self, window: Window) -> Iterator[None]:
        """Let what is segmented be a window of a larger image.

        Places in an image are then those in that one. A network with detail, which has windows of
        its own, takes a window for an image.
        """
        if self.detail is not None:
            yield
            return
        parts = [part for part in self.modules() if isinstance(part, Decoder)]
        for part in parts:
            part.window = window.enlarged(self.backbone.multiple)
        try:
            yield
        finally:
            for part in parts:
                part.window = None

    def forward(
        self, image: Tensor, domain: DomainName = "target", *, last_map: bool = False
    ) -> Prediction | tuple[Prediction, Tensor]:
        """Segment images.

        Args:
            image: (B, 3, H, W) uint8, or float in [0, 1], RGB, of any size from 32 pixels.
            domain: whose batch-norm statistics are used, and in training updated; without effect
                where they are shared.
            last_map: give the backbone's last map too, for losses on it.

        Returns:
            Features (B, D, h, w) and logits (B, K, h, w) at the decoder's stride, 4 with most, both
            not upsampled. The features are the classifier's input before its dropout, so that
            anchors see no noise. With detail they are the context's, enlarged to the logits' grid.
            With `last_map` a pair: these, and the map (B, C, h', w').
        """
        maps = self.encode(image, domain)
        prediction = self.decode(maps, image)
        return (prediction, maps[-1]) if last_map else prediction

    def upsample(self, cells: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize what lies on the feature grid bilinearly to pixels, as the network is trained to.

        Args:
            cells: (B, C, h, w), for example logits.
            size: (H, W) of the images that they are of, in pixels.

        Returns:
            (B, C, H, W): `config.align_corners` says whether the outermost cells lie on the
            outermost pixels, or the edges of both on each other.
        """
        return upsample(cells, size, self.config.align_corners)

    def on_grid(self, label: Tensor, cells: Tensor) -> Tensor:
        """Read a label map at the cells of the feature grid.

        Args:
            label: (B, H, W) train ids, or weights, of images.
            cells: (B, …, h, w) features, logits or pseudo-labels of these images.

        Returns:
            (B, h, w): where cells are aligned at corners, the pixel at each cell's first corner, as
            the released CAG-UDA code reads it; else the pixel at each cell's centre.
        """
        size = (cells.shape[-2], cells.shape[-1])
        return downsample(label, size, align_corners=self.config.align_corners)

    def encode(self, image: Tensor, domain: DomainName = "target") -> list[Tensor]:
        """Compute the backbone's maps (B, C_i, h_i, w_i) of images, as `forward` takes them."""
        for norm in self._domain_norms:
            norm.domain = domain
        maps: list[Tensor] = self.backbone(self.backbone_input(image))
        return maps

    def backbone_input(self, image: Tensor) -> Tensor:
        """Make the backbone's input of images: normalised; with detail, the context alone."""
        normalised = self._normalised(image)
        return normalised if self.detail is None else self.detail.context_of(normalised)

    def input_size(self, image: Tensor) -> tuple[int, int]:
        """Compute height and width of `backbone_input` of images."""
        size = (image.shape[-2], image.shape[-1])
        return size if self.detail is None else self.detail.context_size(size)

    def decode(self, maps: Sequence[Tensor], image: Tensor) -> Prediction:
        """Decode the maps of `encode` to the prediction of `forward`."""
        size = self.input_size(image)
        prediction = self._classified(maps, size)
        if self.detail is None:
            return prediction
        attention = self.crop(self.detail.attention(maps), size)
        return self.detail.fuse(prediction, attention, self._normalised(image), self._logits_of)

    def predict_levels(self, image: Tensor, domain: DomainName = "target") -> Prediction:
        """Segment images as `forward` does, with features of all levels that logits are linear in.

        The features (B, D', h, w) are those of `forward` and behind them the backbone's middle
        maps, resized to their grid; D' is the sum of `level_channels`.
        """
        maps = self.encode(image, domain)
        prediction, size = self.decode(maps, image), self.input_size(image)
        grid = (prediction.logits.shape[-2], prediction.logits.shape[-1])
        levels = [upsample(self.crop(each, size), grid) for each in middle_maps(maps)]
        return Prediction(torch.cat([prediction.features, *levels], dim=1), prediction.logits)

    @property
    def level_channels(self) -> list[int]:
        """Channels of the features, and of each of the backbone's middle maps."""
        return [self.feature_channels, *middle_maps(self.backbone.channels)]

    def add_skip_scores(self) -> None:
        """Add logits of 0 that are linear in the backbone's middle maps, if there are none."""
        if self.skip_scores is None:
            new = SkipScores(self.backbone.channels, self.num_classes)
            self.skip_scores = new.to(self.mean.device)
            self.config = self.config.model_copy(update={"skip_scores": True})

    def _normalised(self, image: Tensor) -> Tensor:
        if image.dtype == torch.uint8:
            image = image.float().div_(255)
        return (image - self.mean) / self.std

    def _classified(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Prediction:
        """Decode and classify the maps of an input of a size in pixels."""
        features = self.crop(self.decoder(maps), size)
        logits = self.classifier(self.dropout(features))
        if self.skip_scores is not None:
            cropped = [self.crop(each, size) for each in maps]
            logits = logits + self.skip_scores(cropped, (logits.shape[-2], logits.shape[-1]))
        return Prediction(features, logits)

    def _logits_of(self, normalised: Tensor) -> Tensor:
        """Compute logits (B, K, h, w) of normalised images as they are."""
        size = (normalised.shape[-2], normalised.shape[-1])
        return self._classified(self.backbone(normalised), size).logits

    def crop(self, cells: Tensor, size: tuple[int, int]) -> Tensor:
        """Cut off the cells of padding that a backbone has added to images of a size (H, W).

        Args:
            cells: (B, C, h, w) of the images as the backbone has enlarged them.
            size: of the images before, in pixels.

        Returns:
            (B, C, h', w'), the cells with pixels of the images.
        """
        multiple = self.backbone.multiple
        if multiple == 1:
            return cells
        per_multiple = (
            count // multiples(pixels, multiple)
            for pixels, count in zip(size, cells.shape[-2:], strict=True)
        )
        rows, columns = (
            multiples(pixels * count, multiple)
            for pixels, count in zip(size, per_multiple, strict=True)
        )
        return cells[..., :rows, :columns]

    @overload
    def predict(self, image: str | Path | PIL.Image.Image) -> NDArray[np.uint8]: ...

    @overload
    def predict(self, image: NDArray[Any] | Tensor) -> Any: ...  # By its axes: one, or a list.

    @overload
    def predict(
        self, image: list[Any] | tuple[Any, ...] | Iterator[Any]
    ) -> list[NDArray[np.uint8]]: ...

    def predict(self, image: GivenImage | Iterable[GivenImage]) -> Any:
        """Segment one image, or several, each at its own resolution.

        Args:
            image: a path; a PIL image; an array (H, W, 3) uint8, or floats in [0, 1], or grey
                (H, W); a tensor (3, H, W); or a list of such, or an array or tensor of four axes.
                Files are read by the rules that the network was adapted with, as `cag-uda predict`
                reads them. Large images are looked at in windows, as far as memory wants it.

        Returns:
            (H, W) uint8 train ids, whose names and colours are in `classes`; for several images a
            list of these.

        Raises:
            DataError: if it cannot be read as an image.
        """
        if is_one(image):
            return label_map(self, as_image(cast(GivenImage, image), self._reader))
        several = cast(Iterable[GivenImage], image)
        return list(label_maps(self, (as_image(each, self._reader) for each in several)))

    def segment(self, image: GivenImage, *, probabilities: bool = False) -> Segmentation:
        """Segment one image, and tell how sure that is.

        Args:
            image: as `predict` takes it.
            probabilities: whether to give those of all classes, 4 · K bytes a pixel.

        Returns:
            Ids (`label`), `confidence`, `probabilities` if asked for, and pictures: `overlay()`,
            `colors()`, `save(path)`.

        Raises:
            DataError: if it cannot be read as an image.
        """
        return next(self.segment_many([image], probabilities=probabilities))

    def segment_many(
        self, images: Iterable[GivenImage], *, probabilities: bool = False
    ) -> Iterator[Segmentation]:
        """Segment images one after the other, as `segment`; neighbours of one size share a pass."""
        given = (as_image(each, self._reader) for each in images)
        return segmentations(self, given, self.classes, with_probabilities=probabilities)

    @property
    def _reader(self) -> ImageReader:
        return self.config.images or DEFAULT

    def __repr__(self) -> str:
        """Say what it is in one line; its parts, such as `backbone`, show theirs."""
        parameters = sum(each.numel() for each in self.parameters())
        return (
            f"Segmenter({self.config.backbone} + {self.config.decoder}, {self.num_classes} "
            f"classes, {parameters / 1e6:.1f} M parameters, on {self.mean.device})"
        )

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; frozen norms, and all else of a frozen backbone, have none."""
        super().train(mode)
        if self.config.tuning == "frozen":
            for module in self.backbone.modules():
                if not isinstance(module, _BatchNorm):
                    module.training = False
        if self.config.norm == "frozen":
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Group the backbone's parameters that learn, and the head's, usually at a higher rate."""
        backbone = [each for each in self.backbone.parameters() if each.requires_grad]
        head = [*self.decoder.parameters(), *self.classifier.parameters()]
        if self.skip_scores is not None:
            head += self.skip_scores.parameters()
        if self.detail is not None:
            head += self.detail.parameters()
        return {"backbone": backbone, "head": head}

    def set_target_share(self, share: float) -> None:
        """Set the weight of the target's own batch-norm statistics, as `config.target_share`."""
        self.config = self.config.model_copy(update={"target_share": share})
        for norm in self._domain_norms:
            norm.target_share = share

    def adopt_source_statistics(self) -> None:
        """Copy the source's batch-norm statistics to the target's: of a network without target."""
        copy_statistics(self, "source", "target")

    def statistics(self, domain: DomainName) -> list[Tensor]:
        """List running means and variances of every batch norm for a domain, each (channels,)."""
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        return [each for norm in norms for each in running_statistics(norm, domain)]

    @torch.no_grad()
    def estimate_statistics(self, images: Iterable[Tensor], domain: DomainName) -> None:
        """Recompute a domain's batch-norm statistics as the average over batches of its images.

        Args:
            images: batches (B, 3, H, W) in [0, 1]; at least one, else nothing changes.
            domain: whose statistics are replaced (all, where they are shared).

        Source: AdaBN, Li et al. 2016.
        """
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        was_training = self.training
        self.eval()
        try:
            with ExitStack() as hooks:
                for norm in norms:
                    hooks.enter_context(norm.register_forward_pre_hook(_RunningMean()))
                for image in images:
                    self(image, domain)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            self.train(was_training)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `model.safetensors` and a card, each whole or not at all.

        Raises:
            RunError: if the disk is full or the folder cannot be written.
        """
        storage.save(self._to_store(), Path(folder))

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | Path, *, revision: str | None = None
    ) -> Segmenter:
        """Load a segmenter from a local folder or, where the name has a `/`, from the hub.

        Args:
            path_or_hub_id: a folder that `save_pretrained` wrote, or `owner/name` on the hub.
            revision: branch, tag or commit on the hub.

        Returns:
            The segmenter in evaluation mode, on the CPU.

        Raises:
            ModelError: if it is missing, damaged, or not one of this package's.
        """
        config, classes, weights, card = storage.read(path_or_hub_id, revision)
        segmenter = cls(config.model_copy(update={"weights": None}), classes)
        segmenter.config, segmenter.card = config, card
        fill(segmenter, weights, str(path_or_hub_id), "; copy both files of one model")
        return segmenter.eval()

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model with its card to the hub, making the repository if need be.

        Args:
            repo_id: `owner/name`.
            private: whether a new repository is private.
            token: a hub token; None uses the one that is logged in.

        Returns:
            The address of the upload.
        """
        return storage.push(self._to_store(), repo_id, private=private, token=token)

    def _to_store(self) -> storage.ModelFolder:
        return storage.ModelFolder(self.config, self.classes, merged_state(self), self.card)


class _RunningMean:
    """A hook by which a batch norm's running statistics become the mean over all that it sees.

    A network may pass a norm several times for one image. One value a channel (the pooled features
    of a single image) has no variance: it is not learnt from, and normalised by what was before.
    """

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Weigh what comes by one over how many have come."""
        batch_norm, (values,) = cast(_BatchNorm, norm), inputs
        batch_norm.training = values.numel() > batch_norm.num_features
        if batch_norm.training:
            self.seen += 1
            batch_norm.momentum = 1.0 / self.seen
