"""Configuration of a segmenter: a recipe's `[segmenter]` and a model's config.json."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cag_uda.data.files.images import ImageReader
from cag_uda.types import Config

_MOST_PX = 1 << 16
_Side = Annotated[int, Field(le=_MOST_PX)]
_Byte = Annotated[int, Field(ge=0, le=255)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[_Number, Field(gt=0)]
Colour = tuple[_Byte, _Byte, _Byte]


class DetailConfig(Config):
    """`[segmenter.detail]`: images are seen twice, whole but small, and by parts as they are.

    The defaults are those of Hoyer, Dai, Van Gool, *HRDA*, ECCV 2022, for crops of 1024 pixels.
    """

    crop_px: tuple[_Side, _Side] = (512, 512)
    """Height and width of the part of a training crop that is seen in detail, and of the windows
    by which prediction sees all of an image so: multiples of 8 with most networks, `scale` times
    the cells of the backbone's finest map."""
    scale: int = Field(default=2, ge=2, le=16)
    """Factor by which the whole crop or image, the context, is seen smaller."""
    weight: float = Field(default=0.1, ge=0, lt=1)
    """λ_d: what the detail's own prediction counts in losses, beside the fused one."""

    @model_validator(mode="after")
    def _crop_is_large_enough(self) -> "DetailConfig":
        least = 32 * self.scale
        if min(self.crop_px) < least:
            raise ValueError(
                f"crop_px must be at least {least} by {least}, 32 px of context, "
                f"got {list(self.crop_px)}"
            )
        return self


class SegmenterConfig(Config):
    """The network of a recipe; everything but its classes, which come with the source domain."""

    backbone: str = "resnet-50"
    """A row of `cag_uda.models.backbones.BACKBONES`."""
    weights: str | None = None
    """Initial weights of the backbone: left out for random ones, "imagenet" for the row's published
    weights, or a hub id, local folder or local file in the layout of torchvision or of
    transformers; ImageNet's classifier in it is left out, every other tensor must fit."""
    start: str | None = None
    """Model folder, run or hub id whose whole network is the initial one, in place of `weights`; it
    must have the classes of the recipe's domains and the form that is described here."""
    decoder: str = "deeplab-v3plus"
    """A row of `cag_uda.models.decoders.DECODERS`."""
    detail: DetailConfig | None = None
    """Sees context and detail of large images apart (HRDA); None sees them at once."""
    output_stride: Literal[8, 16, 32] = 16
    """Image pixels per cell of a ResNet's last feature map; strides are traded for dilation. The
    other backbones have strides of their own."""
    multi_grid: tuple[Annotated[int, Field(ge=1, le=64)], ...] | None = None
    """Factors of the dilation of each block of the backbone's last stage; (1, 2, 4) in the released
    CAG-UDA code (Chen et al., DeepLab v3, 2017); None is 1 for each."""
    skip_scores: bool = False
    """Adds logits that are linear in the backbone's middle maps. Methods that pool anchors with
    the classifier add them by themselves."""
    align_corners: bool = False
    """Enlarge logits to image size, in losses and in prediction, with the outermost cells on the
    outermost pixels (the released CAG-UDA code); else with the edges of both on each other."""
    tuning: Literal["full", "frozen", "lora"] = "full"
    """The part of the backbone that learns: all of it, nothing, or low-rank additions to its linear
    layers (LoRA), which the delivered network holds merged. The decoder always learns. LoRA wants
    the package's extra `lora`."""
    lora_rank: int = Field(default=16, ge=1, le=1024)
    """Rank of these additions."""
    norm: Literal["shared", "per-domain", "frozen"] = "per-domain"
    """Batch-norm statistics: one set for both domains, a set per domain (scale and shift shared),
    or the initial ones, never updated."""
    target_share: float = Field(default=0.5, ge=0, le=1)
    """Weight α of the target's own statistics, if there is a set per domain, in those that
    normalise the target's images in evaluation, labelling and prediction; the source's have 1 − α.
    1 is AdaBN, 0 the source's alone. Where the classes' shares differ between the domains, the
    target's alone ruin a good network (Schneider et al., NeurIPS 2020; You et al., α-BN, 2021)."""
    mean: tuple[_Number, _Number, _Number] | None = None
    """Per RGB channel, subtracted from an image in [0, 1]; None is the backbone's own, ImageNet's
    with most."""
    std: tuple[_Positive, _Positive, _Positive] | None = None
    """Per RGB channel, divides after the mean; None is the backbone's own."""
    input_width_px: int | None = Field(default=None, ge=16, le=_MOST_PX)
    """Width to which whole images are resized, aspect ratio kept, before they enter the network, in
    sweeps, evaluation and prediction; None takes them as they are. A run fills in its loader's
    `width_px`."""

    images: ImageReader | None = None
    """Reader of photographs in prediction; a run fills in `[images]` of its target's file."""

    @model_validator(mode="after")
    def _one_beginning(self) -> "SegmenterConfig":
        if self.start is not None and self.weights is not None:
            raise ValueError(
                f"start {self.start!r} brings the backbone's weights too; leave out weights "
                f"{self.weights!r}, or start"
            )
        return self


class Classes(Config):
    """The classes that a network tells apart, so that a model folder explains itself."""

    names: tuple[str, ...] = Field(min_length=1, max_length=255)
    """One name a class, in the order of train ids."""
    palette: tuple[Colour, ...]
    """One RGB colour a class."""
    label_ids: tuple[_Byte, ...] | None = None
    """Ids that a benchmark's server wants in place of train ids."""

    @model_validator(mode="after")
    def _lengths_agree(self) -> "Classes":
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"two classes have the same name among {', '.join(self.names)}")
        if len(self.names) != len(self.palette):
            raise ValueError(f"{len(self.names)} class names but {len(self.palette)} colours")
        if self.label_ids is not None and len(self.label_ids) != len(self.names):
            raise ValueError(f"{len(self.names)} class names but {len(self.label_ids)} label ids")
        return self
