"""Segmenters: shapes, statistics per domain, storage."""

import copy
import json
import math
import random
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import cag_uda
from cag_uda.errors import DataError, ModelError
from cag_uda.models.backbones import build_backbone
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.decoders import DECODERS
from cag_uda.models.discriminator import Discriminator
from cag_uda.models.norm import DomainBatchNorm2d
from cag_uda.models.segmenter import Segmenter
from tests.support.network_parts import part, publish, stem


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_features_and_logits_at_the_decoders_stride(
    decoder: str, stride: int, classes: Classes
) -> None:
    config = SegmenterConfig.model_validate(
        {"backbone": "resnet-tiny", "decoder": decoder, "output_stride": stride}
    )
    segmenter = Segmenter(config, classes).eval()
    features, logits = segmenter(torch.rand(2, 3, 64, 96))
    on_last_map = ("deeplab-v2", "deeplab-v2-adaptsegnet", "deeplab-v3", "fcn")
    cells = stride if decoder in on_last_map else 4
    assert features.shape == (2, segmenter.feature_channels, 64 // cells, 96 // cells)
    assert logits.shape == (2, 4, 64 // cells, 96 // cells)
    height, width = segmenter(torch.rand(1, 3, 45, 67)).logits.shape[-2:]
    assert (height, width) == (math.ceil(45 / cells), math.ceil(67 / cells))
    torch.testing.assert_close(segmenter.classifier(features), logits)


def test_pixels_of_8_bits_are_those_in_0_to_1(segmenter: Segmenter) -> None:
    image = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    segmenter.eval()
    assert segmenter(image).logits.equal(segmenter(image.float() / 255).logits)


def test_the_last_map_comes_with_the_prediction_where_it_is_asked_for(segmenter: Segmenter) -> None:
    image = torch.rand(2, 3, 64, 96)
    segmenter.eval()
    features, logits = segmenter(image)
    prediction, last_map = segmenter(image, last_map=True)
    assert last_map.equal(segmenter.encode(image)[-1])
    assert prediction.features.equal(features)
    assert prediction.logits.equal(logits)


@pytest.mark.parametrize("aligned", [False, True])
def test_cells_and_pixels_lie_where_the_network_was_trained_to_have_them(
    aligned: bool, segmenter: Segmenter
) -> None:
    """Edges on edges and labels at centres, or corners on corners, as the released code."""
    config = segmenter.config.model_copy(update={"align_corners": aligned})
    network = Segmenter(config, segmenter.classes)
    cells = torch.rand(1, 5, 2, 3)
    wanted = F.interpolate(cells, (8, 12), mode="bilinear", align_corners=aligned)
    assert network.upsample(cells, (8, 12)).equal(wanted)
    label = torch.arange(8 * 12).view(1, 8, 12)
    corners = F.interpolate(label[None].double(), (2, 3), mode="nearest")[0].long()
    assert network.on_grid(label, cells).equal(corners if aligned else label[:, 2::4, 2::4])


@pytest.mark.parametrize("name", ["resnet-tiny", "resnet-18-half", "resnet-18", "resnet-50"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_backbones_have_the_asked_stride_and_the_weights_of_the_undilated(
    name: str, stride: int
) -> None:
    backbone = build_backbone(name, None, stride)
    maps = backbone(torch.rand(1, 3, 64, 96))
    assert [64 // m.shape[-2] for m in maps] == [4, 8, min(16, stride), stride]
    assert tuple(m.shape[1] for m in maps) == backbone.channels
    plain = build_backbone(name, None, 32)
    shapes = {key: value.shape for key, value in plain.state_dict().items()}
    assert shapes == {key: value.shape for key, value in backbone.state_dict().items()}


def test_resnet_101_has_the_published_layout() -> None:
    backbone = build_backbone("resnet-101", None, 16)
    convolutions = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(p.numel() for p in backbone.parameters()) == 42_500_160
    assert {m.dilation for m in convolutions} == {(1, 1), (2, 2)}


def test_multi_grid_multiplies_the_last_stages_dilation() -> None:
    backbone = build_backbone("resnet-50", None, 16, (1, 2, 4))
    dilations = [
        module.dilation[0]
        for module in backbone.network.get_submodule("encoder.stages").modules()
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    assert dilations == [1] * 13 + [2, 4, 8]
    with pytest.raises(ModelError, match=r"2 factors, but .* 3 blocks"):
        build_backbone("resnet-50", None, 16, (1, 2))


def test_the_caffe_form_strides_in_the_first_convolution_and_pools_beyond_the_edge() -> None:
    """AdaptSegNet's network, at its output stride of 8."""
    backbone = build_backbone("resnet-101-caffe", None, 8)
    assert part(backbone.network, "embedder.pooler", torch.nn.MaxPool2d).ceil_mode
    encoder = backbone.network.get_submodule("encoder")
    strided = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.Conv2d) and module.stride != (1, 1)
    ]
    assert strided == [
        "stages.1.layers.0.shortcut.convolution",
        "stages.1.layers.0.layer.0.convolution",
    ]
    dilations = {
        (index, module.dilation[0])
        for index, stage in enumerate(encoder.get_submodule("stages").children())
        for module in stage.modules()
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3)
    }
    assert dilations == {(0, 1), (1, 1), (2, 2), (3, 4)}
    assert sum(p.numel() for p in backbone.parameters()) == 42_500_160


def test_deeplab_v2_classifies_the_last_map_itself(classes: Classes) -> None:
    config = SegmenterConfig(backbone="resnet-tiny", decoder="deeplab-v2", output_stride=8)
    segmenter = Segmenter(config, classes).eval()
    image = torch.rand(1, 3, 64, 80)
    features, logits = segmenter(image)
    assert features.equal(segmenter.encode(image)[-1])
    branches = [m for m in segmenter.classifier.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [branch.dilation[0] for branch in branches] == [6, 12, 18, 24]
    torch.testing.assert_close(logits, sum(branch(features) for branch in branches))
    assert all(branch.weight.std().item() == pytest.approx(0.01, rel=0.2) for branch in branches)
    head = {id(parameter) for parameter in segmenter.parameter_groups()["head"]}
    assert head == {id(parameter) for branch in branches for parameter in branch.parameters()}


def test_statistics_per_domain_are_kept_apart(segmenter: Segmenter) -> None:
    bright, dark = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32) * 0.2
    segmenter.train()
    for _ in range(3):
        segmenter(bright, "source")
        segmenter(dark, "target")
    segmenter.eval()
    _, first = stem(segmenter)
    assert isinstance(first, DomainBatchNorm2d)
    assert first.running_mean is not None
    assert not first.running_mean.allclose(first.source_mean)
    assert not segmenter(bright, "source").logits.equal(segmenter(bright, "target").logits)
    assert segmenter(bright).logits.equal(segmenter(bright, "target").logits)
    segmenter.adopt_source_statistics()
    assert segmenter(bright, "source").logits.equal(segmenter(bright, "target").logits)


def test_the_mixed_mean_stays_within_a_deviation_of_the_targets() -> None:
    norm = DomainBatchNorm2d(3, target_share=0.5)
    norm.source_mean.copy_(torch.tensor([1.0, 10.0, -10.0]))
    norm.source_var.copy_(torch.tensor([1.0, 7.0, 7.0]))
    mean, variance = norm.mixed_statistics()
    torch.testing.assert_close(variance, torch.tensor([1.0, 4.0, 4.0]))
    torch.testing.assert_close(mean, torch.tensor([0.5, 2.0, -2.0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_targets_images_are_normalised_by_mixed_statistics(
    share: float, classes: Classes
) -> None:
    """Against batch norm by hand, at the first norm; the source's images by the source's alone."""
    form = {"backbone": "resnet-tiny", "decoder": "light", "target_share": share}
    segmenter = Segmenter(SegmenterConfig.model_validate(form), classes)
    segmenter.estimate_statistics([torch.rand(4, 3, 32, 32)], "source")
    segmenter.estimate_statistics([torch.rand(4, 3, 32, 32) * 0.2], "target")
    segmenter.eval()
    image = torch.rand(2, 3, 32, 32)
    convolution, norm = stem(segmenter)
    assert isinstance(norm, DomainBatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    x = convolution((image - segmenter.mean) / segmenter.std)
    for domain, alpha in (("source", 0.0), ("target", share)):
        norm.domain = domain  # type: ignore[assignment]
        mean = (1 - alpha) * norm.source_mean + alpha * norm.running_mean
        variance = (1 - alpha) * norm.source_var + alpha * norm.running_var
        if domain == "target" and alpha:
            bound = (1 - alpha) / alpha * (variance + norm.eps).sqrt()
            mean = mean.clamp(norm.running_mean - bound, norm.running_mean + bound)
        expected = (x - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
        torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-5)
    other = copy.deepcopy(segmenter)
    other.set_target_share(1 - share)
    assert other.config.target_share == 1 - share
    same = other(image, "target").logits.allclose(segmenter(image, "target").logits)
    assert not same
    assert other(image, "source").logits.equal(segmenter(image, "source").logits)


def test_networks_of_before_the_mixture_keep_the_targets_statistics(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    segmenter.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    table = json.loads(path.read_text())
    del table["segmenter"]["target_share"]
    path.write_text(json.dumps(table))
    (tmp_path / "SHA256SUMS").unlink()  # Neither had networks of that time checksums.
    assert cag_uda.load(tmp_path).config.target_share == 1.0


def test_shared_and_frozen_norms(classes: Classes) -> None:
    image = torch.rand(2, 3, 32, 32)
    shared = Segmenter(
        SegmenterConfig(backbone="resnet-tiny", decoder="light", norm="shared"), classes
    )
    shared.eval()
    assert shared(image, "source").logits.equal(shared(image, "target").logits)
    frozen = Segmenter(
        SegmenterConfig(backbone="resnet-tiny", decoder="light", norm="frozen"), classes
    )
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    frozen.train()(image)
    assert all(value.equal(before[key]) for key, value in frozen.state_dict().items())


def test_estimated_statistics_are_the_mean_over_batches(segmenter: Segmenter) -> None:
    images = [torch.rand(2, 3, 32, 32) * scale for scale in (0.2, 0.6, 1.0)]
    segmenter.estimate_statistics(images, "target")
    convolution, norm = stem(segmenter)
    assert isinstance(norm, DomainBatchNorm2d)
    inputs = [convolution((image - segmenter.mean) / segmenter.std) for image in images]
    expected = torch.stack([x.mean(dim=(0, 2, 3)) for x in inputs]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert norm.source_mean.abs().max() == 0, "the source's are untouched"
    assert norm.momentum == 0.1


@pytest.mark.parametrize("norm", ["shared", "per-domain"])
def test_a_single_image_teaches_no_variance_of_pooled_features(norm: str, classes: Classes) -> None:
    """As the last of a sweep, or one of a size of its own; all other norms learn from it."""
    form = {"backbone": "resnet-tiny", "decoder": "light", "norm": norm}
    torch.manual_seed(0)
    segmenter = Segmenter(SegmenterConfig.model_validate(form), classes)
    pooled = part(segmenter.decoder, "pooled.1.1", torch.nn.BatchNorm2d)
    level = part(segmenter.decoder, "levels.0.1", torch.nn.BatchNorm2d)
    assert pooled.running_var is not None
    assert level.running_var is not None
    single, pair = torch.rand(3, 3, 64, 64).split([1, 2])
    segmenter.estimate_statistics([pair], "target")
    of_pair = pooled.running_var.clone(), level.running_var.clone()
    segmenter.estimate_statistics([single], "target")
    assert pooled.running_var.equal(of_pair[0])
    assert not level.running_var.equal(of_pair[1])
    pooled.running_var.fill_(77)
    segmenter.estimate_statistics([single, pair], "target")
    assert pooled.running_var.max() < 70, "what was before has no share in what is learnt"


def test_saved_and_loaded_is_the_same_network(segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter.save_pretrained(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "README.md",
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
    }
    loaded = cag_uda.load(tmp_path / "model")
    image = torch.rand(1, 3, 40, 56)
    assert loaded(image).logits.equal(segmenter.eval()(image).logits)
    assert loaded.config == segmenter.config
    assert loaded.classes == segmenter.classes
    assert cag_uda.load(tmp_path).config == segmenter.config, "a run stands for its network"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"junk"), "damaged"),
        (lambda folder: (folder / "config.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "config.json").write_text("[]"), "damaged"),
        (lambda folder: _edit(folder, "format", 99), "version"),
        (lambda folder: _edit(folder, "segmenter", {"backbone": "resnet-18"}), "do not fit"),
        (lambda folder: _edit(folder, "segmenter", {"backbone": "vgg"}), "vgg"),
    ],
)
def test_a_damaged_model_is_one_clear_error(
    damage: object, message: str, segmenter: Segmenter, tmp_path: Path
) -> None:
    segmenter.save_pretrained(tmp_path)
    assert callable(damage)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message):
        cag_uda.load(tmp_path)


def test_flipped_bits_of_a_network_are_seen(segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 100):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="is damaged"):
            cag_uda.load(tmp_path)


def test_a_network_of_an_earlier_version_is_noted_to_have_no_checksum(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segmenter.save_pretrained(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    for _ in range(2):
        cag_uda.load(tmp_path)
    assert [record.message for record in caplog.records] == [
        f"{tmp_path} has no checksums, as an earlier version wrote it: damage would not be seen"
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_is_not_finite_is_refused_by_name(
    segmenter: Segmenter, tmp_path: Path, value: float
) -> None:
    segmenter.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name].view(-1)[0] = value
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(ModelError, match=f"NaN or infinite numbers, in {name};"):
        cag_uda.load(tmp_path)
    broken = copy.deepcopy(segmenter)
    broken.load_state_dict(tensors)
    with pytest.raises(ModelError, match="NaN or infinite"):
        broken.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "model.safetensors").exists()


def _edit(folder: Path, key: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "SHA256SUMS").unlink()


def test_a_missing_model_is_an_error_at_once() -> None:
    with pytest.raises(ModelError, match="no model at nowhere"):
        cag_uda.load("nowhere")
    with pytest.raises(ModelError, match="no model at"):
        cag_uda.load(Path("a/b"))


def test_predict_takes_a_path_a_picture_or_an_array(segmenter: Segmenter, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    PIL.Image.fromarray(image).save(tmp_path / "x.png")
    label = segmenter.predict(image)
    assert label.shape == (50, 70)
    assert label.dtype == np.uint8
    assert np.array_equal(segmenter.predict(tmp_path / "x.png"), label)
    assert np.array_equal(segmenter.predict(PIL.Image.fromarray(image)), label)
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"bad\.png"):
        segmenter.predict(tmp_path / "bad.png")


def test_unknown_names_are_listed(classes: Classes) -> None:
    with pytest.raises(ModelError, match="resnet-18"):
        Segmenter(SegmenterConfig(backbone="resnet-9"), classes)
    with pytest.raises(ModelError, match="light"):
        Segmenter(SegmenterConfig(backbone="resnet-tiny", decoder="heavy"), classes)
    with pytest.raises(ModelError, match="random weights"):
        build_backbone("resnet-18", "no-such-folder", 16)


def test_published_weights_are_placed(tmp_path: Path) -> None:
    """A folder in the transformers layout, as the hub gives it."""
    published = build_backbone("resnet-tiny", None, 32)
    publish(published, tmp_path)
    backbone = build_backbone("resnet-tiny", str(tmp_path), 16)
    for key, value in published.state_dict().items():
        assert backbone.state_dict()[key].equal(value), key


def test_the_discriminator_is_adaptsegnets() -> None:
    discriminator = Discriminator(19)
    assert discriminator(torch.rand(1, 19, 64, 96)).shape == (1, 1, 2, 3)
    channels = [m.out_channels for m in discriminator.modules() if isinstance(m, torch.nn.Conv2d)]
    assert channels == [64, 128, 256, 512, 1]


@pytest.mark.parametrize(
    ("decoder", "channels", "width"),
    [("light", None, 32), ("deeplab-v3plus", None, 64), ("light", 7, 7)],
)
def test_a_discriminator_is_narrower_for_a_small_network(
    decoder: str, channels: int | None, width: int
) -> None:
    config = SegmenterConfig(backbone="resnet-tiny", decoder=decoder)
    segmenter = Segmenter(config, Classes(names=("road", "sky"), palette=((1, 2, 3), (4, 5, 6))))
    first = next(Discriminator.of(segmenter, channels).parameters())
    assert first.shape[:2] == (width, 2)
