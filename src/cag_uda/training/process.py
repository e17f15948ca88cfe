"""Settings of the whole process, for whoever owns it: the command line, or a benchmark.

The library alone changes none of them. Imports nothing heavy, as some must precede heavy imports.
"""

import ctypes
import logging
import os
import warnings
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 30


def prepare_process() -> None:
    """Make a process quiet and fast; what the environment sets already stays.

    glibc gives each large block back to the kernel, and half of a CPU step's time is then spent on
    page faults; raised thresholds keep the memory.
    """
    # Loader and network share few cores: a thread that waits must not spin (libgomp reads it once).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Damaged files are errors of our own; what others print about them would only stand beside.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.disable(logging.INFO)  # Lightning sets its own level when it is imported.
    # Pillow's, of images that are within our own limit.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    # Of 1×1 convolutions with channels last, whose layout is the same either way.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    with suppress(OSError, AttributeError):  # Another C library has no such setting.
        allocator = ctypes.CDLL("libc.so.6")
        allocator.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        allocator.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
