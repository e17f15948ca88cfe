"""Measure what one stage has over another of the same runs, with a paired bootstrap interval.

Usage: python benchmarks/stage_gain.py FIRST SECOND RUN [RUN …]

FIRST and SECOND are names of stages, RUN… the folders of one recipe with other seeds. Two stages of
different runs are compared by FIRST=FOLDER, SECOND=FOLDER: a glob of run folders each, in place of
the runs. Prints the mIoU of each run, and the difference of the means with its 95 % interval over
test frames.
"""

import argparse
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cag_uda.evaluation.bootstrap import bootstrap_of_means
from cag_uda.evaluation.evaluate import load_frames
from cag_uda.runs.records.run import read_scores


def of_stage(name: str, runs: Sequence[Path]) -> tuple[list[float], list[NDArray[Any]]]:
    """Read a stage's mIoU in per cent, and its confusion matrix of each frame, run by run."""
    scores, frames = [], []
    for run in runs:
        read = read_scores(run)
        stage = None if read is None else read.stage(name)
        if stage is None or stage.miou is None:
            raise SystemExit(f"{run} has no scored stage {name!r}")
        scores.append(100 * stage.miou)
        frames.append(load_frames(run / "stages" / stage.folder / "frames.npz").confusions)
    return scores, frames


def main() -> None:
    """Print both stages' scores, and the gain of the first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("runs", nargs="*", type=Path)
    given = parser.parse_args()
    counted = []
    for asked in (given.first, given.second):
        name, _, pattern = asked.partition("=")
        runs = sorted(map(Path, glob(pattern))) if pattern else given.runs
        scores, frames = of_stage(name, runs)
        counted.append(frames)
        print(f"{name}: {np.mean(scores):.1f} ({', '.join(f'{each:.1f}' for each in scores)})")
    gain = bootstrap_of_means(counted[0], counted[1])
    print(f"gain: {100 * gain.difference:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]")


if __name__ == "__main__":
    main()
