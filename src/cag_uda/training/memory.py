"""The most memory that a piece of work held at once: of the GPU, or of the process on a CPU."""

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from cag_uda.errors import RunError

_MIB = 1 << 20
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"


@contextmanager
def out_of_memory_told() -> Iterator[None]:
    """Turn what torch and NumPy raise for want of memory into a RunError that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        wanted = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not wanted and "not enough memory" not in str(error):
            raise
        what = (str(error).strip().splitlines() or ["no more is to be had"])[0]
        raise RunError(
            f"memory does not suffice: {what}; set loading.batch_size or loading.crop_px lower, or "
            "compute.accumulation higher; `cag-uda plan RECIPE` says what fits"
        ) from error


class PeakMemory:
    """Watches from its creation on.

    On a GPU it is what torch allocated, without the CUDA context. On a CPU it is the resident
    memory of this process, interpreter and libraries included, loader processes not; memory that
    earlier work has freed is given back to the system first. Where the system cannot begin anew,
    the peak is that of the process since its start.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            _CLEAR.write_text(_RESET_PEAK)

    def mib(self) -> float:
        """Return the peak until now, in MiB."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / _MIB
        with suppress(OSError):
            for line in _STATUS.read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        # Kilobytes on Linux, bytes on macOS.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
