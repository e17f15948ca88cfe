"""Batch norm over two processes is batch norm over the whole batch."""

import os
import socket
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cag_uda.models.norm import make_shareable, separate_statistics, share_statistics

torch.manual_seed(0)
BATCH = 3 * torch.randn(4, 5, 6, 7) + torch.arange(5.0)[:, None, None]
WISHES = torch.randn(4, 5, 6, 7)


def norm_of(kind: str) -> nn.Sequential:
    """One batch norm with a scale and shift of its own."""
    norm = nn.BatchNorm2d(5, momentum=0.3)
    network = nn.Sequential(norm)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, 5))
        norm.bias.copy_(torch.linspace(-1.0, 1.0, 5))
    make_shareable(network) if kind == "shared" else separate_statistics(network)
    return network.train()


def learn(network: nn.Sequential, images: Tensor, wishes: Tensor) -> dict[str, np.ndarray]:
    """Output, gradients and running statistics after one pass."""
    images = images.clone().requires_grad_(True)
    output = network(images)
    (output.tanh() * wishes).sum().backward()
    gradients = [images.grad, network[0].weight.grad, network[0].bias.grad]
    names = ("output", "of images", "of weight", "of bias", "mean", "variance")
    values = [output, *gradients, network[0].running_mean, network[0].running_var]
    return {name: value.detach().numpy() for name, value in zip(names, values, strict=True)}


def one_of_two(rank: int, port: int, kind: str, parts: list[slice], folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    network = norm_of(kind)
    share_statistics(network, True)
    np.savez(
        folder / f"{rank}.npz",
        allow_pickle=False,
        **learn(network, BATCH[parts[rank]], WISHES[parts[rank]]),
    )
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "per-domain"])
@pytest.mark.parametrize("share", [2, 1])
def test_two_processes_normalise_as_one(tmp_path: Path, kind: str, share: int) -> None:
    """Also where they have unequal parts of the batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context, parts = get_context("forkserver"), [slice(0, share), slice(share, 4)]
    processes = [
        context.Process(target=one_of_two, args=(rank, port, kind, parts, tmp_path))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    alone = learn(norm_of(kind), BATCH, WISHES)
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    for name in ("output", "of images"):
        together = np.concatenate([first[name], second[name]])
        np.testing.assert_allclose(together, alone[name], rtol=1e-4, atol=1e-5)
    for name in ("of weight", "of bias"):
        np.testing.assert_allclose(first[name] + second[name], alone[name], rtol=1e-4, atol=1e-4)
    for name in ("mean", "variance"):
        np.testing.assert_allclose(first[name], alone[name], rtol=1e-5)
        assert np.array_equal(first[name], second[name])


@pytest.mark.parametrize("kind", ["shared", "per-domain"])
def test_alone_a_norm_is_torchs_to_the_bit(kind: str) -> None:
    plain = nn.Sequential(nn.BatchNorm2d(5, momentum=0.3)).train()
    plain.load_state_dict(norm_of("shared").state_dict())
    ours, theirs = learn(norm_of(kind), BATCH, WISHES), learn(plain, BATCH, WISHES)
    for name, value in ours.items():
        assert np.array_equal(value, theirs[name]), name
