"""Measure the share of CAG-plus's gain that is kept without the source, from packs, over seeds.

Of each seed: the recipe's run, in which CAG-plus begins from a source-only network and has the
source; a pack of the source-only network; and from that file mixed statistics, pooled anchors, and
as many steps of `cag-plus-source-free` as CAG-plus takes, at the learning rate that `recipes new`
writes. Share kept = (source-free − source-only) / (with source − source-only). What lies in --out
already goes on where it stopped; a finished run of the recipe may be linked there as given-SEED.

Usage: python benchmarks/source_free.py --out DIR [--data-root DIR] [--seeds 3] [--steps N]
       [--recipe cag-plus-camvid-day-dusk] [--set KEY=VALUE …]
"""

import argparse
from pathlib import Path

import numpy as np

from cag_uda.comparison.plan import last_trained
from cag_uda.models.pack import save_pack
from cag_uda.prediction.packing import pack_run
from cag_uda.recipes import Recipe, load_recipe
from cag_uda.runs.records.run import Scores
from cag_uda.runs.runner import adapt

FLOOR, GIVEN = "source-only", "answer"
"""Stages of the recipe: the baseline, and the last one."""
STATISTICS, UNTRAINED, FREE = "statistics", "training-free", "source-free"
"""Stages from the pack."""
LEARNING_RATE = 1e-4
"""Of the source-free stage."""


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, help="of every stage that trains; default: the recipe's"
    )
    parser.add_argument("--recipe", default="cag-plus-camvid-day-dusk")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    asked = parser.parse_args()
    rows = []
    for seed in range(asked.seeds):
        changes = [*asked.changes, f"seed={seed}"]
        recipe = load_recipe(asked.recipe, changes, asked.data_root)
        if asked.steps is not None:
            recipe = load_recipe(
                asked.recipe, [*changes, f"stages.*.steps={asked.steps}"], asked.data_root
            )
        rows.append(one_seed(recipe, asked.out, seed))
        print(table(rows), flush=True)


def one_seed(recipe: Recipe, out: Path, seed: int) -> dict[str, float]:
    """The mIoU, in per cent, of one seed's networks by stage."""
    scores = finished(recipe, out / f"given-{seed}")
    pack = out / f"pack-{seed}.safetensors"
    if not pack.exists():
        save_pack(pack, pack_run(out / f"given-{seed}", stage=FLOOR).pack)
    of_free = finished(from_pack(recipe, pack), out / f"free-{seed}")
    found = {FLOOR: scores, GIVEN: scores} | dict.fromkeys((STATISTICS, UNTRAINED, FREE), of_free)
    stages = {name: each.stage(name) for name, each in found.items()}
    return {
        name: 100 * stage.miou
        for name, stage in stages.items()
        if stage is not None and stage.miou is not None
    }


def from_pack(recipe: Recipe, pack: Path) -> Recipe:
    """The recipe of the house that has the pack alone."""
    whole = recipe.model_dump(mode="json", exclude_none=True)
    trained = last_trained(recipe.stages).model_dump(mode="json", exclude_none=True)
    trained["optim"]["learning_rate"] = LEARNING_RATE
    stages = [
        {"name": STATISTICS, "method": {"name": "adabn"}},
        {"name": UNTRAINED, "method": {"name": "anchor-classifier"}},
        trained | {"name": FREE, "method": {"name": "cag-plus-source-free"}},
    ]
    whole |= {"source": [], "pack": str(pack.resolve()), "stages": stages}
    whole["segmenter"].pop("weights", None)
    whole["loading"]["rare_class_temperature"] = 0.0
    return Recipe.model_validate(whole)


def finished(recipe: Recipe, out: Path) -> Scores:
    """The scores of a run, which is begun, or goes on, where it is not finished."""
    return adapt(recipe, out, resume=(out / "recipe.toml").exists()).scores


def table(rows: list[dict[str, float]]) -> str:
    """One row a seed, and their mean: mIoU in per cent, and the share of the gain that is kept."""
    names = (FLOOR, STATISTICS, UNTRAINED, FREE, GIVEN)
    heads = (*names[:-1], "with source")
    lines = [f"| seed | {' | '.join(heads)} | share kept |", "|---|" + "---:|" * (len(names) + 1)]
    mean = {name: float(np.mean([row[name] for row in rows])) for name in names}
    for title, row in [*((str(number), row) for number, row in enumerate(rows)), ("mean", mean)]:
        gain = row[GIVEN] - row[FLOOR]
        share = f"{100 * (row[FREE] - row[FLOOR]) / gain:.0f} %" if gain > 0 else "no gain"
        lines.append(f"| {title} | {' | '.join(f'{row[name]:.1f}' for name in names)} | {share} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
