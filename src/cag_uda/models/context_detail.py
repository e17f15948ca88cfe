"""Context and detail: images seen whole but small, and by parts as they are, fused by attention.

A segmenter with detail passes a large crop at a fraction of its resolution, for the context, and a
small crop of it at the full one, for small things and borders, through one backbone and decoder. An
attention, learned for each class and cell of the context, says which of both to trust.

The source adds to each loss one of the detail's own prediction, which wants losses that know of
crops. Here they see one prediction: with a certain chance an image's detail crop is predicted by
the detail alone, such that in the mean over steps its own loss has the weight that it has there.

Source: Hoyer, Dai, Van Gool, *HRDA: Context-Aware High-Resolution Domain-Adaptive Semantic
Segmentation*, ECCV 2022, and its released code (hrda_encoder_decoder.py, hrda_head.py).
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cag_uda.errors import ModelError
from cag_uda.models.backbone import Backbone, multiples
from cag_uda.models.config import DetailConfig
from cag_uda.models.decoders import SegFormerDecoder
from cag_uda.models.inference import upsample
from cag_uda.models.views import offsets
from cag_uda.types import Prediction

Place = tuple[int, int]
"""Top and left of a detail crop, in units."""


class ContextDetail(nn.Module):
    """The detail branch of a segmenter: its crops, the scale attention, and the fusion.

    Places and sizes are in units of as few pixels as make whole cells of the context's grids, those
    of its logits and of its attention, so that what is cut out of an image is put back in place.
    Images are enlarged to whole units, and to a detail crop at least, by repeating their border; in
    the end that is left out.

    Args:
        config: crop, scale and weight.
        backbone: whose maps of the context the attention is made of.
        stride: image pixels per cell of the segmenter's logits.
        num_classes: K.

    Raises:
        ModelError: if the detail crop is not of whole units.
    """

    def __init__(
        self, config: DetailConfig, backbone: Backbone, stride: float, num_classes: int
    ) -> None:
        super().__init__()
        self.scale, self.weight = config.scale, config.weight
        of_logits = Fraction(stride) * config.scale
        self.unit_px = math.lcm(of_logits.numerator, backbone.strides[0] * config.scale)
        self.cells = int(self.unit_px / Fraction(stride))
        """Cells of the logits' grid along one side of a unit."""
        height, width = config.crop_px
        self.crop = (height // self.unit_px, width // self.unit_px)
        """Height and width of a detail crop, in units."""
        if height % self.unit_px or width % self.unit_px:
            raise ModelError(
                f"segmenter.detail.crop_px [{height}, {width}] must be multiples of {self.unit_px} "
                f"px, {config.scale} times the cells of this network; "
                f"use {[(side + 1) * self.unit_px for side in self.crop]}"
            )
        head = SegFormerDecoder(backbone.channels, backbone.strides)
        self.attention = nn.Sequential(
            head, nn.Dropout(head.dropout), head.classifier(num_classes), nn.Sigmoid()
        )
        """The backbone's maps of the context to scale attention (B, K, h', w') in [0, 1]."""

    def context_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Compute height and width in pixels of the context of images of a size (H, W)."""
        rows, columns = (count * self.unit_px // self.scale for count in self._units(size))
        return rows, columns

    def context_of(self, image: Tensor) -> Tensor:
        """Resize images (B, 3, H, W) as they are seen for their context, (B, 3, H', W')."""
        return F.avg_pool2d(self._enlarged(image), self.scale)

    def fuse(
        self,
        context: Prediction,
        attention: Tensor,
        image: Tensor,
        logits_of: Callable[[Tensor], Tensor],
    ) -> Prediction:
        """Look at the detail and fuse both predictions: ζ((1 − a)·ŷ_c) + ζ(a)·ŷ_d, ζ bilinear.

        In training of one random part of the images, the same for all of a batch, outside of which
        the attention a is zero; otherwise of all of them, in windows that overlap by half.

        Args:
            context: of `context_of` the images.
            attention: (B, K, h', w') on a grid of these.
            image: (B, 3, H, W), normalised.
            logits_of: normalised images (B', 3, H', W') to logits (B', K, h', w').

        Returns:
            Features (B, D, h, w), the context's enlarged, and fused logits (B, K, h, w).
        """
        height, width = image.shape[-2:]
        units = self._units((height, width))
        per_unit = self.cells // self.scale
        coarse = (units[0] * per_unit, units[1] * per_unit)
        grid = (units[0] * self.cells, units[1] * self.cells)
        attention = upsample(attention, coarse)
        if self.training:
            places = [self._draw_place(units)]
            attention = self._within(attention, places, units)
        else:
            tops, lefts = (
                offsets(count, part, overlap=1 / 2)
                for count, part in zip(units, self.crop, strict=True)
            )
            places = [(top, left) for top in tops for left in lefts]
        detail = self._detail(self._enlarged(image), places, units, logits_of)
        # A pooling that reaches beyond the edge may give a cell more.
        features = context.features[..., : coarse[0], : coarse[1]]
        logits = context.logits[..., : coarse[0], : coarse[1]]
        logits = upsample((1 - attention) * logits, grid) + upsample(attention, grid) * detail
        rows, columns = (multiples(side * self.cells, self.unit_px) for side in (height, width))
        return Prediction(
            upsample(features, grid)[..., :rows, :columns], logits[..., :rows, :columns]
        )

    def chance_alone(self, units: tuple[int, int]) -> float:
        """Compute the probability with which the detail alone predicts its crop of an image.

        HRDA's loss is 1 − λ of the fused prediction's mean over the image and λ of the detail's own
        mean over the crop. So a pixel of the crop, which has a share ρ of the image, weighs 1 − λ
        in one and λ / ρ in the other: as in the mean over steps of which this part has the second.
        """
        share = self.crop[0] * self.crop[1] / (units[0] * units[1])
        return self.weight / (self.weight + (1 - self.weight) * share)

    def _draw_place(self, units: tuple[int, int]) -> Place:
        """Draw a place, by the CPU's generator so that every device draws the same."""
        top, left = (
            int(torch.randint(count - part + 1, ()))
            for count, part in zip(units, self.crop, strict=True)
        )
        return top, left

    def _within(self, attention: Tensor, places: Sequence[Place], units: tuple[int, int]) -> Tensor:
        """Keep attention (B, K, h, w) in the detail crop alone, where in some images it is 1."""
        is_alone = torch.rand(len(attention), 1, 1, 1) < self.chance_alone(units)
        is_alone = is_alone.to(attention.device, non_blocking=True)
        attention = torch.where(is_alone, 1.0, attention)
        per_unit = self.cells // self.scale
        inside = attention.new_ones(1, 1, self.crop[0] * per_unit, self.crop[1] * per_unit)
        return attention * self._sum([inside], places, units, per_unit)

    def _detail(
        self,
        image: Tensor,
        places: Sequence[Place],
        units: tuple[int, int],
        logits_of: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Make logits (B, K, h, w) of detail crops: their mean where they overlap, else 0."""
        cuts = [image[self._window(place, self.unit_px)] for place in places]
        # In one pass, so that batch norms that learn of what they see take all crops together.
        cells = (self.crop[0] * self.cells, self.crop[1] * self.cells)
        logits = logits_of(torch.cat(cuts))[..., : cells[0], : cells[1]]
        pieces = logits.unflatten(0, (len(places), -1)).unbind()
        total = self._sum(pieces, places, units, self.cells)
        looks = self._sum([total.new_ones(1, 1, *cells)] * len(places), places, units, self.cells)
        return total / looks.clamp(min=1)

    def _sum(
        self, pieces: Sequence[Tensor], places: Sequence[Place], units: tuple[int, int], step: int
    ) -> Tensor:
        """Sum (B, C, h, w) of pieces where they belong, on a grid of `step` cells a unit."""
        count, channels = pieces[0].shape[:2]
        total = pieces[0].new_zeros(count, channels, units[0] * step, units[1] * step)
        for piece, place in zip(pieces, places, strict=True):
            total[self._window(place, step)] += piece
        return total

    def _window(self, place: Place, step: int) -> tuple[EllipsisType, slice, slice]:
        """Return rows and columns of a detail crop on a grid of `step` cells, or pixels, a unit."""
        rows, columns = (
            slice(begin * step, (begin + part) * step)
            for begin, part in zip(place, self.crop, strict=True)
        )
        return ..., rows, columns

    def _units(self, size: tuple[int, int]) -> tuple[int, int]:
        """Count the units of images of a size (H, W), when they are enlarged."""
        rows, columns = (
            max(multiples(side, self.unit_px), part)
            for side, part in zip(size, self.crop, strict=True)
        )
        return rows, columns

    def _enlarged(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        rows, columns = self._units((height, width))
        below, right = rows * self.unit_px - height, columns * self.unit_px - width
        return F.pad(image, (0, right, 0, below), mode="replicate")
