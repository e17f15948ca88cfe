"""Small networks of the modern families, and batches that all of them take."""

from typing import Any

import torch

from cag_uda.methods import Passes
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import Batch, Labelled, Unlabelled
from tests.support.batches import same

FAMILIES = ["efficientnet-lite", "mit", "dinov2", "dinov3", "convnextv2", "swinv2"]


def make(family: str, classes: Classes, decoder: str = "light", **settings: Any) -> Segmenter:
    torch.manual_seed(0)
    form = {"backbone": f"{family}-micro", "decoder": decoder, **settings}
    return Segmenter(SegmenterConfig.model_validate(form), classes)


def make_batch(size: int = 40) -> Batch:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (2, size, size), generator=generator)
    source, target = torch.rand(2, 2, 3, size, size, generator=generator)
    return Batch(Labelled(source, label), Unlabelled(target, target))


def make_passes() -> Passes:
    batch = make_batch()
    return Passes(lambda: iter([batch.source]), lambda: iter([batch.target]), same)
