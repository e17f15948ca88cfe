"""A network from Python: what `predict` and `segment` take, give, and refuse."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from cag_uda.errors import DataError, UserError
from cag_uda.models.inference import class_logits, inference, prepare
from cag_uda.models.segmentation import Segmentation, legend_of
from cag_uda.models.segmenter import Segmenter
from tests.support.stub_network import picture
from tests.support.trees import read_pixels


@pytest.fixture
def network(segmenter: Segmenter) -> Segmenter:
    torch.nn.init.normal_(segmenter.get_parameter("classifier.weight"))
    return segmenter.eval()


def test_one_image_in_every_form(network: Segmenter, tmp_path: Path) -> None:
    image = picture(40, 56)
    path = tmp_path / "a.png"
    PIL.Image.fromarray(image).save(path)
    expected = network.predict(path)
    assert expected.shape == (40, 56)
    assert expected.dtype == np.uint8
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    with_alpha = np.dstack([image, np.full((40, 56), 7, np.uint8)])
    forms: list[Any] = [str(path), PIL.Image.open(path), image, tensor, tensor.float() / 255]
    for form in [*forms, image / 255, image.astype(np.float32) / 255, with_alpha]:
        assert np.array_equal(network.predict(form), expected)


def test_grey_images(network: Segmenter) -> None:
    grey = picture(40, 56)[..., 0].copy()
    expected = network.predict(np.dstack([grey] * 3))
    tensor = torch.from_numpy(grey)
    for form in (grey, grey[..., None], tensor, tensor[None], PIL.Image.fromarray(grey)):
        assert np.array_equal(network.predict(form), expected)


def test_many_images(network: Segmenter, tmp_path: Path) -> None:
    images = [picture(40, 56, 1), picture(40, 56, 2), picture(32, 48, 3)]
    path = tmp_path / "a.png"
    PIL.Image.fromarray(images[2]).save(path)
    alone = [network.predict(image) for image in images]
    for many in ([images[0], images[1], path], (image for image in images), tuple(images)):
        found = network.predict(many)
        assert isinstance(found, list)
        assert all(np.array_equal(one, two) for one, two in zip(found, alone, strict=True))
    stacked = np.stack(images[:2])
    for batch in (stacked, torch.from_numpy(stacked).permute(0, 3, 1, 2)):
        assert np.array_equal(np.stack(network.predict(batch)), np.stack(alone[:2]))
    assert network.predict([]) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (None, "want a path"),
        (3, "int '3'"),
        (b"bytes", "want a path"),
        (np.zeros((3, 40, 56), np.uint8), "transpose"),
        (np.zeros((40, 56, 5), np.uint8), "(40, 56, 5)"),
        (np.zeros((0, 5, 3), np.uint8), "(0, 5, 3)"),
        (np.zeros((40, 56, 3), np.int64), "int64"),
        (np.zeros((40, 56, 3), bool), "bool"),
        (np.zeros(5, np.uint8), "(5,)"),
        (np.full((4, 4, 3), 255.0), "255"),
        (torch.zeros(2, 40, 56), "a tensor (2, 40, 56)"),
        ("missing.png", "missing.png"),
    ],
)
def test_anything_else_is_refused_by_name(network: Segmenter, wrong: Any, says: str) -> None:
    with pytest.raises(DataError) as refused:
        network.segment(wrong)
    assert says in str(refused.value)
    with pytest.raises(DataError):
        network.predict([wrong])


def test_a_segmentation_says_how_sure_it_is(network: Segmenter) -> None:
    image = picture(40, 56)
    found = network.segment(image, probabilities=True)
    assert np.array_equal(found.label, network.predict(image))
    with inference(network):
        expected = class_logits(network, prepare(image, None), (40, 56)).softmax(1)[0].numpy()
    assert found.probabilities is not None
    assert found.confidence is not None
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(found.confidence, expected.max(0), atol=1e-6)
    assert network.segment(image).probabilities is None
    both = list(network.segment_many([image, picture(32, 48)]))
    assert [each.label.shape for each in both] == [(40, 56), (32, 48)]
    assert np.array_equal(both[0].label, found.label)


def test_pictures_of_a_segmentation(network: Segmenter, tmp_path: Path) -> None:
    found = network.segment(picture(60, 200))
    palette = np.array(network.classes.palette)
    assert np.array_equal(found.colors(), palette[found.label])
    mixed = 0.75 * found.image + 0.25 * found.colors()
    assert np.abs(found.overlay(0.25) - mixed).max() <= 1
    with_legend = found.overlay(legend=True)
    assert np.array_equal(with_legend[:60], found.overlay())
    for train_id in np.unique(found.label):
        assert (with_legend[60:] == palette[train_id]).all(-1).any()
    assert np.array_equal(read_pixels(found.save(tmp_path / "a.png")), found.overlay())
    assert np.array_equal(read_pixels(found.save(tmp_path / "b.png", "train-ids")), found.label)
    assert cv2.imread(str(found.save(tmp_path / "c.png", "confidence")), 0) is not None
    for path, what in (("a.jpg", "overlay"), ("a.png", "gif")):
        with pytest.raises(UserError, match=r"saved as PNG|one of overlay"):
            found.save(tmp_path / path, what)
    with pytest.raises(UserError, match="opacity"):
        found.overlay(2)


def test_legends_fit_any_width(network: Segmenter) -> None:
    ids = list(range(network.num_classes))
    assert legend_of(network.classes, ids, 40).shape[:2] == (22 * len(ids) + 6, 40)
    assert legend_of(network.classes, ids, 800).shape[:2] == (28, 800)
    assert legend_of(network.classes, [], 50).shape[1] == 50


def test_representations_are_short(network: Segmenter) -> None:
    assert repr(network).startswith("Segmenter(resnet-")
    assert "4 classes" in repr(network)
    assert len(repr(network)) < 100
    label = np.array([[0, 0, 1, 255]], np.uint8)
    shown = repr(Segmentation(np.zeros((1, 4, 3), np.uint8), label, None, network.classes))
    assert shown.startswith(f"Segmentation(4×1: {network.classes.names[0]} 50 %")
