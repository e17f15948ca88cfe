"""Output-space alignment: AdaptSegNet at one and two levels, ADVENT, and what they are made of."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cag_uda
from cag_uda.adaptation.losses import entropy, self_information
from cag_uda.errors import ShapeError
from cag_uda.methods.adaptsegnet import AdaptSegNet, AdaptSegNetConfig
from cag_uda.methods.advent import Advent, AdventConfig
from cag_uda.methods.adversarial import AdversarialConfig
from cag_uda.methods.optim import OptimConfig
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.discriminator import Discriminator
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.two_levels import TwoLevelSegmenter, auxiliary_classifier
from cag_uda.types import IGNORE
from tests.support.batches import make_batch
from tests.support.method_steps import gradients


def test_self_information_by_hand() -> None:
    logits = torch.log(torch.tensor([0.5, 0.25, 0.25])).view(1, 3, 1, 1)
    got = self_information(logits).flatten()
    expected = torch.tensor([0.5, 0.5, 0.5]) / math.log2(3)  # 0.5·1, 0.25·2, 0.25·2 bits
    torch.testing.assert_close(got, expected)
    certain = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1)
    assert self_information(certain).tolist() == [[[[0.0]], [[0.0]]]]
    with pytest.raises(ShapeError):
        self_information(torch.zeros(1, 1, 2, 2))


def test_self_information_is_the_released_formula_and_sums_to_the_entropy() -> None:
    logits = torch.randn(2, 19, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    probability = logits.softmax(1)
    released = -(probability * torch.log2(probability + 1e-30)) / math.log2(19)
    got = self_information(logits)
    torch.testing.assert_close(got, released, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got.sum(1).mean(), entropy(logits))


@pytest.mark.parametrize("aligned", [False, True])
def test_methods_resize_logits_as_the_network_does(aligned: bool, segmenter: Segmenter) -> None:
    """Corners on corners or edges on edges, in cross entropies and in what discriminators see."""
    config = segmenter.config.model_copy(update={"align_corners": aligned})
    method = Advent(Segmenter(config, segmenter.classes), AdventConfig(discriminator_channels=4))
    logits = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    label = torch.randint(0, 4, (1, 12, 20), generator=torch.Generator().manual_seed(1))
    upsampled = F.interpolate(logits, (12, 20), mode="bilinear", align_corners=aligned)
    torch.testing.assert_close(
        method.cross_entropy(logits, label), F.cross_entropy(upsampled, label)
    )
    probability = upsampled.softmax(1)
    torch.testing.assert_close(
        method.evidence(method.upsample(logits, label)),
        -probability * probability.log2() / 2,  # log₂ 4 classes
    )


def test_a_frozen_discriminator_hands_gradients_on_and_keeps_none() -> None:
    discriminator = Discriminator(3, 4)
    evidence = torch.rand(1, 3, 32, 32, requires_grad=True)
    discriminator.frozen(evidence).sum().backward()
    assert evidence.grad is not None
    assert evidence.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    assert discriminator.frozen(evidence).equal(discriminator(evidence))


def test_the_defaults_are_the_published_settings() -> None:
    single = AdversarialConfig()
    assert (single.loss, single.weight) == ("least-squares", 0.01)
    for config in (AdaptSegNetConfig(), AdventConfig()):
        assert (config.loss, config.weight, config.auxiliary_weight) == ("bce", 1e-3, 2e-4)
        assert config.auxiliary_ce_weight == 0.1
        assert (config.discriminator_rate, config.discriminator_channels) == (1e-4, None)
    optim = OptimConfig()
    assert (optim.learning_rate, optim.momentum, optim.weight_decay) == (2.5e-4, 0.9, 5e-4)
    assert (optim.head_multiplier, optim.schedule, optim.power) == (10, "poly", 0.9)


def test_all_networks_have_their_published_optimisers(segmenter: Segmenter) -> None:
    method = AdaptSegNet(segmenter, AdaptSegNetConfig())
    optimizers = method.optimizers(OptimConfig())
    assert optimizers.keys() == method.networks().keys()
    groups = {group["name"]: group for group in optimizers["segmenter"].param_groups}
    in_head = {id(parameter) for parameter in groups["head"]["params"]}
    assert in_head.issuperset(map(id, method.auxiliary.parameters()))
    assert groups["head"]["lr"] == pytest.approx(2.5e-3)
    for name in ("discriminator", "auxiliary_discriminator"):
        adam = optimizers[name]
        assert isinstance(adam, torch.optim.Adam)
        group = adam.param_groups[0]
        assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.99), 0)
        counted = sum(p.numel() for p in group["params"])
        assert counted == sum(p.numel() for p in method.networks()[name].parameters())


def released_evidence(logits: Tensor, kind: str) -> Tensor:
    """What the released codes show their discriminators, from their own formulas."""
    probability = F.interpolate(logits, (32, 32), mode="bilinear").softmax(1)
    if kind == "advent":
        return -torch.mul(probability, torch.log2(probability + 1e-30)) / math.log2(4)
    return probability


@pytest.mark.parametrize("kind", ["adaptsegnet", "advent"])
def test_a_step_at_two_levels_is_the_alternating_original(kind: str, segmenter: Segmenter) -> None:
    """Gradients of the released training loop: four passes, discriminators frozen in the first."""
    torch.manual_seed(1)
    method: AdaptSegNet = (
        Advent(segmenter, AdventConfig(discriminator_channels=4))
        if kind == "advent"
        else AdaptSegNet(segmenter, AdaptSegNetConfig(discriminator_channels=4))
    )
    method.train()
    batch = make_batch()
    reference = copy.deepcopy(method)
    got = gradients(method, batch, early=True)

    torch.manual_seed(0)
    both = TwoLevelSegmenter(reference.segmenter, reference.auxiliary)
    discriminators = (reference.discriminator, reference.auxiliary_discriminator)
    bce = F.binary_cross_entropy_with_logits
    (_, main), auxiliary = both(batch.source.image, "source")
    supervised = [
        F.cross_entropy(
            F.interpolate(logits, (32, 32), mode="bilinear"),
            batch.source.label,
            ignore_index=IGNORE,
        )
        for logits in (main, auxiliary)
    ]
    (supervised[0] + 0.1 * supervised[1]).backward()
    (_, target), auxiliary_target = both(batch.target.image, "target")
    for weight, judge, logits in zip(
        (1e-3, 2e-4), discriminators, (target, auxiliary_target), strict=True
    ):
        score = judge(released_evidence(logits, kind))
        (weight * bce(score, torch.zeros_like(score))).backward(retain_graph=True)
    for judge in discriminators:
        judge.zero_grad()
    pairs = zip(discriminators, ((main, target), (auxiliary, auxiliary_target)), strict=True)
    for judge, (of_source, of_target) in pairs:
        for logits, wanted in ((of_source, 0.0), (of_target, 1.0)):
            score = judge(released_evidence(logits.detach(), kind))
            (bce(score, torch.full_like(score, wanted)) / 2).backward()
    for name, network in reference.networks().items():
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(
                got[f"{name}.{key}"], parameter.grad, rtol=2e-4, atol=1e-7, msg=f"{name}.{key}"
            )


def test_the_delivered_network_has_one_level(segmenter: Segmenter, tmp_path: Path) -> None:
    method = AdaptSegNet(segmenter, AdaptSegNetConfig(discriminator_channels=4))
    method.predictor().save_pretrained(tmp_path)
    loaded = cag_uda.load(tmp_path)
    image = torch.rand(1, 3, 40, 48)
    assert loaded(image).logits.equal(segmenter.eval()(image).logits)


@pytest.mark.parametrize("decoder", ["deeplab-v2", "deeplab-v3plus"])
def test_the_second_level_is_a_classifier_of_the_map_before(decoder: str, classes: Classes) -> None:
    config = SegmenterConfig(backbone="resnet-tiny", decoder=decoder, output_stride=8)
    segmenter = Segmenter(config, classes).eval()
    auxiliary = auxiliary_classifier(segmenter)
    image = torch.rand(1, 3, 64, 80)
    prediction, logits = TwoLevelSegmenter(segmenter, auxiliary)(image)
    assert prediction.logits.equal(segmenter(image).logits)
    earlier = segmenter.encode(image)[2]
    branches = [each for each in auxiliary.branches if isinstance(each, torch.nn.Conv2d)]
    expected = torch.stack(
        [
            F.conv2d(earlier, branch.weight, branch.bias, padding=rate, dilation=rate)
            for branch, rate in zip(branches, (6, 12, 18, 24), strict=True)
        ]
    ).sum(0)
    torch.testing.assert_close(logits, expected)
