"""What a stage records for its report: pseudo-labels and features of a few images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cag_uda.adaptation.tensors import downsample
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.methods.source_only import SourceOnly, SourceOnlyConfig
from cag_uda.models.inference import prepare
from cag_uda.models.segmentation import write_picture
from cag_uda.models.segmenter import Segmenter
from cag_uda.report.evidence import FeatureMap, pseudo_label_pictures, read_features
from cag_uda.runs.pictures import evenly, plane, write_features, write_pseudo_labels
from tests.support.trees import COLOURS, draw

Pair = tuple[np.ndarray, np.ndarray]


def pairs(count: int, seed: int) -> list[Pair]:
    rng = np.random.default_rng(seed)
    labels = [draw(rng, 64, 96) for _ in range(count)]
    noise = rng.normal(0, 9, (count, 64, 96, 3))
    images = list((COLOURS[np.stack(labels)] + noise).clip(0, 255).astype(np.uint8))
    return list(zip(images, labels, strict=True))


def on_grid(segmenter: Segmenter, pair: Pair, domain: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, D) and labels (n,) of one image, cell by cell."""
    with torch.no_grad():
        features = segmenter(prepare(pair[0], None).float() / 255, domain).features
    label = downsample(torch.from_numpy(pair[1]).long()[None], features.shape[-2:])
    return features[0].flatten(1).T.double().numpy(), label.flatten().numpy()


@pytest.fixture
def recorded(segmenter: Segmenter, tmp_path: Path) -> FeatureMap:
    segmenter.train()
    state = torch.random.get_rng_state()
    target: list[tuple[np.ndarray, np.ndarray | None]] = [*pairs(2, 2)]
    write_features(tmp_path / "features.safetensors", segmenter, pairs(4, 1), target)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert segmenter.training
    remarks: list[str] = []
    found = read_features(tmp_path, 4, remarks)
    assert found is not None, remarks
    return found


def test_anchors_spread_and_shift_are_those_of_all_cells(
    recorded: FeatureMap, segmenter: Segmenter
) -> None:
    segmenter.eval()
    source = [on_grid(segmenter, pair, "source") for pair in pairs(4, 1)]
    target = [on_grid(segmenter, pair, "target") for pair in pairs(2, 2)]
    means = []
    for cells in (source, target):
        features, label = (np.concatenate(column) for column in zip(*cells, strict=True))
        means.append(np.stack([features[label == train_id].mean(axis=0) for train_id in range(4)]))
    for one in range(4):
        for other in range(4):
            apart = np.linalg.norm(means[0][one] - means[0][other])
            assert recorded.distances[one, other] == pytest.approx(apart, rel=1e-3, abs=1e-5)
    assert recorded.shift == pytest.approx(np.linalg.norm(means[1] - means[0], axis=1), rel=1e-3)
    # Of a sample of at most 24 cells a class and image, so only about the mean over all of them.
    features, label = (np.concatenate(column) for column in zip(*source, strict=True))
    own = np.linalg.norm(features - means[0][label], axis=1)
    for train_id in range(4):
        assert recorded.spread[train_id] == pytest.approx(own[label == train_id].mean(), rel=0.3)


def test_cells_lie_around_their_anchor_in_the_plane(recorded: FeatureMap) -> None:
    assert recorded.by_truth
    assert len(recorded.target_xy) == len(recorded.target_class)
    assert np.bincount(recorded.target_class, minlength=4).max() <= 60
    # Source images that did not shape the plane: most cells are nearest their own anchor even so.
    away = np.linalg.norm(recorded.source_xy[:, None] - recorded.anchors_xy, axis=2)
    assert (away.argmin(axis=1) == recorded.source_class).mean() > 0.5


def test_target_without_labels_goes_by_the_prediction(segmenter: Segmenter, tmp_path: Path) -> None:
    target: list[tuple[np.ndarray, np.ndarray | None]] = [(x, None) for x, _ in pairs(2, 2)]
    source = [(x, np.where(y == 3, 255, y).astype(np.uint8)) for x, y in pairs(2, 1)]
    write_features(tmp_path / "features.safetensors", segmenter, source, target)
    found = read_features(tmp_path, 4, [])
    assert found is not None
    assert not found.by_truth
    with torch.no_grad():
        segmenter.eval()
        seen = {
            int(train_id)
            for x, _ in target
            for train_id in segmenter(prepare(x, None).float() / 255).logits.argmax(1).unique()
        }
    assert set(found.target_class.tolist()) == seen
    # A class that the source images lack has no anchor.
    assert np.isnan(found.anchors_xy[3]).all()
    assert np.isnan(found.distances[3, :3]).all()
    assert np.isfinite(found.distances[:3, :3]).all()
    assert 3 not in found.source_class
    assert found.separation is not None


def test_plane_is_the_discriminant_one() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([1.0, 1.0, 20.0, 1.0])
    centres = np.array([[0, 0, 0, 0], [6, 0, 0, 0], [0, 5, 0, 0]])
    label = np.arange(600) % 3
    features = torch.from_numpy(centres[label] + rng.normal(size=(600, 4)) * spread)
    centre, axes = plane(features, torch.from_numpy(label), 5)
    # The widest direction tells no classes apart, and a covariance plane would lie along it.
    lengths = axes.norm(dim=1)
    assert lengths[2] < 0.05 * lengths[:2].min()
    in_plane = ((features - centre) @ axes).numpy()
    means = np.stack([in_plane[label == train_id].mean(axis=0) for train_id in range(3)])
    # In standard deviations within a class, of which shrinkage takes a part here.
    assert np.linalg.norm(means[0] - means[1]) > np.linalg.norm(means[0] - means[2]) > 0
    inside = in_plane - means[label]
    assert np.cov(inside.T)[0, 1] == pytest.approx(0, abs=0.1 * np.cov(inside.T)[0, 0])


@pytest.mark.parametrize(("classes", "channels"), [(1, 4), (2, 1), (0, 3)])
def test_plane_of_too_little_is_still_one(classes: int, channels: int) -> None:
    label = torch.arange(10) % max(1, classes)
    features = torch.randn(10, channels, dtype=torch.float64)
    features = features if classes else features[:0]
    centre, axes = plane(features, label[: len(features)], 3)
    assert centre.shape == (channels,)
    assert axes.shape == (channels, 2)
    assert axes.isfinite().all()


def test_pseudo_labels_are_those_of_the_method(segmenter: Segmenter, tmp_path: Path) -> None:
    config = CAGConfig.model_validate({"margin": {"kind": "relative", "value": 0.05}})
    method = CAG(segmenter.eval(), config)
    with torch.no_grad():
        for image, label in pairs(2, 1):
            prediction = segmenter(prepare(image, None).float() / 255, "source")
            size = prediction.features.shape[-2:]
            grid = downsample(torch.from_numpy(label).long()[None], size)
            method.anchors.update(prediction.features, grid)
    images = [image for image, _ in pairs(2, 2)]
    write_pseudo_labels(tmp_path, method, images)
    found = pseudo_label_pictures(tmp_path)
    assert set(found) >= {"anchor", "confidence"}
    for number, image in enumerate(images):
        expected = method.pseudo_labels(prepare(image, None).float() / 255)["anchor"].label[0]
        stored = np.asarray(Image.open(found["anchor"][str(number)]))
        assert np.array_equal(stored, expected.numpy())
    assert (stored == 255).any()
    source_only = SourceOnly(segmenter, SourceOnlyConfig())
    write_pseudo_labels(tmp_path / "none", source_only, images)
    assert not (tmp_path / "none").exists()


def test_pictures_keep_their_colours(tmp_path: Path) -> None:
    picture = np.array([[[255, 0, 10], [1, 2, 3]]], np.uint8)
    write_picture(tmp_path / "deep" / "colour.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "deep" / "colour.png")), picture)


def test_images_are_chosen_evenly() -> None:
    assert list(evenly(11, 3)) == [0, 5, 10]
    assert list(evenly(2, 5)) == [0, 1]
