"""Measure what the runs of a comparison would deliver by the verdict, without target labels.

A comparison scores each method's last network; `adapt` by itself delivers the one of all stages
with the highest estimated IoU, where that is above source-only's. This tells which
that is in each run, and its mIoU on the target's test images. The verdict's veto of networks whose
predictions have collapsed is left out.

Usage: python benchmarks/delivered.py OUT METHOD [METHOD …]

OUT is the folder of `cag-uda compare`; it holds source-only-SEED and METHOD-SEED.
"""

import argparse
from pathlib import Path
from statistics import mean, stdev

from cag_uda.runs.records.run import read_scores
from cag_uda.runs.selection import EVIDENCE, Checkpoint, checkpoints

FLOOR = "source-only"


def miou_of(run: Path, stage: str) -> float:
    """Read the mIoU, in per cent, of a stage's network."""
    scores = read_scores(run)
    found = None if scores is None else scores.stage(stage)
    if found is None or found.miou is None:
        raise SystemExit(f"{run}: stage {stage} has no score")
    return 100 * found.miou


def estimated(network: Checkpoint) -> float:
    """Estimate a network's mIoU on the target as the verdict does."""
    return mean(network.criteria[each] for each in EVIDENCE)


def delivered(out: Path, method: str, seed: str) -> tuple[str, float, float]:
    """Find what is delivered: the stage's name, its mIoU, and the mIoU of the last stage."""
    floor_run, run = out / f"{FLOOR}-{seed}", out / f"{method}-{seed}"
    floor = next(each for each in checkpoints(floor_run) if each.stage == FLOOR)
    ends = {each.stage: each for each in checkpoints(run)}
    chosen = max(reversed(ends.values()), key=estimated)
    last = miou_of(run, list(ends)[-1])
    if estimated(chosen) <= estimated(floor):
        return FLOOR, miou_of(floor_run, FLOOR), last
    return chosen.stage, miou_of(run, chosen.stage), last


def main() -> None:
    """Print a row for each method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("methods", nargs="+")
    asked = parser.parse_args()
    print("| method | delivered | mIoU by seed | mean | last network |\n|---|---|---|---:|---:|")
    for method in asked.methods:
        runs = sorted(asked.out.glob(f"{method}-[0-9]*"))
        found = [delivered(asked.out, method, run.name.removeprefix(f"{method}-")) for run in runs]
        if not found:
            raise SystemExit(f"{asked.out} has no run of {method}")
        stages, mious, last = zip(*found, strict=True)
        spread = f" ± {stdev(mious):.1f}" if len(mious) > 1 else ""
        by_seed = ", ".join(f"{value:.1f}" for value in mious)
        print(
            f"| {method} | {', '.join(stages)} | {by_seed} | {mean(mious):.1f}{spread} "
            f"| {mean(last):.1f} |"
        )


if __name__ == "__main__":
    main()
