"""Transformer backbones, and the decoder that fuses their levels."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers.models.segformer.modeling_segformer import SegformerDropPath

import cag_uda
from cag_uda.errors import ModelError
from cag_uda.methods.adaptsegnet import AdaptSegNet, AdaptSegNetConfig
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.methods.dacs import DACS, DACSConfig
from cag_uda.methods.margin_fitting import MarginConfig
from cag_uda.methods.optim import OptimConfig
from cag_uda.models.backbone import Backbone
from cag_uda.models.backbones import build_backbone
from cag_uda.models.config import Classes
from cag_uda.models.decoders import DAFormerDecoder
from tests.support.modern_networks import FAMILIES, make, make_batch, make_passes
from tests.support.network_parts import part

STRIDES = {"dinov2": (14,) * 4, "dinov3": (16,) * 4, "efficientnet-lite": (4, 8, 16, 16)}


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_have_the_announced_channels_and_strides(family: str) -> None:
    backbone = build_backbone(f"{family}-micro", None, 16).eval()
    assert backbone.strides == STRIDES.get(family, (4, 8, 16, 32))
    side = 2 * math.lcm(backbone.strides[-1], backbone.multiple)
    maps = backbone(torch.rand(1, 3, side, 2 * side))
    assert tuple(m.shape[1] for m in maps) == backbone.channels
    assert [tuple(m.shape[-2:]) for m in maps] == [
        (side // stride, 2 * side // stride) for stride in backbone.strides
    ]
    with pytest.raises(ModelError, match="multi_grid"):
        build_backbone(f"{family}-micro", None, 16, (1, 2, 4))


@pytest.mark.parametrize("decoder", ["light", "daformer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_any_size_are_padded_and_cropped(
    family: str, decoder: str, classes: Classes
) -> None:
    """Features and logits of a 45×67 image are those of its enlargement, without the border."""
    segmenter = make(family, classes, decoder).eval()
    cell: float = segmenter.backbone.strides[0]
    if decoder == "daformer" and family.startswith("dino"):
        cell /= 4
    image = torch.rand(1, 3, 45, 67)
    features, logits = segmenter(image)
    assert features.shape[-2:] == (math.ceil(45 / cell), math.ceil(67 / cell))
    assert features.shape[:2] == (1, segmenter.feature_channels)
    multiple = segmenter.backbone.multiple
    enlarged = F.pad(image, (0, -67 % multiple, 0, -45 % multiple), mode="replicate")
    whole = segmenter(enlarged)
    torch.testing.assert_close(
        features, whole.features[..., : features.shape[2], : features.shape[3]]
    )
    torch.testing.assert_close(logits, whole.logits[..., : logits.shape[2], : logits.shape[3]])


@pytest.mark.parametrize("norm", ["per-domain", "shared", "frozen"])
def test_norms_of_the_decoder_serve_where_the_backbone_has_none(
    norm: str, classes: Classes
) -> None:
    segmenter = make("dinov3", classes, norm=norm)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in segmenter.backbone.modules())
    before = [each.clone() for each in segmenter.statistics("source")]
    assert before
    segmenter.estimate_statistics([torch.rand(2, 3, 48, 48)], "target")
    assert not segmenter.statistics("target")[0].equal(before[0])
    assert segmenter.statistics("source")[0].equal(before[0]) == (norm == "per-domain")
    image = torch.rand(1, 3, 48, 48)
    same = segmenter.eval()(image, "source").logits.equal(segmenter(image, "target").logits)
    assert same == (norm != "per-domain")


@pytest.mark.parametrize("family", FAMILIES)
def test_anchors_and_a_step_of_cag_on_every_family(family: str, classes: Classes) -> None:
    margin = MarginConfig(kind="clearest", value=0.5)
    method = CAG(make(family, classes), CAGConfig(margin=margin))
    method.prepare(make_passes())
    assert (method.anchors.counts > 0).all()
    assert method.anchors.vectors.isfinite().all()
    labels = method.pseudo_labels(make_batch().target.plain)["anchor"].label
    assert 0 < (labels != 255).float().mean() < 1
    optimizer = method.optimizers(OptimConfig(optimizer="adamw", layer_decay=0.5))["segmenter"]
    before = copy.deepcopy(method.segmenter.state_dict())
    for losses in method.train().losses(make_batch()):
        total = torch.stack(list(losses.values())).sum()
        assert total.isfinite()
        total.backward()
    # A parameter without a gradient would keep processes that train together waiting.
    waiting = [
        n for n, p in method.segmenter.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert waiting == []
    optimizer.step()
    after = method.segmenter.state_dict()
    assert any(
        name.startswith("backbone") and not after[name].equal(before[name]) for name in after
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_and_a_saved_network_compute_the_same(
    family: str, classes: Classes, tmp_path: Path
) -> None:
    segmenter = make(family, classes).eval()
    image = torch.rand(1, 3, 48, 48)
    expected = segmenter(image).logits
    copied = copy.deepcopy(segmenter).requires_grad_(False)
    segmenter.save_pretrained(tmp_path)
    for parameter in segmenter.parameters():
        parameter.data.zero_()
    assert copied(image).logits.equal(expected)
    assert cag_uda.load(tmp_path)(image).logits.equal(expected)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("mit", "SegformerForImageClassification"),
        ("dinov2", "Dinov2ForImageClassification"),
        ("dinov3", "DINOv3ViTModel"),
        ("convnextv2", "ConvNextV2ForImageClassification"),
        ("swinv2", "Swinv2ForImageClassification"),
    ],
)
def test_published_weights_are_placed_and_the_classifier_left_out(
    name: str, full: str, tmp_path: Path
) -> None:
    config = build_backbone(f"{name}-micro", None, 16).network.config
    torch.manual_seed(5)
    published = getattr(transformers, full)(config)
    published.save_pretrained(tmp_path)
    backbone = build_backbone(f"{name}-micro", str(tmp_path), 16)
    assert "placed" in backbone.origin
    assert ("classifier.weight" in backbone.origin) == ("Image" in full)
    theirs = {key.partition(".")[2]: value for key, value in published.state_dict().items()}
    theirs |= published.state_dict()
    compared = 0
    for key, value in backbone.network.state_dict().items():
        if not key.startswith("hidden_states_norms."):
            assert value.equal(theirs[key]), key
            compared += 1
    assert compared > 20
    other = "dinov2-micro" if name != "dinov2" else "dinov3-micro"
    with pytest.raises(ModelError, match="do not fit the network"):
        build_backbone(other, str(tmp_path), 16)


OLDER_NAMES = {
    "mit": [
        (r"^stages\.(\d)\.patch_embeddings\.", r"segformer.encoder.patch_embeddings.\1."),
        (r"^stages\.(\d)\.blocks\.", r"segformer.encoder.block.\1."),
        (r"^stages\.(\d)\.layer_norm\.", r"segformer.encoder.layer_norm.\1."),
        (r"attention\.sequence_reduction\.sequence_reduction", "attention.self.sr"),
        (r"attention\.sequence_reduction\.layer_norm", "attention.self.layer_norm"),
        (r"attention\.q_proj", "attention.self.query"),
        (r"attention\.k_proj", "attention.self.key"),
        (r"attention\.v_proj", "attention.self.value"),
        (r"attention\.o_proj", "attention.output.dense"),
        (r"mlp\.fc", "mlp.dense"),
        (r"layernorm_before", "layer_norm_1"),
        (r"layernorm_after", "layer_norm_2"),
    ],
    "dinov2": [
        (r"attention\.q_proj", "attention.attention.query"),
        (r"attention\.k_proj", "attention.attention.key"),
        (r"attention\.v_proj", "attention.attention.value"),
        (r"attention\.o_proj", "attention.output.dense"),
    ],
    "dinov3": [(r"^model\.layer\.", "layer.")],
}
"""How the files on the hub call what transformers calls otherwise since."""


@pytest.mark.parametrize("family", OLDER_NAMES)
def test_weights_in_the_names_of_older_releases_are_translated(family: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    published = build_backbone(f"{family}-micro", None, 16).network.state_dict()
    older = {}
    for key, value in published.items():
        for pattern, old in OLDER_NAMES[family]:
            key = re.sub(pattern, old, key)
        older[key] = value
    assert older.keys() != published.keys()
    torch.save(older, tmp_path / "pytorch_model.bin")
    network = build_backbone(f"{family}-micro", str(tmp_path), 16).network
    for key, value in network.state_dict().items():
        assert value.equal(published[key]), key
    del older[next(key for key in older if "attention" in key)]
    torch.save(older, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"do not fit the network: .*attention.* is missing"):
        build_backbone(f"{family}-micro", str(tmp_path), 16)


def test_daformers_decoder_by_its_parts(classes: Classes) -> None:
    decoder = DAFormerDecoder((8, 16, 24, 32), (4, 8, 16, 32)).eval()
    maps = [
        torch.rand(1, c, 32 // s, 32 // s)
        for c, s in zip((8, 16, 24, 32), (1, 2, 4, 8), strict=True)
    ]
    firsts = [level.get_submodule("0") for level in decoder.levels]
    projected = [first(x) for first, x in zip(firsts, maps, strict=True)]
    enlarged = [F.interpolate(x, (32, 32), mode="bilinear", align_corners=True) for x in projected]
    stacked = torch.cat(enlarged, dim=1)
    assert stacked.shape == (1, 1024, 32, 32)
    context = torch.cat([branch(stacked) for branch in decoder.context], dim=1)
    torch.testing.assert_close(decoder(maps), decoder.fuse(context))
    convolutions = [part(branch, "0", nn.Conv2d) for branch in decoder.context]
    assert [each.dilation[0] for each in convolutions] == [1, 6, 12, 18]
    assert [each.groups for each in convolutions] == [1, 1024, 1024, 1024]


def test_a_dacs_teacher_leaves_out_no_block(classes: Classes) -> None:
    """MiT leaves out whole blocks at random while it trains; what labels must not shake so."""
    method = DACS(make("mit", classes, norm="frozen"), DACSConfig()).train()
    drops = [m for m in method.segmenter.modules() if isinstance(m, SegformerDropPath)]
    assert drops
    assert all(drop.training for drop in drops)
    image = make_batch().target.plain
    first, second = (method.teacher(image).logits for _ in range(2))
    assert first.equal(second)


def test_two_levels_are_cropped_alike(classes: Classes) -> None:
    method = AdaptSegNet(make("convnextv2", classes), AdaptSegNetConfig(discriminator_channels=4))
    prediction, auxiliary = method.networks()["segmenter"](torch.rand(2, 3, 45, 67))
    assert prediction.logits.shape[-2:] == (12, 17), (
        "ceil(45 / 4), ceil(67 / 4), not 64 / 4, 96 / 4"
    )
    assert auxiliary.shape[-2:] == (3, 5), "ceil(45 / 16), ceil(67 / 16)"


def test_every_row_is_a_backbone_of_the_size_that_its_paper_names() -> None:
    """Millions of parameters without the classifier, on the meta device: nothing is allocated."""
    expected = {
        "mit-b0": 3.3,
        "mit-b5": 81.4,
        "dinov2-small": 22.1,
        "dinov2-large": 304.4,
        "dinov3-base": 85.7,
        "convnextv2-tiny": 27.9,
        "convnextv2-base": 87.7,
        "swinv2-tiny": 27.6,
        "swinv2-large": 195.2,
    }
    for name, millions in expected.items():
        with torch.device("meta"):
            backbone: Backbone = build_backbone(name, None, 16)
        count = sum(p.numel() for p in backbone.parameters()) / 1e6
        assert count == pytest.approx(millions, abs=0.3), name
