"""Measure how often the verdict of `adapt` is right, and the mIoU that is lost where it is wrong.

Usage: python benchmarks/verdict.py FOLDER [--pairs A,B,…] [--seeds N] [--steps SCALE]
           [--kinds A,B,…] [--data-root DIR] [--only-judge]

Makes the pairs of `benchmarks/shifted_pairs.py` in FOLDER/pairs and runs `adapt` on each with every
seed in FOLDER/runs/PAIR-SEED: first seed 0 of all pairs. What is finished is not repeated, and what
was interrupted goes on. A run holds a source-only network and what several kinds of adaptation
make of the same source and target: mixed statistics, the target's statistics, alignment by a
discriminator, CAG with adapted anchors, CAG-plus, and three of them with adapted anchors pooled
into the classifier; every stage's network is kept. `--kinds` makes some of them alone in runs that
are not begun yet.

Then holds the verdict on each kind, found without labels of the target, against its mIoU: how often
the safe choice is the better of both, and the mean regret in mIoU points beside that of delivering
always the adapted network and always source-only. Labels of the target are read here alone.
"""

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from shifted_pairs import PAIRS, make, recipe_on

from cag_uda import adapt
from cag_uda.recipes import Recipe, load_recipe
from cag_uda.runs.criteria import record_missing
from cag_uda.runs.records.run import Verdict, read_scores
from cag_uda.runs.selection import DEFAULT_CRITERION, checkpoints, ordered, rank_of, ranks
from cag_uda.runs.verdict import judge
from cag_uda.types import CriterionName

FLOOR = "source-only"
CLEAR_POINTS = 2.0
"""Difference in mIoU points beyond which a wrong verdict counts."""
KINDS = {
    "alpha-bn": "mixed statistics",
    "adabn": "the target's statistics",
    "aligned": "alignment of outputs",
    "cag": "CAG from the training-free network",
    "cag-plus": "CAG-plus from the training-free network",
    "pooled": "mixed statistics, anchors pooled",
    "cag-pooled": "CAG, anchors pooled",
    "cag-plus-pooled": "CAG-plus, anchors pooled",
}
"""Stage whose network an adaptation delivers → what it is."""

RECIPES = {
    "AdaBN": (FLOOR, "adabn"),
    "mixed statistics": (FLOOR, "alpha-bn"),
    "training-free": (FLOOR, "alpha-bn", "pooled"),
    "CAG-plus": (FLOOR, "cag-plus", "cag-plus-pooled"),
    "recipes new": (FLOOR, "alpha-bn", "pooled", "cag-plus", "cag-plus-pooled"),
}
"""Stages of recipes, such that the verdict chooses among them."""

OPTIM: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 4e-4,
    "head_multiplier": 4.0,
    "weight_decay": 0.01,
    "warmup_steps": 20,
    "clip_norm": 1.0,
}


def recipe_of(
    name: str, folder: Path, seed: int, scale: float, kinds: Collection[str] = tuple(KINDS)
) -> Recipe:
    """Write the recipe of a run: the kinds share their source-only and warmed-up networks."""

    def stage(called: str, start: str, steps: int, **settings: Any) -> dict[str, Any]:
        table: dict[str, Any] = {"name": called, "start": start, "method": settings}
        if steps:
            table |= {"steps": max(2, round(scale * steps)), "optim": OPTIM}
        return table

    stages = [
        stage(FLOOR, "initial", 240, name="source-only"),
        stage("alpha-bn", FLOOR, 0, name="adabn"),
        stage("adabn", FLOOR, 0, name="adabn", target_share=1.0),
        stage("warmup", "initial", 100, name="source-only"),
        stage("aligned", "warmup", 60, name="adversarial", discriminator_channels=16),
        stage("pooled", "alpha-bn", 0, name="anchor-classifier"),
        stage("cag", "pooled", 60, name="cag", labels=["adapted"], distance_weight=0.0),
        stage("cag-plus", "pooled", 240, name="cag-plus"),
        stage("cag-pooled", "cag", 0, name="anchor-classifier"),
        stage("cag-plus-pooled", "cag-plus", 0, name="anchor-classifier"),
    ]
    starts = {each["name"]: each["start"] for each in stages}
    needed: set[str] = {FLOOR}
    for kind in kinds:
        while kind in starts:  # "initial" is no stage.
            needed.add(kind)
            kind = starts[kind]
    stages = [each for each in stages if each["name"] in needed]
    return recipe_on(name, folder, f"verdict-{name}", stages, seed=seed)


def run(
    names: list[str],
    seeds: int,
    scale: float,
    kinds: Collection[str],
    folder: Path,
    data_root: Path | None,
) -> None:
    """Make what is missing."""
    for name in names:
        make(name, folder / "pairs", data_root)
    for seed in range(seeds):
        for name in names:
            out = folder / "runs" / f"{name}-{seed}"
            if not (out / "report.html").is_file():
                print(f"{name}, seed {seed}", flush=True)
                begun = out / "recipe.toml"
                made = (folder / "pairs").absolute()
                recipe = begun if begun.is_file() else recipe_of(name, made, seed, scale, kinds)
                adapt(recipe, out, resume=begun.is_file(), progress=True)


class Case(NamedTuple):
    """One kind of adaptation in one run."""

    pair: str
    run: Path
    kind: str
    gain: float
    """mIoU points over source-only, by the labels of the target's test images."""
    verdict: Verdict


def cases_of(name: str, run: Path) -> list[Case]:
    """Judge every kind of a finished run by itself, as if it were all that the run had made."""
    if not (run / "report.html").is_file():
        return []
    scores = read_scores(run)
    assert scores is not None, "a finished run is scored"
    found = {each.name: each.miou for each in scores.stages}
    record_missing(run)
    recipe = load_recipe(run / "recipe.toml")
    cases = []
    for kind in (each for each in KINDS if each in found):
        verdict = judge(run, recipe, only=[FLOOR, kind])
        before, after = found[FLOOR], found[kind]
        assert isinstance(verdict, Verdict), f"{run} has no criteria"
        assert before is not None, "every pair is scored"
        assert after is not None, "every pair is scored"
        cases.append(Case(name, run, kind, 100 * (after - before), verdict))
    return cases


def is_right(case: Case) -> bool:
    """Tell whether the safe choice is the better one of both."""
    return (case.verdict.safe == case.kind) == (case.gain > 0)


def row_of(of: str, cases: Sequence[Case]) -> str:
    """Sum up cases: how often the verdict is right, and mean regrets in mIoU points."""
    clear = [case for case in cases if abs(case.gain) > CLEAR_POINTS]
    right = sum(map(is_right, clear))
    last = mean(max(0.0, -case.gain) for case in cases)
    never = mean(max(0.0, case.gain) for case in cases)
    safe = mean(0.0 if is_right(case) else abs(case.gain) for case in cases)
    worst = min(case.gain if case.verdict.safe == case.kind else 0.0 for case in cases)
    share = f"{right} of {len(clear)} ({right / max(1, len(clear)):.0%})"
    return f"| {of} | {share} | {safe:.2f} | {last:.2f} | {never:.2f} | {worst:+.1f} |"


def tell_pairs(runs: Sequence[Path]) -> None:
    """Print mIoU points over source-only by pair, mean over seeds: last stage, and delivered."""
    gains: dict[str, list[list[float]]] = {}
    recipes = dict(RECIPES)
    for run in runs:
        made = {stage.name for stage in load_recipe(run / "recipe.toml").stages}
        recipes = {name: of for name, of in recipes.items() if made >= set(of)}
    for run in runs:
        scores = read_scores(run)
        assert scores is not None, "cases were made of it"
        miou = {each.name: 100 * (each.miou or 0.0) for each in scores.stages}
        recipe = load_recipe(run / "recipe.toml")
        found = []
        for names in recipes.values():
            verdict = judge(run, recipe, only=names)
            assert isinstance(verdict, Verdict), f"{run} has no criteria"
            found += [miou[names[-1]] - miou[FLOOR], miou[verdict.safe] - miou[FLOOR]]
        gains.setdefault(run.name.rpartition("-")[0], []).append(found)
    print(f"\n| pair | {' | '.join(f'{name}: last | delivered' for name in recipes)} |")
    print("|---|" + "---:|" * 2 * len(recipes))
    for pair, rows in gains.items():
        means = [mean(column) for column in zip(*rows, strict=True)]
        print(f"| {pair} | {' | '.join(f'{value:+.1f}' for value in means)} |")
    means = [
        mean(column) for column in zip(*(row for of in gains.values() for row in of), strict=True)
    ]
    print(f"| all | {' | '.join(f'{value:+.1f}' for value in means)} |")


def rank_networks(runs: Sequence[Path]) -> None:
    """Print how well each criterion ranks source-only and the kinds of a run."""
    regrets: dict[str, list[float]] = {}
    correlations: dict[str, list[float]] = {}
    for run in runs:
        scores = read_scores(run)
        assert scores is not None, "cases were made of it"
        miou = {each.name: 100 * (each.miou or 0.0) for each in scores.stages}
        ends = {each.stage: each for each in checkpoints(run)}
        names = [name for name in (FLOOR, *KINDS) if name in miou]
        found = [ends[name] for name in names]
        truth = rank_of(np.array([-miou[name] for name in names]))
        for criterion in (*get_args(CriterionName), DEFAULT_CRITERION, "infomax+source-miou"):
            chosen = ordered(found, criterion)[0][1].stage
            best = max(miou[name] for name in names)
            regrets.setdefault(criterion, []).append(best - miou[chosen])
            correlation = np.corrcoef(ranks(found, criterion), truth)[0, 1]
            correlations.setdefault(criterion, []).append(float(correlation))
    print("\n| criterion | regret of its first | rank correlation with mIoU |\n|---|---:|---:|")
    for criterion, each in regrets.items():
        print(f"| {criterion} | {mean(each):.2f} | {mean(correlations[criterion]):+.2f} |")


def tell(cases: Sequence[Case]) -> None:
    """Print the tables."""
    print("\n| pair | mIoU points over source-only, and the verdict |\n|---|---|")
    for name in dict.fromkeys(case.pair for case in cases):
        told = ", ".join(
            f"{case.kind} {case.gain:+.1f} {case.verdict.says}{'' if is_right(case) else ': wrong'}"
            for case in cases
            if case.pair == name
        )
        print(f"| {name} | {told} |")
    print(
        f"\n| cases | right, where the difference exceeds {CLEAR_POINTS:g} points | regret: safe "
        "| always adapted | always source-only | worst delivered |\n|---|---|---:|---:|---:|---:|"
    )
    for kind, what in KINDS.items():
        if chosen := [case for case in cases if case.kind == kind]:
            print(row_of(what, chosen))
    for role in ("choose", "report"):
        chosen = [case for case in cases if PAIRS[case.pair].role == role]
        if chosen:
            print(row_of(f'all, pairs of role "{role}"', chosen))
    print(row_of("all", cases))


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", help="names, joined by commas; left out, all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=float, default=1.0, help="all numbers of steps times this")
    parser.add_argument("--kinds", help="of adaptation, joined by commas; left out, all")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--only-judge", action="store_true", help="of the runs that are there")
    given = parser.parse_args()
    torch.rand(1_000_000).sqrt()
    names = given.pairs.split(",") if given.pairs else list(PAIRS)
    if unknown := [name for name in names if name not in PAIRS]:
        parser.error(f"no pair {', '.join(unknown)}; there are {', '.join(PAIRS)}")
    kinds = given.kinds.split(",") if given.kinds else list(KINDS)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"no kind {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if not given.only_judge:
        run(names, given.seeds, given.steps, kinds, given.folder, given.data_root)
    runs = [
        (name, given.folder / "runs" / f"{name}-{n}") for n in range(given.seeds) for name in names
    ]
    cases = [case for name, run in runs for case in cases_of(name, run)]
    print(f"{len({case.run for case in cases})} runs, {len(cases)} cases")
    clear = [case for case in cases if abs(case.gain) > CLEAR_POINTS]
    print(
        f"source-only is the better in {mean(case.gain < 0 for case in clear):.0%} of clear cases"
    )
    tell(cases)
    judged = {case.run: None for case in cases}
    tell_pairs(list(judged))
    rank_networks(list(judged))


if __name__ == "__main__":
    main()
