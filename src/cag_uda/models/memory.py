"""Estimates of the memory that a network's forward pass takes, and of what is free.

Knows networks and devices; knows no image.
"""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PROBE_PX = 224
"""Side of the image that a network is measured with: a multiple of every stride and patch."""
_MARGIN = 1.5
"""Factor for what allocators and convolutions take beyond the tensors: 1.2 to 1.4 were measured."""
_MEMINFO = Path("/proc/meminfo")
_OWN_GROUP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_MAPPED, _RESIDENT = 0, 1
"""Fields of /proc/self/statm."""
_NO_LIMIT = 1 << 60
_UNKNOWN_BYTES = 4 << 30
"""Taken as free where the system does not tell."""

_measured: WeakKeyDictionary[Callable[[Tensor], object], float] = WeakKeyDictionary()


def bytes_per_pixel(network: Callable[[Tensor], object], device: torch.device) -> float:
    """Measure the memory that a forward pass holds at its peak, in bytes per image pixel.

    Measured once for each network, with one small image (B, 3, H, W), in evaluation mode and
    without gradients. Linear in the pixels: attention is computed without its matrix by current
    versions of torch. With a margin, images included and weights not.
    """
    if network not in _measured:
        image = torch.full((1, 3, _PROBE_PX, _PROBE_PX), 0.5, device=device)
        with _PeakOfTensors() as tensors:
            network(image + 0)
        _measured[network] = _MARGIN * tensors.peak_bytes / _PROBE_PX**2
    return _measured[network]


class _PeakOfTensors(TorchDispatchMode):
    """Sums up the tensors that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # of torch
        self.peak_bytes = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call an operation and look at what there is then."""
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {key: held for key, held in self._alive.items() if not held[0].expired()}
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._alive.values()))
        return result


def free_bytes(device: torch.device) -> int:
    """Find the memory that this process can still take: of a GPU, or of the machine.

    Limits are those of its control group (containers, SLURM) and of its address space (ulimit).
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    return max(0, min(_of_machine(), _of_address_space(), *_of_groups()))


def _of_machine() -> int:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) // 2
    except (OSError, ValueError):
        return _UNKNOWN_BYTES


def _of_address_space() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return _NO_LIMIT
    return limit - _pages(_MAPPED) * resource.getpagesize()


def resident_bytes() -> int:
    """Find the machine's memory that this process holds; 0 where the system does not tell."""
    return _pages(_RESIDENT) * resource.getpagesize()


def _pages(field: int) -> int:
    """Read a field of the process's memory, in pages; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[field])
    except (OSError, ValueError):
        return 0


def _of_groups() -> Iterator[int]:
    """Yield what each control group that this process is in leaves; versions 2 and 1."""
    yield _NO_LIMIT
    try:
        lines = _OWN_GROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:
            root, limit_of, used_of = _GROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit_of = _GROUPS / "memory", "memory.limit_in_bytes"
            used_of = "memory.usage_in_bytes"
        else:
            continue
        folder = root / place.lstrip("/")
        # In a container the group's own path is often that of the host: its root counts then.
        for group in {root, *(each for each in (folder, *folder.parents) if root in each.parents)}:
            limit, used = _number(group / limit_of), _number(group / used_of)
            if limit is not None and used is not None:
                yield limit - used + _reclaimable(group / "memory.stat")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # No such group, or "max".


def _reclaimable(path: Path) -> int:
    """Count bytes of a group that are cached files, which the system drops at need."""
    try:
        fields = dict(line.split() for line in path.read_text(encoding="ascii").splitlines())
        return int(fields.get("inactive_file", 0)) + int(fields.get("active_file", 0))
    except (OSError, ValueError):
        return 0
