"""What the research questions' answers are made of: each network measured again in plain numpy."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.comparison.questions import Questions, answers
from cag_uda.models.config import Classes
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import dump_recipe, load_recipe
from cag_uda.runs.anchor_files import ANCHORS, save_anchors
from cag_uda.runs.progress import Silent
from tests.support.feature_cells import Cells, cells_of, write_labels_by_pixel
from tests.support.trees import write_recipe


def separation_of(features: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """Scatter of the classes' means around their mean, over the mean scatter within a class."""
    rows = features.astype(np.float64)
    means = np.stack([rows[truth == k].mean(axis=0) for k in range(4)])
    within = [((rows[truth == k] - means[k]) ** 2).sum(axis=1).mean() for k in range(4)]
    between = ((means - means.mean(axis=0)) ** 2).sum(axis=1).mean()
    return float(between / np.mean(within))


def shift_of(source: Cells, target: Cells) -> list[float]:
    """How far each class's mean lies in the target from the source's, over the classes' own."""
    ours, theirs = (
        np.stack([cells[0][cells[2] == k].astype(np.float64).mean(axis=0) for k in range(4)])
        for cells in (source, target)
    )
    apart = [np.linalg.norm(ours[i] - ours[j]) for i in range(4) for j in range(i)]
    return [
        float(np.linalg.norm(a - b) / np.mean(apart)) for a, b in zip(ours, theirs, strict=True)
    ]


def check_curve(
    curve: dict[str, Any],
    score: NDArray[np.float64],
    label: NDArray[np.int64],
    truth: NDArray[np.int64],
) -> None:
    """Hold a curve, of all classes and of one, against counts at every eighth threshold."""
    reached = 0
    for place in range(0, len(curve["thresholds"]), 8):
        given = score >= curve["thresholds"][place]
        if given.mean() < 0.05:
            break
        reached += 1
        right = given & (label == truth)
        assert curve["coverage"][place] == pytest.approx(given.mean(), abs=2e-3)
        assert curve["precision"][place] == pytest.approx(right.sum() / given.sum(), abs=0.02)
        precision, coverage = (curve["per_class"][name][2] for name in ("precision", "coverage"))
        assert coverage[place] == pytest.approx(given[truth == 2].mean(), abs=5e-3)
        if (given & (label == 2)).sum() > 100:
            expected = right[label == 2].sum() / given[label == 2].sum()
            assert precision[place] == pytest.approx(expected, abs=0.02)
    assert reached >= 2
    assert curve["coverage"][0] == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("aligned", [False, True])
def test_networks_are_measured_as_in_numpy(aligned: bool, tmp_path: Path, classes: Classes) -> None:
    """Separation and shift of each network; curves of the labels of the one a stage began with."""
    path = write_recipe(tmp_path)
    for name, seed in (("day", 5), ("dusk", 6)):
        write_labels_by_pixel(tmp_path / name, seed)
    recipe = load_recipe(path, [f"segmenter.align_corners={str(aligned).lower()}"])
    run = tmp_path / "run"
    networks: dict[str, Segmenter] = {}
    for name, seed in (("2-warmup", 0), ("3-stage-1", 1)):
        torch.manual_seed(seed)
        networks[name] = Segmenter(recipe.segmenter, classes)
        # Statistics of each domain, so that a network shows whose it was asked for.
        networks[name].estimate_statistics([torch.rand(2, 3, 48, 64)], "source")
        networks[name].estimate_statistics([torch.rand(2, 3, 48, 64) * 0.4], "target")
        networks[name].save_pretrained(run / "stages" / name / "model")
    (run / "recipe.toml").write_text(dump_recipe(recipe))
    first_px = 0 if aligned else 2  # A cell's first corner, or its centre.
    source, target = (
        cells_of(tmp_path / name, networks["2-warmup"], domain, first_px)
        for name, domain in (("day", "source"), ("dusk", "target"))
    )
    vectors = torch.from_numpy(np.stack([source[0][source[2] == k].mean(axis=0) for k in range(4)]))
    save_anchors(run / "stages" / "3-stage-1" / ANCHORS, CategoryAnchors.from_vectors(vectors))

    Questions(recipe, Silent()).measure(run)
    held = json.loads((run / "stages" / "2-warmup" / "separation.json").read_text())
    for name, cells in (("source", source), ("target", target)):
        expected = separation_of(cells[0], cells[2])
        assert held[name]["balanced"] == pytest.approx(expected, rel=1e-3)
    expected_shift = shift_of(source, target)
    assert held["centroid_shift_per_class"] == pytest.approx(expected_shift, rel=1e-3)
    assert held["centroid_shift"] == pytest.approx(np.mean(expected_shift), rel=1e-3)
    later = json.loads((run / "stages" / "3-stage-1" / "separation.json").read_text())
    assert later["source"]["balanced"] != pytest.approx(held["source"]["balanced"], rel=1e-3)

    assert not (run / "stages" / "2-warmup" / "label_curves.json").exists(), "it labels nothing"
    curves = json.loads((run / "stages" / "3-stage-1" / "label_curves.json").read_text())
    features, probability, truth = target
    distances = np.linalg.norm(features[:, None] - vectors.numpy()[None], axis=2)
    ordered = np.sort(distances, axis=1)
    gap = (ordered[:, 1] - ordered[:, 0]) / (ordered[:, 1] + ordered[:, 0])
    check_curve(curves["anchor"], gap, distances.argmin(axis=1), truth)
    confidence, likeliest = probability.max(axis=1), probability.argmax(axis=1)
    check_curve(curves["confidence"], confidence, likeliest, truth)


def test_a_target_of_one_class_has_no_separation(tmp_path: Path, classes: Classes) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    for label in (tmp_path / "dusk" / "labels").iterdir():
        cv2.imwrite(str(label), np.ones((48, 64), np.uint8))
    run, stage = tmp_path / "run", tmp_path / "run" / "stages" / "2-warmup"
    Segmenter(recipe.segmenter, classes).save_pretrained(stage / "model")
    (run / "recipe.toml").write_text(dump_recipe(recipe))
    Questions(recipe, Silent()).measure(run)
    held = json.loads((stage / "separation.json").read_text())
    assert held["target"] == {"by_pixels": None, "balanced": None}
    assert held["source"]["balanced"] > 0


def test_answers_are_means_over_seeds_by_hand(tmp_path: Path) -> None:
    """What one seed lacks is the mean of the others; what all lack is not known."""
    for seed, (miou, precision, coverage) in enumerate([(0.2, 0.9, 0.5), (0.4, None, 0.0)]):
        stage = tmp_path / f"cag-{seed}" / "stages" / "0-stage-1"
        stage.mkdir(parents=True)
        done = {"name": "stage-1", "folder": stage.name, "method": "cag", "miou": miou}
        scores = {"recipe": "tiny", "classes": ["road"], "stages": [done]}
        (stage.parents[1] / "scores.json").write_text(json.dumps(scores))
        labels = {"anchor": {"precision": precision, "coverage": coverage}}
        (stage / "pseudo_labels.json").write_text(json.dumps(labels))
    runs = [("cag", tmp_path / f"cag-{seed}") for seed in range(2)]
    found = answers(runs)["cag"]["stage-1"]
    assert found.miou == pytest.approx(0.3)
    assert found.label_error is not None
    assert found.label_error["anchor"].plain() == pytest.approx({"error": 0.1, "coverage": 0.25})
    assert found.separation is None
    assert found.precision_at is None
