"""Score a finished network without training: batch-norm statistics mixed, and kinds of label.

Usage: python benchmarks/frozen.py RUN [--stage NAME] [--shares 0,0.25,0.5,0.75,1] [--data-root DIR]

For a stage's network of a run, on the labelled test split of the run's target, two tables:

    mIoU by α, the share of the target's statistics in those that its images are normalised by,
    after the target's have been taken anew over its training images;

    each kind of label at each α: precision of its surest 10, 20, 30, 50, 80 and 100 % of pixels,
    and mIoU of all, on the feature grid. "classifier" is ranked by its softmax, "anchor" is the
    paper's nearest anchor, ranked by its relative gap; "adapted" is the anchors' p(f | c) after EM,
    and "pool" both together, as CAG's kind "adapted" has it. In "levels" the pooled anchors are in
    the features of all levels, as `anchor-classifier` has it; in "published" they are in the middle
    maps of the backbone with the published weights that it began with, where it did.

With --weights W,… and --exponents G,… also (1 - w)·log p(c | x) + w·log p(f | c) + g·w·log π for
each of both, π being the class shares of the network's own predictions on the target.

Labels of the target are read here alone, to judge; nothing of a run is changed.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.adaptation.margins import two_nearest
from cag_uda.data.loading.images import LabelledImages
from cag_uda.data.loading.sampler import Shard
from cag_uda.data.loading.sweeps import sweep_source, sweep_target
from cag_uda.evaluation.evaluate import evaluate
from cag_uda.methods.adapted_labels import AdaptedLabels
from cag_uda.methods.base import Passes, predict
from cag_uda.methods.labeller import LabellerPasses
from cag_uda.models.backbone import middle_maps
from cag_uda.models.backbones import build_backbone
from cag_uda.models.inference import upsample
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe, load_recipe
from cag_uda.runs.scenario import Scenario
from cag_uda.types import DomainName, Prediction

COVERAGES = (0.1, 0.2, 0.3, 0.5, 0.8, 1.0)
CHUNK = 8
CPU = torch.device("cpu")


def passes_of(recipe: Recipe, scenario: Scenario) -> Passes:
    """Sweep over both domains as a run does, in one process."""

    def source() -> Iterator[object]:
        for images in scenario.sources:
            yield from sweep_source(images, recipe.loading, CHUNK, Shard(0, 1), CPU)

    def target() -> Iterator[object]:
        yield from sweep_target(scenario.target, recipe.loading, CHUNK, Shard(0, 1), CPU)

    return Passes(source, target, lambda tensor: tensor)  # type: ignore[arg-type]


def judged(score: Tensor, label: Tensor, truth: Tensor, num_classes: int) -> list[float]:
    """Precision at each coverage, and mIoU over all pixels, of labels (N,) with scores (N,)."""
    known = truth < num_classes
    score, label, truth = score[known], label[known], truth[known]
    right = (label == truth)[score.argsort(descending=True)].double().cumsum(0)
    counts = [max(1, round(coverage * len(truth))) for coverage in COVERAGES]
    cells = torch.bincount(truth * num_classes + label, minlength=num_classes**2)
    confusion = cells.view(num_classes, num_classes).double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
    iou = (confusion.diag() / union)[union > 0]
    return [*(float(right[count - 1]) / count for count in counts), float(iou.mean())]


Predict = Callable[[Tensor, DomainName], Prediction]


def by_levels(network: Segmenter) -> tuple[int, Predict]:
    """Give the channels of the features of all levels, and what predicts with them."""

    @torch.no_grad()
    def levels(image: Tensor, domain: DomainName) -> Prediction:
        return network.predict_levels(image, domain)

    return sum(network.level_channels), levels


def by_published(network: Segmenter) -> tuple[int, Predict]:
    """Do the same for the middle maps of the published backbone in place of the features."""
    config = network.config
    backbone = build_backbone(config.backbone, config.weights, config.output_stride).eval()

    @torch.no_grad()
    def published(image: Tensor, domain: DomainName) -> Prediction:
        logits = network(image, domain).logits
        maps = middle_maps(backbone(network.backbone_input(image)))
        grid = (logits.shape[-2], logits.shape[-1])
        return Prediction(torch.cat([upsample(each, grid) for each in maps], dim=1), logits)

    return sum(middle_maps(backbone.channels)), published


def log_shares(seen: LabellerPasses, num_classes: int) -> Tensor:
    """Count the classes of the predictions on the target; gives log π (K, 1, 1)."""
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for prediction in seen.target():
        counts += torch.bincount(prediction.logits.argmax(1).flatten(), minlength=num_classes)
    return (counts / counts.sum()).clamp(min=1e-4).log().float()[:, None, None]


def kinds_of_label(
    network: Segmenter,
    recipe: Recipe,
    scenario: Scenario,
    passes: Passes,
    pools: Sequence[tuple[float, float]],
) -> dict[str, list[float]]:
    """Judge each kind of label on the target's test split, with other pools (w, g) if wanted."""
    seen = LabellerPasses(network, lambda image, domain: predict(network, image, domain), passes)
    nearest = CategoryAnchors(network.num_classes, network.feature_channels)
    for prediction, label in seen.source():
        nearest.update(prediction.features, label)
    adapted = AdaptedLabels(network, 0.9)
    adapted.prepare(seen)
    others = {"levels": by_levels(network)}
    if network.config.weights is not None:
        others["published"] = by_published(network)
    pooled_by: dict[str, tuple[AdaptedLabels, Predict]] = {}
    for name, (channels, see) in others.items():
        labels = AdaptedLabels(network, 0.9, feature_channels=channels)
        labels.prepare(LabellerPasses(network, see, passes))
        pooled_by[name] = labels, see
    shares = log_shares(seen, network.num_classes) if pools else torch.zeros(())
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    truths = []
    test = LabelledImages(scenario.test, str(scenario.test_split))
    for batch in sweep_source(test, recipe.loading, CHUNK, Shard(0, 1), CPU):
        prediction = predict(network, batch.image, "target")
        truths.append(network.on_grid(batch.label, prediction.logits).flatten())
        first, second, label = two_nearest(nearest.distances(prediction.features))
        likelihood = adapted.anchors.log_likelihood(prediction.features)
        kinds = {
            "classifier": prediction.logits.softmax(1).max(1),
            "anchor": ((second - first) / (second + first), label),
            "adapted": likelihood.softmax(1).max(1),
            "pool": ((prediction.logits + likelihood) / 2).softmax(1).max(1),
        }
        for name, (labels, see) in pooled_by.items():
            kinds[name] = labels.pooled(see(batch.image, "target")).softmax(1).max(1)
        log_p = prediction.logits.log_softmax(1)
        for w, g in pools:
            weighed = (1 - w) * log_p + w * (likelihood + g * shares)
            kinds[f"w = {w:g}, g = {g:g}"] = weighed.softmax(1).max(1)
        for name, (score, chosen) in kinds.items():
            found.setdefault(name, []).append((score.flatten(), chosen.flatten()))
    rows = {}
    for name, parts in found.items():
        score, chosen = (torch.cat([part[index] for part in parts]) for index in (0, 1))
        rows[name] = judged(score, chosen, torch.cat(truths), network.num_classes)
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--stage", help="the stage's name; left out, the delivered network")
    parser.add_argument("--shares", default="0,0.25,0.5,0.75,1")
    parser.add_argument("--weights", help="of the anchors in more pools, joined by commas")
    parser.add_argument("--exponents", default="0", help="of the class shares in those")
    parser.add_argument("--data-root", type=Path)
    given = parser.parse_args()
    weights, exponents = (
        [float(each) for each in (text or "").split(",") if each]
        for text in (given.weights, given.exponents)
    )
    pools = list(itertools.product(weights, exponents))
    torch.rand(1_000_000).sqrt()
    recipe = load_recipe(given.run / "recipe.toml", data_root=given.data_root)
    names = [stage.name for stage in recipe.stages]
    folder = given.run / "model"
    if given.stage is not None:
        folder = given.run / "stages" / f"{names.index(given.stage)}-{given.stage}" / "model"
    network = Segmenter.from_pretrained(folder)
    scenario = Scenario.open(recipe)
    passes = passes_of(recipe, scenario)
    network.estimate_statistics((batch.plain for batch in passes.target()), "target")
    print("| α | mIoU |\n|---|---|")
    shares = [float(share) for share in given.shares.split(",")]
    for share in shares:
        network.set_target_share(share)
        scores = evaluate(network, scenario.test, str(scenario.test_split)).scores
        print(f"| {share:g} | {100 * scores.miou:.1f} |", flush=True)
    columns = " | ".join(f"{coverage:.0%}" for coverage in COVERAGES)
    print(f"\n| α | kind | {columns} | mIoU |\n|---|---|{'---|' * (len(COVERAGES) + 1)}")
    for share in shares:
        network.set_target_share(share)
        for name, row in kinds_of_label(network, recipe, scenario, passes, pools).items():
            cells = " | ".join(f"{value:.3f}" for value in row[:-1])
            print(f"| {share:g} | {name} | {cells} | {100 * row[-1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
