"""Measure what pieces of CAG-plus and of CAG bring, on pairs on which settings may be chosen.

Usage: python benchmarks/pieces.py FOLDER [--pairs A,B,…] [--variants A,B,…] [--seeds N]
           [--steps N] [--rare-classes T] [--photometric STRENGTH] [--data-root DIR]

Makes pairs of `benchmarks/shifted_pairs.py` in FOLDER/pairs and runs `adapt` on each, every seed
in FOLDER/runs/PAIR-SEED: first seed 0 of all pairs. All variants of a run take as many steps from
the initial network, and each ends with adapted anchors pooled into the classifier. What is finished
is not repeated, and what was interrupted goes on.

Take another FOLDER for other options.

Prints the mean difference in mIoU points to the defaults, after training and after pooling, with a
95 % bootstrap interval over the runs, and the difference on each pair.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from shifted_pairs import make, recipe_on
from verdict import OPTIM

from cag_uda import adapt
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import INITIAL
from cag_uda.runs.records.run import read_scores


class Variant(NamedTuple):
    """A form of CAG-plus, or a rival."""

    method: Mapping[str, Any] = {}
    """Settings of the stage that differ from the defaults."""
    warmup: float = 0.0
    """Share of the steps that come before."""
    before: str = "source-only"
    """Method of these."""
    mixes: bool = False
    """True: the target's batch-norm statistics are mixed in after these."""
    pools: bool = False
    """True: adapted anchors are pooled into the classifier after that."""
    stages: int = 1
    """Stages that share the other steps."""


DEFAULT = "default"
CAG = {"name": "cag", "labels": ("adapted",), "class_balance": 1.0, "distance_weight": 0.0}
COLOURS = {"colour_transfer": True}
VARIANTS = {
    DEFAULT: Variant(),
    "dacs": Variant({"name": "dacs"}),
    "source-only": Variant({"name": "source-only"}),
    "warmup": Variant(warmup=0.25),
    "begun": Variant(warmup=0.5, mixes=True, pools=True),
    "begun-third": Variant(warmup=1 / 3, mixes=True, pools=True),
    "begun-source-only": Variant(warmup=0.5),
    "hard": Variant({"label_temperature": 0.0}),
    "unsharpened": Variant({"label_temperature": 1.0}),
    "pixel-weights": Variant({"confidence": 0.0}),
    "teacher-none": Variant({"momentum": 0.0}),
    "colours": Variant(COLOURS),
    "colour-transfer": Variant({"name": "colour-transfer"}),
    "cag": Variant(CAG, warmup=0.5, mixes=True, stages=3),
    "cag-late": Variant(CAG, warmup=0.75, mixes=True, pools=True, stages=3),
    "cag-colours": Variant(
        CAG | COLOURS, warmup=0.5, before="colour-transfer", mixes=True, stages=3
    ),
    "mask": Variant({"mask": {"probability": 0.5, "block": 0.1}}),
}
CHOSEN = ("drives", "drives-dark", "rendered", "building-least")


def recipe_of(
    name: str,
    variants: Sequence[str],
    pairs: Path,
    seed: int,
    steps: int,
    loading: Mapping[str, float],
) -> Recipe:
    """Write the recipe of a run: for each variant a stage, after its warm-up, and pooling.

    `loading` are settings of the loader that differ.
    """
    stages: list[dict[str, Any]] = []

    def add(called: str, start: str, count: int, **settings: Any) -> None:
        trained = {"steps": count, "optim": OPTIM} if count else {}
        stages.append({"name": called, "start": start, **trained, **settings})

    for each in variants:
        variant, start = VARIANTS[each], INITIAL
        count = round(variant.warmup * steps)
        if count:
            add(f"{each}-before", start, count, method={"name": variant.before})
            start = f"{each}-before"
        if variant.mixes:
            add(f"{each}-statistics", start, 0, method={"name": "adabn"})
            start = f"{each}-statistics"
        if variant.pools:
            add(f"{each}-free", start, 0, method={"name": "anchor-classifier"})
            start = f"{each}-free"
        method = {"name": "cag-plus", **variant.method}
        for stage in [*(f"{each}-{number}" for number in range(1, variant.stages)), each]:
            add(stage, start, (steps - count) // variant.stages, method=method)
            start = stage
        add(f"{each}-pooled", each, 0, method={"name": "anchor-classifier"})
    recipe = recipe_on(name, pairs, f"pieces-{name}", stages, seed=seed, deliver="last")
    return recipe.model_copy(update={"loading": recipe.loading.model_copy(update=dict(loading))})


def gains_of(run: Path, variants: Sequence[str]) -> list[tuple[float, float]]:
    """Read the mIoU points over the defaults of each variant, after training and after pooling."""
    scores = read_scores(run)
    assert scores is not None, f"{run} is finished"
    miou = {each.name: 100 * (each.miou or 0.0) for each in scores.stages}
    return [
        (miou[each] - miou[DEFAULT], miou[f"{each}-pooled"] - miou[f"{DEFAULT}-pooled"])
        for each in variants
    ]


def with_interval(values: np.ndarray[Any, Any]) -> str:
    """Show a mean with its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return f"{values.mean():+.2f} [{low:+.1f}, {high:+.1f}]"


def tell(gains: np.ndarray[Any, Any], variants: Sequence[str], pairs: Sequence[str]) -> None:
    """Print the table of gains (seeds, pairs, variants, 2)."""
    print(f"\n{len(gains)} seed(s); mIoU points over the defaults\n")
    print(f"| variant | after training | pooled | {' | '.join(pairs)} |")
    print("|---|---:|---:|" + "---:|" * len(pairs))
    for index, name in enumerate(variants):
        if name == DEFAULT:
            continue
        of = gains[:, :, index]
        each = " | ".join(f"{a:+.1f}, {b:+.1f}" for a, b in of.mean(axis=0))
        whole = " | ".join(with_interval(of[..., end].ravel()) for end in (0, 1))
        print(f"| {name} | {whole} | {each} |", flush=True)


def main() -> None:
    """Take every run that is missing; print the table after each seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", default=",".join(CHOSEN))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument(
        "--rare-classes", type=float, default=0.0, help="rare_class_temperature of the loader"
    )
    parser.add_argument("--photometric", type=float, default=0.5, help="strength in the loader")
    parser.add_argument("--data-root", type=Path)
    given = parser.parse_args()
    loading = {"rare_class_temperature": given.rare_classes, "photometric": given.photometric}
    torch.rand(1_000_000).sqrt()
    pairs = given.pairs.split(",")
    variants = list(dict.fromkeys([DEFAULT, *given.variants.split(",")]))
    gains: list[list[list[tuple[float, float]]]] = []
    for seed in range(given.seeds):
        gains.append([])
        for name in pairs:
            make(name, given.folder / "pairs", given.data_root)
            out = given.folder / "runs" / f"{name}-{seed}"
            if not (out / "report.html").is_file():
                made = (given.folder / "pairs").absolute()
                recipe = recipe_of(name, variants, made, seed, given.steps, loading)
                adapt(recipe, out, resume=(out / "recipe.toml").is_file(), progress=True)
            gains[-1].append(gains_of(out, variants))
        tell(np.array(gains), variants, pairs)


if __name__ == "__main__":
    main()
