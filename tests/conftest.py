"""Fixtures of all tests: small networks, small data trees, and settings of torch's arithmetic."""

import os
from pathlib import Path

from tests.support.places import CAMVID_ROOT

# Before torch loads libgomp: a waiting thread must not spin when others want the same two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.segmenter import Segmenter

# The first large square root after a matrix product is sometimes wrong on some CPU builds of torch
# unless one came before; the engine does the same.
torch.rand(1_000_000).sqrt()
# The tests' tensors are too small to be worth sharing between threads.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def without_sync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk, but where time is measured: no test ends the machine."""
    if request.node.get_closest_marker("quiet") is None:
        monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def classes() -> Classes:
    """Four classes."""
    return Classes(
        names=("road", "car", "tree", "sky"),
        palette=((128, 64, 128), (0, 0, 142), (107, 142, 35), (70, 130, 180)),
    )


@pytest.fixture
def segmenter(classes: Classes) -> Segmenter:
    """A tiny network with random weights, the same in every test."""
    torch.manual_seed(0)
    return Segmenter(SegmenterConfig(backbone="resnet-tiny", decoder="light"), classes)


@pytest.fixture
def camvid_root() -> Path:
    """The folder above CamVid, where there is one."""
    if not (CAMVID_ROOT / "camvid").is_dir():
        pytest.skip("CamVid is not here")
    return CAMVID_ROOT
