"""mIoU against the number of target images that have labels, chosen by `suggest` and at random.

Usage: python benchmarks/labels.py RECIPE [RECIPE …] --out DIR [--data-root DIR] [--seeds 3]
           [--counts 5,10,20,all] [--criteria NAMES] [--set KEY=VALUE …]

For each recipe, whose target's training split has labels on this disk, and each seed: the stages
that learn from no label of the target are taken once; from their network, the other stages are
taken without labels, with those of the images that `suggest` chooses by the run without labels, of
as many that are drawn at random, and of all images if the counts name `all`. The labels are the
data set's own: what a person would have drawn.

What is finished is kept below DIR and not taken again; a run that was stopped goes on. The table,
mean over seeds and each seed, is printed after every run and stands in DIR/RECIPE/labels.json.
"""

import argparse
import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import tomli_w

from cag_uda.data.domains.builtin import domain_files
from cag_uda.data.domains.domain import Domain
from cag_uda.data.files.patterns import escaped
from cag_uda.files import write_json, write_text
from cag_uda.methods import METHODS
from cag_uda.prediction.suggest import DEFAULT_CRITERIA, Asked, suggest
from cag_uda.recipes import Recipe, load_recipe
from cag_uda.recipes.schema import TargetLabels
from cag_uda.runs.runner import adapt

NONE, ALL = "none", "all"
Cell = tuple[str, int | str]
"""The way images were chosen, and their number; ("none", 0) and ("all", "all") for no image and
for every one."""


def stages_of(recipe: Recipe, learns: bool) -> Recipe:
    """The recipe with the stages before the first that learns from labels, or those from it on."""
    uses = [METHODS[stage.method.name].learns_from_target_labels for stage in recipe.stages]
    first = uses.index(True)
    if any(stage.start is not None for stage in recipe.stages[first + 1 :]):
        raise SystemExit(f"{recipe.name}: stages that learn from labels must follow each other")
    if not learns:
        # Only what the first of the others starts from, and what that starts from.
        wanted, chain = recipe.start_of(first), []
        names = [stage.name for stage in recipe.stages]
        while wanted in names:
            index = names.index(wanted)
            chain.append(recipe.stages[index])
            wanted = recipe.start_of(index)
        stages = [each.model_copy(update={"start": None}) for each in reversed(chain)]
    else:
        stages = [recipe.stages[first].model_copy(update={"start": None})]
        stages += recipe.stages[first + 1 :]
    return recipe.model_copy(update={"stages": tuple(stages), "deliver": "last"})


def with_labels(recipe: Recipe, keys: Sequence[str], file: Path) -> Recipe:
    """The recipe that trains on labels of some images, which a domain file then lists."""
    name, split = recipe.target.domain, recipe.target.train
    root = None if recipe.data_root is None else Path(recipe.data_root)
    domain = Domain.open(name, root)
    place = Path(name) if name.endswith(".toml") else domain_files()[name]
    table = tomllib.loads(place.read_text(encoding="utf-8"))
    items = {item.key: item for item in domain.items(split)}
    below = domain.root()
    pairs = [(items[key].image, items[key].label) for key in keys]
    table["root"] = str(below.absolute())
    if table.pop("rendered", None):
        table["labels"] = {"encoding": "ids"}
    table["splits"] = {
        "train": {
            "images": [escaped(str(image.relative_to(below))) for image, _ in pairs],
            "labels": [escaped(str(label.relative_to(below))) for _, label in pairs if label],
        }
    }
    write_text(file, tomli_w.dumps(table))
    return labelled(recipe, TargetLabels(domain=str(file.absolute()), split="train"))


def labelled(recipe: Recipe, which: TargetLabels) -> Recipe:
    """The recipe with labels of the target."""
    return recipe.model_copy(
        update={"target": recipe.target.model_copy(update={"labelled": which})}
    )


def run(recipe: Recipe, out: Path) -> float:
    """Take a run, or go on with it; its mIoU in per cent."""
    done = adapt(recipe, out, resume=(out / "recipe.toml").exists(), progress=True)
    miou = done.scores.stages[-1].miou
    if miou is None:
        raise SystemExit(f"{recipe.name}: the target has no labelled test split")
    return 100 * miou


def runs_of(
    recipe: Recipe, seed: int, counts: Sequence[str], criteria: tuple[str, ...], out: Path
) -> Iterator[tuple[Cell, float]]:
    """Every run of a seed, one after the other."""
    recipe = recipe.model_copy(update={"seed": seed})
    warm = stages_of(recipe, learns=False)
    if warm.stages:
        run(warm, out / "warm")
        start = str((out / "warm" / "model").absolute())
        segmenter = recipe.segmenter.model_copy(update={"start": start, "weights": None})
        recipe = recipe.model_copy(update={"segmenter": segmenter})
    recipe = stages_of(recipe, learns=True)
    yield (NONE, 0), run(recipe, out / NONE)
    for how, names in (("suggest", criteria), ("random", ("random",))):
        for count in (int(each) for each in counts if each != ALL):
            folder = out / f"{how}-{count}"
            # A ranking for each number: how far apart frames shall be depends on it.
            asked = Asked(count, names, (), seed=seed, overwrite=True)
            file = folder.with_suffix(".toml")
            if not file.exists():
                made = suggest(str(out / NONE), folder.with_name(f"{folder.name}-images"), asked)
                given = with_labels(recipe, [each.key for each in made.images], file)
            else:
                given = labelled(recipe, TargetLabels(domain=str(file.absolute()), split="train"))
            yield (how, count), run(given, folder)
    if ALL in counts:
        yield (ALL, ALL), run(labelled(recipe, TargetLabels(split=recipe.target.train)), out / ALL)


def to_markdown(name: str, found: Mapping[Cell, Sequence[float]]) -> str:
    """One row a cell: the mean, each seed, and the share of the way from none to all."""
    lines = [f"### {name}", "", "| chosen | images | mIoU | seeds | share of the gap |"]
    lines.append("|---|---:|---:|---|---:|")
    ends = [mean(found[each]) if each in found else math.nan for each in ((NONE, 0), (ALL, ALL))]
    for (how, count), values in found.items():
        share = 100 * (mean(values) - ends[0]) / (ends[1] - ends[0])
        shown = "–" if not np.isfinite(share) else f"{share:.0f} %"
        seeds = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {how} | {count} | {mean(values):.1f} | {seeds} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    """Take every run that is missing; print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--counts", default="5,10,20,all")
    parser.add_argument("--criteria", default=",".join(DEFAULT_CRITERIA))
    parser.add_argument("--set", action="append", default=[], dest="changes")
    asked = parser.parse_args()
    counts = asked.counts.split(",")
    recipes = [load_recipe(each, asked.changes, asked.data_root) for each in asked.recipes]
    # Seed after seed, so that an early look sees every pair.
    found: dict[str, dict[Cell, list[float]]] = {recipe.name: {} for recipe in recipes}
    for seed, recipe in itertools.product(range(asked.seeds), recipes):
        out = asked.out / recipe.name / f"seed-{seed}"
        criteria = tuple(asked.criteria.split(","))
        for cell, miou in runs_of(recipe, seed, counts, criteria, out):
            cells = found[recipe.name]
            cells.setdefault(cell, []).append(miou)
            write_json(
                asked.out / recipe.name / "labels.json",
                [{"chosen": how, "images": count, "miou": v} for (how, count), v in cells.items()],
            )
            print(to_markdown(recipe.name, cells), flush=True)


if __name__ == "__main__":
    main()
