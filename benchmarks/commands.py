"""Measure the CPU time of the commands that only read files, and the time to their first output.

Run as `python benchmarks/commands.py`; 30 images of 320×240 are rendered first for two of them.
Each figure is the median of some processes, interpreter and imports included.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cag_uda.scenes import render_folder

_COMMANDS = (
    "--version",
    "--help",
    "domains",
    "recipes",
    "recipes show demo",
    "domains new photos --overwrite",
    "check photos.toml",
)
_MAIN = "from cag_uda.cli import main; main()"


def measure(command: str, folder: Path) -> tuple[float, float, float]:
    """Run a command once.

    Args:
        command: what follows `cag-uda`.
        folder: to be in.

    Returns:
        Seconds of CPU time, of wall time, and of wall time until its first output.
    """
    before, begun = os.times(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN, *command.split()],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    first_s = time.perf_counter() - begun
    process.stdout.read()
    process.wait()
    wall_s, after = time.perf_counter() - begun, os.times()
    cpu_s = sum(after[2:4]) - sum(before[2:4])
    return cpu_s, wall_s, first_s


def main() -> None:
    """Measure every command and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render_folder(folder / "photos", "clean", range(30), 0, 240, 320, processes=1)
        print(f"{'command':32} {'CPU s':>6} {'wall s':>7} {'first output s':>15}")
        for command in _COMMANDS:
            rounds = [measure(command, folder) for _ in range(asked.rounds)]
            cpu_s, wall_s, first_s = map(statistics.median, zip(*rounds, strict=True))
            print(f"{command:32} {cpu_s:6.2f} {wall_s:7.2f} {first_s:15.2f}")


if __name__ == "__main__":
    main()
