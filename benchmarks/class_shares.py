"""How near estimated class shares of the target come to the true ones, by kind of estimate.

Usage: python benchmarks/class_shares.py FOLDER

FOLDER is that of `benchmarks/verdict.py`. For the networks of its runs, prints the total variation
between the true class shares of the target's training images and three estimates:

    count       the share of cells that the network labels with the class ("classify and count");
    EM          Saerens, Latinne and Decaestecker, 2002, from the source's shares;
    BBSE        the mean probabilities explained by the confusion on the source (black-box shift
                estimation, Lipton et al., ICML 2018), by maximum likelihood, never negative.

Labels of the target are read here alone.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from cag_uda.data.domains.domain import Domain
from cag_uda.data.files.resizing import resize_label
from cag_uda.evaluation.scores import total_variation
from cag_uda.models.inference import inference, prepare
from cag_uda.models.segmenter import Segmenter
from cag_uda.runs.pictures import evenly
from cag_uda.types import DomainName

NETWORKS = ("source-only", "alpha-bn", "pooled", "cag-plus", "cag-plus-pooled")
IMAGES, CELLS, ROUNDS = 24, 512, 200


def by_em(probability: Tensor, source: Tensor) -> Tensor:
    """Estimate shares (K,) from probabilities (N, K) by expectation-maximisation."""
    shares, known = source, source.clamp(min=1e-6)
    for _ in range(ROUNDS):
        weighed = probability * (shares / known)
        shares = (weighed / weighed.sum(dim=1, keepdim=True).clamp(min=1e-12)).mean(dim=0)
    return shares


def by_bbse(probability: Tensor, confusion: Tensor, source: Tensor) -> Tensor:
    """Estimate shares (K,) from mean probabilities and their mean (K, K) by class on the source."""
    shares, seen = source, probability.mean(dim=0)
    for _ in range(ROUNDS):
        shares = shares * (confusion @ (seen / (shares @ confusion).clamp(min=1e-12)))
        shares = shares / shares.sum()
    return shares


def cells(segmenter: Segmenter, domain: Domain, which: DomainName) -> tuple[Tensor, Tensor]:
    """Probabilities (N, K) and labels (N,) of cells of a domain's training images."""
    items, rows, labels = domain.items("train"), [], []
    with inference(segmenter):
        for index in evenly(len(items), IMAGES):
            image, label = domain.read_pair(items[index])
            pixels = prepare(image, segmenter.config.input_width_px).float() / 255
            probability = segmenter(pixels, which).logits[0].softmax(dim=0)
            on_grid = torch.from_numpy(resize_label(label, *probability.shape[1:])).flatten()
            chosen = torch.tensor(list(evenly(len(on_grid), CELLS)))
            rows.append(probability.flatten(1).t()[chosen].double())
            labels.append(on_grid[chosen].long())
    return torch.cat(rows), torch.cat(labels)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    torch.rand(1_000_000).sqrt()
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    runs = sorted(each.parent for each in (given.folder / "runs").glob("*/report.html"))
    for run in runs:
        pair = given.folder / "pairs" / run.name.rpartition("-")[0]
        known = json.loads((pair / "shares.json").read_text())
        source = torch.tensor(known["source"]).double()
        domains = [Domain.open(str(pair / f"{name}.toml")) for name in ("source", "target")]
        errors["", "the source's shares"].append(total_variation(source.tolist(), known["target"]))
        for name in NETWORKS:
            folder = next((run / "stages").glob(f"*[0-9]-{name}")) / "model"
            segmenter = Segmenter.from_pretrained(folder)
            seen, label = cells(segmenter, domains[0], "source")
            classes = range(len(source))
            rows = [seen[label == k].sum(0) / (label == k).sum().clamp(min=1) for k in classes]
            probability, _ = cells(segmenter, domains[1], "target")
            count = torch.bincount(probability.argmax(dim=1), minlength=len(source)).double()
            for kind, found in (
                ("count", count / count.sum()),
                ("EM", by_em(probability, source)),
                ("BBSE", by_bbse(probability, torch.stack(rows), source)),
            ):
                errors[name, kind].append(total_variation(found.tolist(), known["target"]))
    print(f"{len(runs)} runs\n\n| network | estimate | mean total variation | largest |")
    print("|---|---|---:|---:|")
    for (name, kind), values in errors.items():
        print(f"| {name} | {kind} | {mean(values):.0%} | {max(values):.0%} |")


if __name__ == "__main__":
    main()
