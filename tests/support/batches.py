"""Batches of noise and sweeps over them, for tests of methods."""

import torch
from torch import Tensor

from cag_uda.methods import Passes
from cag_uda.types import IGNORE, Batch, Labelled, Unlabelled


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(seed: int = 0, size: int = 32) -> Batch:
    generator = seeded(seed)
    label = torch.randint(0, 4, (2, size, size), generator=generator)
    label[:, :4] = IGNORE
    source = torch.rand(2, 3, size, size, generator=generator)
    target = torch.rand(2, 3, size, size, generator=generator) * 0.5
    return Batch(Labelled(source, label), Unlabelled(target, target))


def make_passes(count: int = 3) -> Passes:
    batches = [make_batch(seed) for seed in range(count)]
    return Passes(lambda: (b.source for b in batches), lambda: (b.target for b in batches), same)


def same(tensor: Tensor) -> Tensor:
    return tensor
