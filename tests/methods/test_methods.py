"""The contract that every method keeps, and the truths of each."""

import copy
import math
from contextlib import nullcontext

import pytest
import torch

from cag_uda.adaptation.tensors import downsample
from cag_uda.methods import METHODS, Passes
from cag_uda.methods.adversarial import Adversarial, AdversarialConfig
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.methods.margin_fitting import MarginConfig
from cag_uda.methods.optim import OptimConfig, build_optimizer
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import IGNORE, Batch, Unlabelled
from tests.support.batches import make_batch, make_passes, same
from tests.support.method_steps import gradients, make, settings_of, step

TRAINED = [name for name, method in METHODS.items() if method.trains]


@pytest.mark.parametrize("name", TRAINED)
def test_some_of_the_target_is_labelled_and_learned_from(name: str, segmenter: Segmenter) -> None:
    """What the other tests of the contract go through is not a step without target labels."""
    method = make(name, segmenter)
    for kind, labels in method.pseudo_labels(make_batch(7).target.plain).items():
        coverage = (labels.label != IGNORE).float().mean().item()
        assert 0 < coverage < 1, kind
        assert (labels.weight > 0).equal(labels.label != IGNORE), kind
    losses = step(method, make_batch(7))
    of_target = {key: loss for key, loss in losses.items() if not key.startswith("source/")}
    assert bool(of_target) == (name not in {"source-only", "colour-transfer"})
    assert all(loss > 0 for loss in of_target.values()), of_target


@pytest.mark.parametrize("name", TRAINED)
def test_early_backward_equals_the_summed_loss(name: str, segmenter: Segmenter) -> None:
    late = make(name, copy.deepcopy(segmenter))
    early = make(name, segmenter)
    if name == "adversarial":
        early.load_state_dict(late.state_dict())
    batch = make_batch()
    expected = gradients(late, batch, early=False)
    got = gradients(early, batch, early=True)
    assert got.keys() == expected.keys()
    assert any(gradient.abs().sum() > 0 for gradient in got.values())
    for key, gradient in got.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-7, msg=key)


@pytest.mark.parametrize("name", TRAINED)
def test_labels_of_the_target_are_learned_from_where_there_are_some(
    name: str, segmenter: Segmenter
) -> None:
    method, few = make(name, segmenter), make_batch(5).source
    method.attach(lambda network: network, nullcontext)
    given = list(method.losses(make_batch())) + list(method.labelled_losses(few))
    names = [name for losses in given for name in losses]
    assert names.count("labelled/ce") == 1
    assert len(set(names)) == len(names)
    (losses,) = method.labelled_losses(few)
    sum(losses.values(), torch.zeros(())).backward()
    trained = method.networks()["segmenter"].parameters()
    # Processes that average gradients wait for one of every parameter.
    assert all(each.grad is not None for each in trained if each.requires_grad)
    ignored = few._replace(label=torch.full_like(few.label, IGNORE))
    (losses,) = method.labelled_losses(ignored)
    assert losses["labelled/ce"].item() == 0


@pytest.mark.parametrize("name", TRAINED)
def test_two_steps_give_finite_losses_and_change_only_trained_networks(
    name: str, segmenter: Segmenter
) -> None:
    method = make(name, segmenter)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    for number in range(2):
        losses = step(method, make_batch(number))
        assert losses
        assert all(math.isfinite(loss) for loss in losses.values()), losses
    trained = {
        id(value)
        for network in method.networks().values()
        for value in [*network.parameters(), *network.buffers()]
    }
    named = [*method.named_parameters(), *method.named_buffers()]
    may_change = {key for key, value in named if id(value) in trained}
    changed = [key for key, value in method.state_dict().items() if not value.equal(before[key])]
    assert any(key.startswith("segmenter.classifier") for key in changed)
    # Running statistics may follow the images that are seen, of a labeller too; weights may not.
    followed = ("running_mean", "running_var", "colours.count", "colours.mean", "colours.variance")
    weights = [key for key in changed if not key.endswith(followed)]
    assert may_change.issuperset(weights), weights


@pytest.mark.parametrize("name", METHODS)
def test_state_dict_resumes_to_identical_losses(name: str, segmenter: Segmenter) -> None:
    # A resumed stage begins with the network that the stage began with.
    given = copy.deepcopy(segmenter) if METHODS[name].trains else segmenter
    method = make(name, segmenter)
    fresh = METHODS[name](copy.deepcopy(given), settings_of(name)).train()
    fresh.load_state_dict(method.state_dict())
    assert step(fresh, make_batch(7)) == step(method, make_batch(7))


@pytest.mark.parametrize("name", METHODS)
def test_predictor_segments_and_pseudo_labels_are_on_the_feature_grid(
    name: str, segmenter: Segmenter
) -> None:
    method = make(name, segmenter)
    image = make_batch().target.image
    assert method.predictor()(image).logits.shape == (2, 4, 8, 8)
    for labels in method.pseudo_labels(image).values():
        assert labels.label.shape == (2, 8, 8)


def test_adversarial_step_is_the_two_optimiser_original(segmenter: Segmenter) -> None:
    """Segmenter and discriminator gradients of the alternating scheme, both before the step."""
    method = Adversarial(segmenter, AdversarialConfig(discriminator_channels=4))
    method.prepare(make_passes())
    method.train()
    batch = make_batch()
    reference = copy.deepcopy(method)
    got = gradients(method, batch, early=True)

    torch.manual_seed(0)
    upsample = torch.nn.Upsample((32, 32), mode="bilinear")
    source = reference.segmenter(batch.source.image, "source")
    torch.nn.functional.cross_entropy(
        upsample(source.logits), batch.source.label, ignore_index=IGNORE
    ).backward()
    target = reference.segmenter(batch.target.image, "target")
    probability = upsample(target.logits).softmax(1)
    score = reference.discriminator(probability)
    (0.01 * score.square().mean()).backward()
    reference.discriminator.zero_grad()
    of_source = reference.discriminator(upsample(source.logits.detach()).softmax(1))
    of_target = reference.discriminator(probability.detach())
    (of_source.square().mean() / 2 + (of_target - 1).square().mean() / 2).backward()
    for name, network in reference.networks().items():
        for key, parameter in network.named_parameters():
            expected = parameter.grad
            assert expected is not None
            torch.testing.assert_close(got[f"{name}.{key}"], expected, rtol=1e-4, atol=1e-7)


def test_cag_labels_by_the_incoming_network_and_its_anchors(segmenter: Segmenter) -> None:
    """Anchors and labels of a stage, from a plain loop over pixels."""
    margin = MarginConfig(kind="absolute", value=0.05)
    method = CAG(segmenter, CAGConfig(margin=margin))
    method.prepare(make_passes())
    frozen = copy.deepcopy(segmenter).eval()
    sums, counts = torch.zeros(4, segmenter.feature_channels), torch.zeros(4)
    for source in make_passes().source():
        features = frozen(source.image, "source").features
        label = downsample(source.label, (8, 8))
        for b in range(2):
            for y in range(8):
                for x in range(8):
                    if label[b, y, x] != IGNORE:
                        sums[label[b, y, x]] += features[b, :, y, x].detach()
                        counts[label[b, y, x]] += 1
    anchors = sums / counts[:, None]
    torch.testing.assert_close(method.anchors.vectors, anchors, rtol=1e-4, atol=1e-5)

    image = make_batch(5).target.image
    features = frozen(image, "target").features
    distances = (features[:, None] - anchors[None, :, :, None, None]).norm(dim=2)
    nearest = distances.sort(dim=1)
    gap = nearest.values[:, 1] - nearest.values[:, 0]
    expected = torch.where(gap >= 0.05, nearest.indices[:, 0], IGNORE)
    clear = (gap - 0.05).abs() > 1e-4
    got = method.pseudo_labels(image)["anchor"].label
    assert (got == expected)[clear].all()
    assert 0 < (got != IGNORE).float().mean() < 1


def test_cag_labeller_stays_as_it_was_while_the_student_learns(segmenter: Segmenter) -> None:
    method = make("cag", segmenter)
    image = make_batch(5).target.image
    before = method.pseudo_labels(image)["confidence"].label
    for number in range(3):
        step(method, make_batch(number))
    assert method.pseudo_labels(image)["confidence"].label.equal(before)
    assert isinstance(method, CAG)
    assert not method.labeller.training


def test_poly_schedule_and_warmup_by_hand() -> None:
    config = OptimConfig(power=0.9, warmup_steps=4)
    assert config.factor(0, 100) == pytest.approx(1 / 5)
    assert config.factor(50, 100) == pytest.approx(0.5**0.9)
    assert OptimConfig(horizon=200).factor(50, 100) == pytest.approx(0.75**0.9)
    assert OptimConfig(schedule="constant").factor(99, 100) == 1


def test_the_head_learns_faster(segmenter: Segmenter) -> None:
    optimizer = build_optimizer(segmenter.parameter_groups(), OptimConfig())
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"backbone": 2.5e-4, "head": pytest.approx(2.5e-3)}
    counted = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert counted == sum(p.numel() for p in segmenter.parameters())


@pytest.mark.parametrize("name", ["adversarial", "cag"])
def test_a_finished_stage_has_the_targets_own_statistics(name: str, segmenter: Segmenter) -> None:
    method = make(name, segmenter)
    step(method, make_batch())
    expected = copy.deepcopy(method.segmenter)
    expected.estimate_statistics([t.plain for t in make_passes().target()], "target")
    source = [value.clone() for value in method.segmenter.statistics("source")]
    method.finish(make_passes())
    for got, wanted in zip(
        method.segmenter.statistics("target"), expected.statistics("target"), strict=True
    ):
        torch.testing.assert_close(got, wanted)
    for got, wanted in zip(method.segmenter.statistics("source"), source, strict=True):
        assert got.equal(wanted)


def test_source_only_never_looks_at_the_target(segmenter: Segmenter) -> None:
    def forbidden() -> list[Unlabelled]:
        raise AssertionError("the target was looked at")

    method = METHODS["source-only"](segmenter, METHODS["source-only"].Config(name="source-only"))
    passes = Passes(lambda: (), forbidden, same)
    method.prepare(passes)
    first, second = make_batch(0), make_batch(0)
    other = Batch(second.source, Unlabelled(second.target.image * 0, second.target.plain * 0))
    assert step(copy.deepcopy(method), first) == step(copy.deepcopy(method), other)
    method.finish(passes)
    predictor = method.predictor()
    for ours, theirs in zip(
        predictor.statistics("target"), predictor.statistics("source"), strict=True
    ):
        assert ours.equal(theirs)
