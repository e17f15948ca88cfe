"""Compare ways to choose the images to label, by what they teach a network's classifier alone.

Usage: python benchmarks/choosing.py RUN [RUN …] [--criteria A,B …] [--counts 5,10] [--pools 6]
           [--data-root DIR]

Of each finished run, whose target has labels on this disk, pools of half of the target's training
images, at most 60, are drawn. Of each pool, images are chosen by every set of criteria of
`cag-uda suggest`, and at random; the run's classifier is trained on frozen features of these and of
the source, and scored on the cells of the test split. Printed is the gain in mIoU points over
random choice, mean over the pools with its standard error, and mean over the runs.

A probe costs a second where training costs minutes. Take pairs on which settings may be chosen.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cag_uda.adaptation.adapted_anchors import SourceFeatures
from cag_uda.adaptation.teaching import MEASURES, class_weights, measure
from cag_uda.data.loading.images import LabelledImages
from cag_uda.prediction.choosing import Candidates, choose
from cag_uda.prediction.labeller import read_recipe_of
from cag_uda.prediction.opening import open_model
from cag_uda.prediction.suggest import Asked, Suggester
from cag_uda.runs.progress import Silent
from cag_uda.runs.scenario import Scenario
from cag_uda.types import IGNORE

CRITERIA = ("disagreement,diversity", ",".join((*MEASURES, "diversity")), "diversity", *MEASURES)
DRAWS, STEPS, RATE, PULL = 4, 40, 0.03, 1e-3
"""Random draws of a pool; steps and rate of Adam; weight decay towards the run's classifier."""
MOST_IMAGES, MOST_POOL, SOURCE_CELLS = 200, 60, 5000


class Probe:
    """A run's classifier, which is trained on the cells of some target images."""

    def __init__(self, run: str, data_root: Path | None) -> None:
        recipe = read_recipe_of(run)
        assert recipe is not None, f"{run} is no run folder"
        if data_root is not None:
            recipe = recipe.model_copy(update={"data_root": str(data_root)})
        network = open_model(run, "cpu").eval()
        asked = Asked(data_root=data_root)
        suggester = Suggester(recipe, run, network, asked, Silent())
        loading = recipe.loading.model_copy(update={"width_px": network.config.input_width_px})
        items = suggester.items[:: -(-len(suggester.items) // MOST_IMAGES)]
        with torch.no_grad():
            anchors, known = suggester.learn()
            look = partial(measure, anchors=anchors, known=known)
            self.found = list(suggester.measured(items, look, class_weights(anchors.share)))
            source = SourceFeatures(
                network.num_classes, network.feature_channels, torch.device("cpu")
            )
            for seen, label in suggester.predicted("source", suggester.sources, loading):
                source.update(seen, label)
            rows, classes = source.sample.rows(network.feature_channels, network.mean)
            scenario = Scenario.open(recipe)
            train = LabelledImages(suggester.domain, recipe.target.train)
            test = LabelledImages(scenario.test, str(scenario.test_split))
            self.cells, self.test = (
                [
                    (features.flatten(1).t()[known], label.flatten()[known])
                    for batch in suggester.predicted("target", [images], loading)
                    for features, label in zip(*batch, strict=True)
                    for known in [(label != IGNORE).flatten()]
                ]
                for images in (train, test)
            )
        places = {item.key: i for i, item in enumerate(suggester.domain.items(recipe.target.train))}
        self.cells = [self.cells[places[each.item.key]] for each in self.found]
        self.source = rows[:SOURCE_CELLS], classes[:SOURCE_CELLS]
        self.spread = rows.std(dim=0) + 1e-6
        classifier = cast(nn.Conv2d, network.classifier)
        assert classifier.bias is not None
        self.weight = classifier.weight[:, :, 0, 0].detach().clone()
        self.bias = classifier.bias.detach().clone()

    def miou(self, chosen: Sequence[int]) -> float:
        """Train on every second cell of some images, and score, in per cent."""
        parts = zip(*(self.cells[i] for i in chosen), strict=True)
        features, label = (torch.cat(each)[::2] for each in parts)
        weight = torch.zeros_like(self.weight, requires_grad=True)
        bias = torch.zeros_like(self.bias, requires_grad=True)

        def logits(of: Tensor) -> Tensor:
            return F.linear(of, self.weight + weight / self.spread, self.bias + bias)

        optimizer = torch.optim.Adam([weight, bias], lr=RATE)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = F.cross_entropy(logits(features), label) + PULL * weight.square().sum()
            (loss + F.cross_entropy(logits(self.source[0]), self.source[1])).backward()
            optimizer.step()
        with torch.no_grad():
            truth = torch.cat([label for _, label in self.test])
            found = torch.cat([logits(of).argmax(dim=1) for of, _ in self.test])
        classes = len(bias)
        counts = torch.bincount(truth * classes + found, minlength=classes**2).double()
        counts = counts.view(classes, classes)
        union = counts.sum(0) + counts.sum(1) - counts.diag()
        return float(100 * (counts.diag() / union)[counts.sum(1) > 0].mean())

    def gains(self, criteria: Sequence[str], counts: Sequence[int], pools: int) -> Any:
        """Measure the points over random choice: (criteria, pools, counts)."""
        rng, total = np.random.default_rng(1), len(self.found)
        gains = defaultdict(list)
        for _ in range(pools):
            pool = sorted(map(int, rng.choice(total, min(MOST_POOL, total // 2), replace=False)))
            candidates = Candidates(
                [self.found[i].item.key for i in pool],
                {name: np.array([self.found[i].values[name] for i in pool]) for name in MEASURES},
                np.array([self.found[i].looks for i in pool]),
            )
            nothing = candidates.looks[:0]
            for count in counts:
                drawn = [rng.choice(pool, count, replace=False).tolist() for _ in range(DRAWS)]
                random = np.mean([self.miou(each) for each in drawn])
                for names in criteria:
                    chosen = choose(candidates, count, names.split(","), nothing)
                    gains[names].append(self.miou([pool[each.number] for each in chosen]) - random)
        return np.array([gains[names] for names in criteria]).reshape(len(criteria), pools, -1)


def main() -> None:
    """Print a table for each run, and the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--criteria", nargs="+", default=CRITERIA)
    parser.add_argument("--counts", default="5,10")
    parser.add_argument("--pools", type=int, default=6)
    parser.add_argument("--data-root", type=Path)
    given = parser.parse_args()
    torch.rand(1_000_000).sqrt()
    counts = [int(each) for each in given.counts.split(",")]
    means = []
    for run in given.runs:
        gains = Probe(run, given.data_root).gains(given.criteria, counts, given.pools).mean(axis=2)
        means.append(gains.mean(axis=1))
        print(f"\n{run}: mIoU points over random choice", flush=True)
        for names, of in zip(given.criteria, gains, strict=True):
            error = of.std(ddof=1) / len(of) ** 0.5 if len(of) > 1 else 0.0
            print(f"{names:<45}{of.mean():>+7.2f} ± {error:.2f}", flush=True)
    print("\nmean over the runs")
    for names, mean in zip(given.criteria, np.mean(means, axis=0), strict=True):
        print(f"{names:<45}{mean:>+7.2f}")


if __name__ == "__main__":
    main()
