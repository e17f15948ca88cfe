"""`pseudo-label`: PNGs of both kinds, whose anchors, and how much they cover how rightly."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.adaptation.margins import RelativeMargin
from cag_uda.adaptation.pseudo_labels import by_anchor, by_confidence
from cag_uda.adaptation.tensors import downsample
from cag_uda.models.inference import inference, prepare
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import load_recipe
from cag_uda.runs.runner import adapt
from cag_uda.types import DomainName, Prediction
from tests.support.command_line import failure, run
from tests.support.trees import hold_out, read_pixels, write_domain, write_recipe


@pytest.fixture
def model(segmenter: Segmenter, day: Path, dusk: Path, tmp_path: Path) -> Path:
    """Random weights, but statistics of the two domains, so that features differ by class."""
    domains: list[tuple[Path, DomainName]] = [(day, "source"), (dusk, "target")]
    for domain, name in domains:
        pictures = [read_pixels(path) for path in images_of(domain)]
        batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
        segmenter.estimate_statistics([batch], name)
    torch.nn.init.normal_(segmenter.get_parameter("classifier.weight"), std=1.0)
    segmenter.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def day(tmp_path: Path) -> Path:
    return write_domain(tmp_path, "day", seed=1)


@pytest.fixture
def dusk(tmp_path: Path) -> Path:
    return write_domain(tmp_path, "dusk", light=0.4, seed=2)


def images_of(domain: Path) -> list[Path]:
    return sorted((domain.parent / domain.stem / "images").iterdir())


def predict(segmenter: Segmenter, path: Path, domain: DomainName) -> Prediction:
    with inference(segmenter):
        prediction: Prediction = segmenter(prepare(read_pixels(path), None).float() / 255, domain)
    return prediction


def anchors_by_hand(segmenter: Segmenter, day: Path) -> CategoryAnchors:
    anchors = CategoryAnchors(segmenter.num_classes, segmenter.feature_channels)
    for path in images_of(day):
        features = predict(segmenter, path, "source").features
        stored = read_pixels(day.parent / "day" / "labels" / path.name)
        label = torch.from_numpy(stored).long()[None]
        height, width = features.shape[2:]
        anchors.update(features, downsample(label, (height, width)))
    return anchors


def told(out: Path) -> dict[str, Any]:
    coverage: dict[str, Any] = json.loads((out / "coverage.json").read_text())
    return coverage


def test_both_kinds_are_those_of_the_tensor_maths(
    model: Path, day: Path, dusk: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    printed = run(
        *("pseudo-label", model, "--domain", dusk, "--out", out, "--source", day),
        *("--margin", "relative:0.02", "--confidence", 0.5),
    )
    assert "coverage" in printed
    assert "precision" not in printed
    segmenter = Segmenter.from_pretrained(model)
    anchors = anchors_by_hand(segmenter, day)
    trusted = dict.fromkeys(("anchor", "confidence"), 0)
    for path in images_of(dusk):
        prediction = predict(segmenter, path, "target")
        expected = {
            "anchor": by_anchor(anchors.distances(prediction.features), RelativeMargin(0.02)),
            "confidence": by_confidence(prediction.logits, 0.5),
        }
        for kind, pseudo in expected.items():
            label = pseudo.label[0].numpy().astype(np.uint8)
            # 48×64 pixels on a grid of 12×16: each cell is four by four pixels.
            wanted = label.repeat(4, axis=0).repeat(4, axis=1)
            written = read_pixels(out / kind / "images" / path.name)
            assert np.array_equal(written, wanted), (kind, path)
            trusted[kind] += int((label != 255).sum())
    for kind, count in trusted.items():
        assert 0 < count < 6 * 12 * 16
        assert told(out)["kinds"][kind]["coverage"] == pytest.approx(count / (6 * 12 * 16))


def test_coverage_by_class_adds_up(model: Path, day: Path, dusk: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    run("pseudo-label", model, "--domain", dusk, "--out", out, "--source", day)
    record = told(out)
    assert record["margin"]["kind"] == "clearest"
    for kind in record["kinds"].values():
        assert sum(kind["per_class"]["pixels"]) == pytest.approx(kind["coverage"])
    for covered in record["kinds"]["anchor"]["per_class"]["coverage"]:
        assert covered is None or covered == pytest.approx(0.5, abs=0.1), "the clearest half"


def test_precision_is_read_off_the_labels_where_asked(
    model: Path, day: Path, dusk: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    arguments = ("pseudo-label", model, "--domain", dusk, "--out", out, "--source", day)
    printed = run(*arguments, "--score", "--confidence", 0.3)
    assert "precision" in printed
    for kind in ("anchor", "confidence"):
        right = given = 0
        for path in images_of(dusk):
            label = read_pixels(out / kind / "images" / path.name)[2::4, 2::4]
            truth = read_pixels(dusk.parent / "dusk" / "labels" / path.name)[2::4, 2::4]
            right += int(((label == truth) & (label != 255)).sum())
            given += int((label != 255).sum())
        assert told(out)["kinds"][kind]["precision"] == pytest.approx(right / given)


def test_without_score_no_label_of_the_target_is_opened(
    model: Path, day: Path, dusk: Path, tmp_path: Path
) -> None:
    for path in (dusk.parent / "dusk" / "labels").iterdir():
        path.write_bytes(b"not an image")
    out = tmp_path / "labels"
    run("pseudo-label", model, "--domain", dusk, "--out", out, "--source", day)
    assert told(out)["kinds"]["anchor"]["precision"] is None


def test_anchors_beside_the_weights_are_taken(
    model: Path, day: Path, dusk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("pseudo-label", model, "--domain", dusk, "--margin", "relative:0.02", "--out")
    message = failure(capsys, *command, tmp_path / "none")
    assert "anchors.safetensors" in message
    assert "--source" in message
    anchors = anchors_by_hand(Segmenter.from_pretrained(model), day)
    tensors = {"vectors": anchors.vectors, "counts": anchors.counts}
    save_file(tensors, model / "anchors.safetensors")
    run(*command, tmp_path / "kept")
    run(*command, tmp_path / "made", "--source", day)
    for path in images_of(dusk):
        kept, made = (
            read_pixels(tmp_path / name / "anchor" / "images" / path.name)
            for name in ("kept", "made")
        )
        assert (kept == made).mean() > 0.999
    assert "anchors.safetensors" in told(tmp_path / "kept")["anchors"]
    calibrated = (*command[:4], "--margin", "calibrated:0.9", "--out", tmp_path / "more")
    assert "--source" in failure(capsys, *calibrated)
    save_file(
        {"vectors": torch.zeros(4, 7), "counts": torch.ones(4)}, model / "anchors.safetensors"
    )
    assert "another network" in failure(capsys, *command, tmp_path / "other")


@pytest.mark.slow
def test_a_run_labels_by_anchors_of_its_own_source(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ["stages.*.steps=1", "stages.adabn.steps=0"])
    adapt(recipe, tmp_path / "run")
    run_folder, dusk = tmp_path / "run", tmp_path / "dusk.toml"
    printed = run("pseudo-label", run_folder, "--domain", dusk, "--out", tmp_path / "a")
    assert "anchors kept in" in printed
    record = told(tmp_path / "a")
    assert record["margin"]["kind"] == "clearest", "as the run's last stage"
    made = load_file(run_folder / "model" / "anchors.safetensors")["vectors"]
    segmenter = Segmenter.from_pretrained(run_folder)
    expected = anchors_by_hand(segmenter, tmp_path / "day.toml").vectors
    assert torch.allclose(made, expected, atol=1e-4)
    # The second time they are there, and the source need not be.
    (tmp_path / "day.toml").unlink()
    run("pseudo-label", run_folder / "model", "--domain", dusk, "--out", tmp_path / "b")
    for path in images_of(dusk):
        first, second = (
            read_pixels(tmp_path / name / "anchor" / "images" / path.name) for name in ("a", "b")
        )
        assert np.array_equal(first, second)


@pytest.mark.slow
def test_a_run_s_margins_are_fitted_to_its_source_each_time(tmp_path: Path) -> None:
    recipe_path = write_recipe(tmp_path)
    hold_out(tmp_path / "day.toml")
    margin = 'stages.stage-1.method.margin={kind = "relative", value = 0.001, prior_portion = 0.5}'
    changes = ["stages.*.steps=2", "stages.adabn.steps=0", margin]
    adapt(load_recipe(recipe_path, changes), tmp_path / "run")
    command = ("pseudo-label", tmp_path / "run", "--domain", tmp_path / "dusk.toml", "--out")

    def coverage(out: Path) -> float:
        return float(told(out)["kinds"]["anchor"]["coverage"])

    for name in ("first", "with-its-anchors-kept"):
        run(*command, tmp_path / name)
    assert 0 < coverage(tmp_path / "first") == coverage(tmp_path / "with-its-anchors-kept")
    # Calibrated on the held-out images: nothing is right where all their labels are others.
    run(*command, tmp_path / "right", "--margin", "calibrated:0.05")
    for path in (tmp_path / "day" / "labels").glob("held-*"):
        cv2.imwrite(str(path), (read_pixels(path) + 1) % 4)
    run(*command, tmp_path / "wrong", "--margin", "calibrated:0.9")
    assert coverage(tmp_path / "right") > 0 == coverage(tmp_path / "wrong")
    (tmp_path / "day.toml").unlink()
    run(*command, tmp_path / "by-the-runs-own-copy")
    assert coverage(tmp_path / "by-the-runs-own-copy") == coverage(tmp_path / "first")


def test_mistakes_are_told_before_any_work(
    model: Path, day: Path, dusk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("pseudo-label", model, "--domain", dusk, "--source", day, "--out", tmp_path / "out")
    assert "KIND:VALUE" in failure(capsys, *command, "--margin", "0.1")
    assert "KIND:VALUE" in failure(capsys, *command, "--margin", "clearest:2")
    assert "--confidence" in failure(capsys, *command, "--confidence", "1.5")
    assert "train, test" in failure(capsys, *command, "--split", "val")
    bare = write_domain(tmp_path, "bare", labels=False)
    scored = ("pseudo-label", model, "--domain", bare, "--source", day, "--out", tmp_path / "out")
    assert "--score wants labels" in failure(capsys, *scored, "--score")
    assert not (tmp_path / "out").exists()
    assert "--overwrite" in failure(capsys, *command[:-1], tmp_path)
    # Where labels would be written lie the images, through a link.
    (tmp_path / "out" / "anchor").mkdir(parents=True)
    (tmp_path / "out" / "anchor" / "images").symlink_to(tmp_path / "dusk" / "images")
    assert "would be overwritten" in failure(capsys, *command, "--overwrite")
    assert read_pixels(tmp_path / "dusk" / "images" / "000.png").ndim == 3


def test_broken_images_are_named_and_the_rest_is_labelled(
    model: Path, day: Path, dusk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images_of(dusk)[2].write_bytes(b"junk")
    command = ("pseudo-label", model, "--domain", dusk, "--source", day, "--out", tmp_path / "out")
    written = failure(capsys, *command, "--margin", "relative:0.1")
    assert "002.png is damaged" in written
    assert "all other images are written" in written
    assert len(list((tmp_path / "out" / "anchor" / "images").iterdir())) == 5
    assert told(tmp_path / "out")["images"] == 5
