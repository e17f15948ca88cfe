"""Transformer backbones, the decoder that fuses their levels, and how they are tuned."""

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.segformer.modeling_segformer import SegformerDropPath

import cag_uda
from cag_uda.errors import ModelError, RecipeError
from cag_uda.methods import Passes
from cag_uda.methods.adaptsegnet import AdaptSegNet, AdaptSegNetConfig
from cag_uda.methods.cag import CAG, CAGConfig, MarginConfig
from cag_uda.methods.dacs import DACS, DACSConfig
from cag_uda.methods.optim import OptimConfig
from cag_uda.methods.source_only import SourceOnly, SourceOnlyConfig
from cag_uda.models.backbone import Backbone
from cag_uda.models.backbones import BACKBONES, build_backbone
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.decoders import DAFormerDecoder
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.start import start_from
from cag_uda.recipes import load_recipe
from cag_uda.runner import initial_segmenter
from cag_uda.scenario import Scenario
from cag_uda.types import Batch, Labelled, Unlabelled

from .trees import COLOURS, NAMES, write_recipe

FAMILIES = ["mit", "dinov2", "dinov3", "convnextv2", "swinv2"]
STRIDES = {"dinov2": (14,) * 4, "dinov3": (16,) * 4}


def make(family: str, classes: Classes, decoder: str = "light", **settings: Any) -> Segmenter:
    torch.manual_seed(0)
    form = {"backbone": f"{family}-micro", "decoder": decoder, **settings}
    return Segmenter(SegmenterConfig.model_validate(form), classes)


def make_batch(size: int = 40) -> Batch:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (2, size, size), generator=generator)
    source, target = torch.rand(2, 2, 3, size, size, generator=generator)
    return Batch(Labelled(source, label), Unlabelled(target, target))


def make_passes() -> Passes:
    batch = make_batch()
    return Passes(lambda: iter([batch.source]), lambda: iter([batch.target]), _same)


def _same(tensor: Tensor) -> Tensor:
    return tensor


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
    cell = segmenter.backbone.strides[0]
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


def test_layers_hold_every_parameter_once_and_decay_towards_the_input(classes: Classes) -> None:
    segmenter = make("dinov2", classes)
    layers = segmenter.backbone.layers()
    assert len(layers) == 1 + 4
    given = [id(p) for layer in layers for p in layer]
    assert sorted(given) == sorted(id(p) for p in segmenter.backbone.parameters())
    embeddings = segmenter.backbone.network.embeddings
    assert {id(p) for p in layers[0]} == {id(p) for p in embeddings.parameters()}
    config = OptimConfig(optimizer="adamw", learning_rate=1e-4, layer_decay=0.5, weight_decay=0.01)
    method = SourceOnly(segmenter, SourceOnlyConfig())
    optimizer = method.optimizers(config)["segmenter"]
    assert isinstance(optimizer, torch.optim.AdamW)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx(
        {
            "backbone-4": 1e-4,
            "backbone-3": 5e-5,
            "backbone-2": 2.5e-5,
            "backbone-1": 1.25e-5,
            "backbone-0": 6.25e-6,
            "head": 1e-3,
        }
    )
    learning = sum(p.numel() for p in segmenter.parameters() if p.requires_grad)
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == learning


@pytest.mark.parametrize("name", ["resnet-tiny", "mit-micro", "swinv2-micro", "convnextv2-micro"])
def test_layers_of_networks_with_stages(name: str) -> None:
    backbone = build_backbone(name, None, 16)
    layers = backbone.layers()
    assert len(layers) == 1 + sum(BACKBONES[name].config["depths"])
    assert all(layers)
    given = [id(p) for layer in layers for p in layer]
    assert sorted(given) == sorted(id(p) for p in backbone.parameters())


def test_daformers_decoder_by_its_parts(classes: Classes) -> None:
    decoder = DAFormerDecoder((8, 16, 24, 32), (4, 8, 16, 32)).eval()
    maps = [
        torch.rand(1, c, 32 // s, 32 // s)
        for c, s in zip((8, 16, 24, 32), (1, 2, 4, 8), strict=True)
    ]
    projected = [level[0](x) for level, x in zip(decoder.levels, maps, strict=True)]
    enlarged = [F.interpolate(x, (32, 32), mode="bilinear", align_corners=True) for x in projected]
    stacked = torch.cat(enlarged, dim=1)
    assert stacked.shape == (1, 1024, 32, 32)
    context = torch.cat([branch(stacked) for branch in decoder.context], dim=1)
    torch.testing.assert_close(decoder(maps), decoder.fuse(context))
    dilations = [branch[0].dilation[0] for branch in decoder.context]
    assert dilations == [1, 6, 12, 18]
    assert [branch[0].groups for branch in decoder.context] == [1, 1024, 1024, 1024]


def test_a_frozen_backbone_keeps_its_weights_and_drops_nothing(classes: Classes) -> None:
    segmenter = make("mit", classes, tuning="frozen")
    method = SourceOnly(segmenter, SourceOnlyConfig()).train()
    optimizer = method.optimizers(OptimConfig(layer_decay=0.9))["segmenter"]
    assert [group["name"] for group in optimizer.param_groups] == ["head"]
    assert not any(module.training for module in segmenter.backbone.modules())
    assert segmenter.decoder.training
    before = copy.deepcopy(segmenter.state_dict())
    for losses in method.losses(make_batch()):
        losses["source/ce"].backward()
    optimizer.step()
    changed = [key for key, value in segmenter.state_dict().items() if not value.equal(before[key])]
    assert changed
    assert not any(key.startswith("backbone.") for key in changed)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_learns_beside_the_weights_and_is_delivered_merged(
    family: str, classes: Classes, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    plain = make(family, classes).state_dict()
    segmenter = make(family, classes, tuning="lora", lora_rank=2)
    image = torch.rand(1, 3, 48, 48)
    untouched = segmenter.eval()(image).logits
    margin = MarginConfig(kind="clearest", value=0.5)
    method = CAG(segmenter, CAGConfig(margin=margin))
    method.prepare(make_passes())
    torch.testing.assert_close(segmenter.eval()(image).logits, untouched)
    optimizer = method.optimizers(OptimConfig(learning_rate=0.5, layer_decay=0.9))["segmenter"]
    for _ in range(2):  # In the first step half of each addition is zero.
        for losses in method.train().losses(make_batch()):
            torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    learning = [n for n, p in segmenter.backbone.named_parameters() if p.requires_grad]
    assert learning
    assert all(".lora_" in name for name in learning)
    tuned = segmenter.eval()(image).logits
    assert not tuned.allclose(untouched, atol=1e-3)

    segmenter.save_pretrained(tmp_path)
    loaded = cag_uda.load(tmp_path)
    assert loaded.state_dict().keys() == plain.keys()
    torch.testing.assert_close(loaded(image).logits, tuned, rtol=1e-4, atol=1e-4)
    again = SourceOnly(loaded, SourceOnlyConfig())
    assert any(".lora_" in name for name, _ in again.named_parameters())


def test_lora_that_cannot_be_is_one_clear_error(
    classes: Classes, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SegmenterConfig(backbone="resnet-tiny", decoder="light", tuning="lora")
    if cag_uda.models.tuning.find_spec("peft"):
        with pytest.raises(ModelError, match=r"resnet-tiny has none"):
            SourceOnly(Segmenter(config, classes), SourceOnlyConfig())
    monkeypatch.setattr("cag_uda.models.tuning.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install peft"):
        SourceOnly(make("mit", classes, tuning="lora"), SourceOnlyConfig())


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


def test_a_recipe_may_start_from_a_model(classes: Classes, tmp_path: Path) -> None:
    model = make("mit", classes, norm="shared")
    model.estimate_statistics([torch.rand(2, 3, 48, 48)], "target")
    model.save_pretrained(tmp_path)
    segmenter = make("mit", classes, norm="per-domain").requires_grad_(True)
    for parameter in segmenter.parameters():
        parameter.data.zero_()
    start_from(segmenter, str(tmp_path))
    image = torch.rand(1, 3, 48, 48)
    expected = model.eval()(image).logits
    for domain in ("source", "target"):
        assert segmenter.eval()(image, domain).logits.equal(expected)

    other = Classes(names=("road", "car"), palette=((0, 0, 0), (1, 1, 1)))
    form = {"mean": (0.0, 0.0, 0.0), "output_stride": 8}
    with pytest.raises(ModelError) as caught:
        start_from(make("mit", other, "daformer", **form), str(tmp_path))
    assert len(caught.value.problems) == 4
    assert "tells road, car, tree, sky apart, but the recipe's domains road, car" in str(
        caught.value
    )
    assert "has decoder 'light', but the recipe wants 'daformer'" in str(caught.value)
    with pytest.raises(ModelError, match="no model at"):
        start_from(segmenter, str(tmp_path / "nowhere"))


def test_a_recipe_names_the_model_that_it_starts_from(classes: Classes, tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    torch.manual_seed(3)
    domain = Classes(names=NAMES, palette=tuple(tuple(colour) for colour in COLOURS.tolist()))
    model = Segmenter(SegmenterConfig(backbone="resnet-tiny", decoder="light"), domain)
    model.save_pretrained(tmp_path / "earlier" / "model")
    recipe = load_recipe(path, ["segmenter.start=earlier"])
    assert recipe.segmenter.start == str(tmp_path / "earlier"), "a copy of the recipe still works"
    initial = initial_segmenter(recipe, Scenario.open(recipe))
    for key, value in initial.state_dict().items():
        assert value.equal(model.state_dict()[key]), key
    assert initial.config.start is None, "the network does not tell where it began on this machine"
    assert load_recipe(path, ["segmenter.start=owner/name"]).segmenter.start == "owner/name"
    with pytest.raises(RecipeError, match="leave out weights"):
        load_recipe(path, ["segmenter.start=earlier", "segmenter.weights=imagenet"])


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
