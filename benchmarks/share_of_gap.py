"""The share of the source-only → oracle gap that each stage closes, over seeds, as Markdown.

Share = (stage − source only) / (oracle − source only), of the means over seeds; the oracle is the
better of its two networks (before and after AdaBN), so that nobody is flattered.

Usage: python benchmarks/share_of_gap.py RUN ORACLE_RUN [RUN ORACLE_RUN …]   (one pair a seed)
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def stages(run: Path) -> dict[str, dict[str, Any]]:
    """Scores of a run's stages by name."""
    scores = json.loads((run / "scores.json").read_text())
    return {stage["name"]: stage for stage in scores["stages"]}


def table(runs: list[Path], oracles: list[Path]) -> str:
    """One row a stage: mIoU of each seed, mean, interval over frames of the first, share."""
    seeds = [stages(run) for run in runs]
    ceiling = [max(100 * s["miou"] for s in stages(run).values()) for run in oracles]
    floor = float(np.mean([100 * seed["source-only"]["miou"] for seed in seeds]))
    gap = float(np.mean(ceiling)) - floor
    heads = [f"seed {number}" for number in range(len(seeds))]
    lines = [
        f"| stage | {' | '.join(heads)} | mean | gain over source-only by seed, 95 % over frames "
        "| share of the gap |",
        "|---|" + "---|" * (len(seeds) + 3),
    ]
    for name in seeds[0]:
        values = [100 * seed[name]["miou"] for seed in seeds]
        gains = [_gain(seed[name]) for seed in seeds]
        mean = float(np.mean(values))
        lines.append(_row(name, values, mean, "; ".join(gains), (mean - floor) / gap))
    lines.append(_row("oracle", ceiling, float(np.mean(ceiling)), "", 1.0))
    return "\n".join(lines)


def _gain(stage: dict[str, Any]) -> str:
    gain = stage.get("gain")
    return f"{gain['points']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]" if gain else "–"


def _row(name: str, values: list[float], mean: float, gains: str, share: float) -> str:
    seeds = " | ".join(f"{value:.1f}" for value in values)
    return f"| {name} | {seeds} | **{mean:.1f}** | {gains} | {100 * share:.0f} % |"


if __name__ == "__main__":
    paths = [Path(each) for each in sys.argv[1:]]
    if len(paths) < 2 or len(paths) % 2:
        sys.exit(__doc__)
    print(table(paths[0::2], paths[1::2]))
