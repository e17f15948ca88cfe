"""The recipes of CAG-plus for Cityscapes are at the published settings of their parts."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cag_uda.methods.cag_plus_settings import THINGS, CAGPlusConfig
from cag_uda.methods.optim import OptimConfig, build_optimizer
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe, builtin_recipes, load_recipe

DAFORMER = OptimConfig(
    optimizer="adamw",
    learning_rate=6e-5,
    head_multiplier=10.0,
    weight_decay=0.01,
    decays_norms=False,
    schedule="poly",
    power=1.0,
    warmup_steps=1500,
)
"""Hoyer et al., DAFormer, CVPR 2022, section 4.1 and its released code."""


@pytest.fixture(params=["cag-plus-gta5-cityscapes", "cag-plus-synthia-cityscapes"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """A recipe at the size of the papers."""
    return load_recipe(request.param)


def test_network_data_and_optimiser_are_daformers(recipe: Recipe) -> None:
    assert recipe.segmenter == SegmenterConfig(
        backbone="mit-b5", weights="imagenet", decoder="daformer", norm="shared"
    )
    loading = recipe.loading
    assert (loading.batch_size, loading.crop_px) == (2, (512, 512))
    assert (loading.width_px, loading.scale) == (1024, (1.0, 1.25)), "Cityscapes' and the source's"
    assert loading.rare_class_temperature == 0.01
    assert [stage.steps for stage in recipe.stages] == [40_000, 0]
    assert recipe.stages[0].optim == DAFORMER


def test_methods_have_the_settings_of_the_papers_of_their_parts(recipe: Recipe) -> None:
    plus, answer = (stage.method for stage in recipe.stages)
    assert answer.name == "anchor-classifier"
    assert isinstance(plus, CAGPlusConfig)
    assert plus.momentum == 0.999, "DAFormer's"
    assert (plus.initial.weight, plus.initial.classes) == (0.005, THINGS), "DAFormer's"
    assert (plus.mask.ratio, plus.mask.block) == (0.7, 64 / 1024), "MIC's"


def test_hrdas_network_is_a_copy_away(recipe: Recipe, tmp_path: Path) -> None:
    changes = [
        "loading.width_px=2048",
        "loading.crop_px=[1024,1024]",
        "segmenter.detail={}",
    ]
    text = builtin_recipes()[recipe.name].read_text()
    assert " ".join(f"--set {change}" for change in changes) in text
    (tmp_path / "copy.toml").write_text(text[: text.index("# Adapts category anchors")])
    detail = load_recipe(tmp_path / "copy.toml", changes).segmenter.detail
    assert detail is not None
    assert (detail.crop_px, detail.scale, detail.weight) == ((512, 512), 2, 0.1)


def test_norms_may_be_exempt_from_weight_decay(classes: Classes) -> None:
    config = SegmenterConfig(backbone="mit-micro", decoder="daformer")
    segmenter = Segmenter(config, classes)
    optimizer = build_optimizer(segmenter.parameter_groups(), DAFORMER)
    assert isinstance(optimizer, torch.optim.AdamW)
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    rates = {group["name"]: group["peak_rate"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"backbone": 6e-5, "head": 6e-4})
    assert len(decay) == len(list(segmenter.parameters()))
    for module in segmenter.modules():
        is_norm = isinstance(module, nn.LayerNorm | nn.BatchNorm2d)
        for name, parameter in module.named_parameters(recurse=False):
            is_exempt = is_norm or name == "bias"
            assert decay[id(parameter)] == (0.0 if is_exempt else 0.01), (module, name)


def test_exempt_parameters_of_a_step_do_not_shrink_and_others_do(classes: Classes) -> None:
    """A step with gradients of zero is weight decay alone: w ← (1 − rate · decay) · w."""
    segmenter = Segmenter(SegmenterConfig(backbone="mit-micro", decoder="light"), classes)
    config = DAFORMER.model_copy(update={"learning_rate": 0.5, "layer_decay": 0.5})
    layers = segmenter.backbone.layers()
    optimizer = build_optimizer(segmenter.parameter_groups(), config, layers)
    before = {name: value.clone() for name, value in segmenter.named_parameters()}
    for parameter in segmenter.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = {name for name, value in segmenter.named_parameters() if value.equal(before[name])}
    assert kept >= {name for name, value in before.items() if value.ndim == 1}
    weight = segmenter.classifier.weight
    torch.testing.assert_close(weight, (1 - 5.0 * 0.01) * before["classifier.weight"])


def test_by_default_everything_decays_in_the_groups_that_there_were(segmenter: Segmenter) -> None:
    groups = segmenter.parameter_groups()
    optimizer = build_optimizer(groups, OptimConfig(optimizer="adamw", weight_decay=0.01))
    assert [group["name"] for group in optimizer.param_groups] == ["backbone", "head"]
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 0.01
        assert [id(p) for p in group["params"]] == [id(p) for p in groups[group["name"]]]
