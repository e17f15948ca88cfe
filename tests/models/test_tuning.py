"""How networks learn: from which weights they start, which layers learn, and how fast."""

import copy
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import cag_uda
from cag_uda.adaptation.adapted_anchors import SourceFigures
from cag_uda.errors import ModelError, RecipeError, RunError
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.methods.margin_fitting import MarginConfig
from cag_uda.methods.optim import OptimConfig
from cag_uda.methods.source_only import SourceOnly, SourceOnlyConfig
from cag_uda.models.backbones import BACKBONES, build_backbone
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.pack import Pack
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.start import start_from
from cag_uda.recipes import load_recipe
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.initial import initial_segmenter
from cag_uda.runs.scenario import Scenario
from tests.support.modern_networks import FAMILIES, make, make_batch, make_passes
from tests.support.trees import COLOURS, NAMES, write_recipe


def test_layers_hold_every_parameter_once_and_decay_towards_the_input(classes: Classes) -> None:
    segmenter = make("dinov2", classes)
    layers = segmenter.backbone.layers()
    assert len(layers) == 1 + 4
    given = [id(p) for layer in layers for p in layer]
    assert sorted(given) == sorted(id(p) for p in segmenter.backbone.parameters())
    embeddings = segmenter.backbone.network.get_submodule("embeddings")
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


@pytest.mark.parametrize("family", [each for each in FAMILIES if each != "efficientnet-lite"])
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


def test_a_pack_is_of_a_network_with_lora_until_it_has_learned(classes: Classes) -> None:
    pytest.importorskip("peft")
    segmenter = make("dinov2", classes, tuning="lora", lora_rank=2)
    zeros = torch.zeros(segmenter.num_classes, dtype=torch.int64)
    pack = Pack.of(segmenter, SourceFigures(*[zeros] * 4), "day/train")
    method = SourceOnly(segmenter, SourceOnlyConfig())
    assert pack.is_of(segmenter), "additions begin at 0"
    with torch.no_grad():
        for name, each in method.segmenter.named_parameters():
            if ".lora_" in name:
                each.add_(0.1)
    assert not pack.is_of(segmenter)


def test_lora_that_cannot_be_is_one_clear_error(
    classes: Classes, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SegmenterConfig(backbone="resnet-tiny", decoder="light", tuning="lora")
    if find_spec("peft"):
        with pytest.raises(ModelError, match=r"resnet-tiny has none"):
            SourceOnly(Segmenter(config, classes), SourceOnlyConfig())
    monkeypatch.setattr("cag_uda.models.tuning.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install peft"):
        SourceOnly(make("mit", classes, tuning="lora"), SourceOnlyConfig())


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
    run = RunFolder(tmp_path / "run")
    begun = run.create(recipe)
    assert 'start = "start/earlier"' in (run.path / "recipe.toml").read_text()
    assert run.resume(recipe) == begun, "the same weights, wherever they lie"
    with pytest.raises(RunError, match="differing: segmenter"):
        run.resume(load_recipe(path, ["segmenter.start=not/here/at/all"]))
    shutil.rmtree(tmp_path / "earlier")
    again = initial_segmenter(load_recipe(run.path / "recipe.toml"), Scenario.open(recipe))
    for key, value in again.state_dict().items():
        assert value.equal(model.state_dict()[key]), "the run folder needs no other one"
    assert load_recipe(path, ["segmenter.start=owner/name"]).segmenter.start == "owner/name"
    with pytest.raises(RecipeError, match="leave out weights"):
        load_recipe(path, ["segmenter.start=earlier", "segmenter.weights=imagenet"])
