"""Measure the scenes rendered and written a second, by image size and number of processes.

Run as `python benchmarks/rendering.py`; starting the processes and writing the files are included.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import get_args

from cag_uda.scenes import Look, render_folder

_SIZES_PX = ((128, 256), (180, 240), (360, 480))
_PROCESSES = (1, 2)


def images_per_s(look: Look, size_px: tuple[int, int], processes: int, duration_s: float) -> float:
    """Measure one setting.

    Args:
        look: which look.
        size_px: height and width.
        processes: how many.
        duration_s: about how long to measure.

    Returns:
        Images written per second of wall time.
    """
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        render_folder(Path(name) / "warm", look, range(6), 0, *size_px, processes=1)
        per_image_s = (time.perf_counter() - started) / 6
        count = max(8, int(duration_s * processes / per_image_s))
        started = time.perf_counter()
        render_folder(Path(name) / "run", look, range(count), 0, *size_px, processes=processes)
        return count / (time.perf_counter() - started)


def main() -> None:
    """Print a table of images per second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=float, default=5.0, help="seconds for each setting")
    duration_s = parser.parse_args().duration
    heads = "  ".join(f"{count} process{'es' * (count > 1)}".rjust(12) for count in _PROCESSES)
    print(f"images/s              {heads}")
    for height_px, width_px in _SIZES_PX:
        for look in get_args(Look):
            rates = (
                images_per_s(look, (height_px, width_px), count, duration_s) for count in _PROCESSES
            )
            cells = "  ".join(f"{rate:12.1f}" for rate in rates)
            print(f"{height_px:4d} x {width_px:<4d} {look:10s} {cells}", flush=True)


if __name__ == "__main__":
    main()
