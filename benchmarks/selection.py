"""Judge label-free criteria as rankings of networks: correlation with the true mIoU, and regret.

Usage: python benchmarks/selection.py RUN [RUN …] [--json FILE]

Every checkpoint of every run counts: each stage's network, and what was recorded within a stage at
its evaluations (recipe setting `evaluate_every`). Runs of one source and target are taken together.
For each criterion, and each ensemble of ranks,

    ρ        Spearman's rank correlation with the mIoU over all checkpoints of the pair, those that
             several runs share (the warm-up of CAG's ablation) once;
    ρ in     its mean over the runs of three checkpoints or more: telling a run's own stages apart;
    regret   best mIoU − mIoU of the checkpoint that it chooses, in points, over all of the pair;
    in runs  the mean regret where it chooses within each run.

Oracles are left out. "last" always takes a run's last checkpoint, "any" is the mean of all. Below
stands what recording the criteria took, as a share of the time of training. Labels of the target
are read here alone, to judge the criteria; `cag-uda select` and `deliver` never see them.
"""

import argparse
import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from cag_uda.errors import RunError
from cag_uda.files import write_json
from cag_uda.runs.records.base import parse_line
from cag_uda.runs.records.run import read_scores
from cag_uda.runs.records.stage import METRICS, MetricsLine, read_criteria
from cag_uda.runs.selection import Checkpoint, best, checkpoints, rank_of, ranks
from cag_uda.types import CriterionName

FEWEST = 3
"""Checkpoints below which a rank correlation says nothing."""


@dataclass(frozen=True)
class Judged:
    """A checkpoint and what it truly scores."""

    checkpoint: Checkpoint
    miou: float


def judged_checkpoints(run: Path) -> tuple[str, list[Judged]]:
    """The pair of domains of a run, and its checkpoints of which the mIoU is known."""
    scores = read_scores(run)
    if scores is None or scores.source is None or scores.target is None:
        raise RunError(f"{run} holds no scores; give a run whose target has labels")
    true: dict[tuple[str, int], float] = {}
    for stage in scores.stages:
        if stage.miou is not None and stage.steps is not None:
            true[stage.name, stage.steps] = stage.miou
        log = run / "stages" / stage.folder / METRICS
        for line in log.read_text().splitlines() if log.exists() else []:
            record = parse_line(MetricsLine, line)
            if record is not None and "miou" in (record.scores or {}):
                true[stage.name, record.step] = (record.scores or {})["miou"]
    found = [
        Judged(each, true[each.stage, each.step])
        for each in checkpoints(run)
        if (each.stage, each.step) in true
    ]
    first, *others = scores.source.split(" + ")
    domain = scores.target.split("/")[0]
    if any(other.split("/")[0] == domain for other in others):
        found = []  # An oracle, whose second source is the target: nobody has it to choose.
    return f"{first} → {scores.target}", found


def cost(run: Path) -> tuple[float, float]:
    """Seconds that the measurement of a run's criteria took, and those of its training."""
    scores = read_scores(run)
    stages = scores.stages if scores else []
    records = [each for stage in stages for each in read_criteria(run / "stages" / stage.folder)]
    # Runs of earlier versions do not say.
    times = [math.nan if each.elapsed_s is None else each.elapsed_s for each in records]
    return sum(times), sum(stage.elapsed_s or 0.0 for stage in stages)


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Rank correlation of two rows of numbers, equals sharing their ranks; NaN for constants."""
    a, b = rank_of(one), rank_of(other)
    if len(a) < FEWEST or a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def correlation(judged: list[Judged], criterion: str) -> float:
    """Return Spearman's rank correlation of a criterion with the mIoU: 1 for the same ranking."""
    by_criterion = ranks([each.checkpoint for each in judged], criterion)
    return spearman(-by_criterion, np.array([each.miou for each in judged]))


def regret(judged: list[Judged], criterion: str) -> float:
    """Points of mIoU that its choice is below the best."""
    chosen = best([each.checkpoint for each in judged], criterion)
    miou = next(each.miou for each in judged if each.checkpoint is chosen)
    return 100 * (max(each.miou for each in judged) - miou)


def distinct(runs: list[list[Judged]]) -> list[Judged]:
    """The checkpoints of all runs; of one that several runs share, as it was copied, the first."""
    found: dict[tuple[object, ...], Judged] = {}
    for each in itertools.chain(*runs):
        found.setdefault((each.miou, *sorted(each.checkpoint.criteria.items())), each)
    return list(found.values())


def table_of(runs: list[list[Judged]]) -> dict[str, dict[str, float]]:
    """Every figure of every criterion over the runs of one pair."""
    everything = distinct(runs)
    names = get_args(CriterionName)
    ensembles = ["+".join(names)]
    ensembles += ["+".join(pair) for pair in itertools.combinations(names, 2)]
    rows: dict[str, dict[str, float]] = {}
    for criterion in (*names, *ensembles):
        inside = [correlation(run, criterion) for run in runs]
        inside = [value for value in inside if not math.isnan(value)]
        rows[criterion] = {
            "rho": correlation(everything, criterion),
            "rho_in_runs": float(np.mean(inside)) if inside else math.nan,
            "regret": regret(everything, criterion),
            "regret_in_runs": float(np.mean([regret(run, criterion) for run in runs])),
        }
    short = [100 * (max(e.miou for e in run) - np.array([e.miou for e in run])) for run in runs]
    rows["last"] = {"regret_in_runs": float(np.mean([each[-1] for each in short]))}
    rows["any"] = {"regret_in_runs": float(np.mean([each.mean() for each in short]))}
    return rows


def to_markdown(pair: str, rows: dict[str, dict[str, float]], count: int, runs: int) -> str:
    """One table a pair; single criteria first, then ensembles by their rank correlation."""
    lines = [
        f"### {pair}: {count} checkpoints of {runs} runs",
        "",
        "| criterion | ρ | ρ in runs | regret | regret in runs |",
        "|---|---:|---:|---:|---:|",
    ]
    single = [name for name in rows if "+" not in name]
    several = sorted((name for name in rows if "+" in name), key=lambda name: -rows[name]["rho"])
    for name in (*single, *several):
        figures = [
            rows[name].get(key, math.nan)
            for key in ("rho", "rho_in_runs", "regret", "regret_in_runs")
        ]
        shown = [
            "–" if math.isnan(value) else f"{value:.{digits}f}"
            for value, digits in zip(figures, (2, 2, 1, 1), strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Print one table for each pair of domains."""
    parser = argparse.ArgumentParser(description="Label-free criteria, judged by labels.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    by_pair: dict[str, list[list[Judged]]] = defaultdict(list)
    finished = [run for run in arguments.runs if (run / "scores.json").is_file()]
    for run in finished:
        pair, judged = judged_checkpoints(run)
        if judged:
            by_pair[pair].append(judged)
    tables = {pair: table_of(runs) for pair, runs in by_pair.items()}
    for pair, rows in tables.items():
        count = len(distinct(by_pair[pair]))
        print(to_markdown(pair, rows, count, len(by_pair[pair])) + "\n")
    timed = [each for each in map(cost, finished) if not math.isnan(each[0])]
    if timed:
        share = sum(measured for measured, _ in timed) / sum(trained for _, trained in timed)
        print(f"criteria took {100 * share:.1f} % of the training time of {len(timed)} runs")
    if arguments.json:
        plain = {
            pair: {
                name: {key: None if math.isnan(value) else value for key, value in row.items()}
                for name, row in rows.items()
            }
            for pair, rows in tables.items()
        }
        write_json(arguments.json, plain)


if __name__ == "__main__":
    main()
