"""The paper's recipes: each row of what the released code does, against the recipe and the code.

The rows on the checkpoint and the anchor file, and the forward pass of the network, are in
test_foreign_weights.py.
"""

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cag_uda
from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.adaptation.losses import centroid_distance
from cag_uda.adaptation.pseudo_labels import by_anchor, by_confidence
from cag_uda.data.domains.class_subset import with_classes
from cag_uda.data.domains.domain import Domain
from cag_uda.data.loading.augment import choose_crop
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages
from cag_uda.data.loading.sampler import Shard
from cag_uda.data.loading.sweeps import sweep_source, sweep_target
from cag_uda.errors import DataError, UserError
from cag_uda.methods import METHODS
from cag_uda.methods.adversarial import AdversarialConfig
from cag_uda.methods.base import Passes
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_released import CAGReleasedConfig
from cag_uda.methods.cag_settings import CAGConfig, CAGSettings
from cag_uda.methods.optim import OptimConfig, build_optimizer
from cag_uda.models.backbones import BACKBONES, BackboneEntry
from cag_uda.models.config import Classes
from cag_uda.models.decoders import DeepLabV3Plus
from cag_uda.models.foreign import read_foreign
from cag_uda.models.resnet import ResNet
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe, builtin_recipes, load_recipe
from cag_uda.runs.runner import adapt
from cag_uda.runs.scenario import Scenario
from cag_uda.types import IGNORE, Batch, Labelled, Unlabelled
from tests.support.hub_weights import write_weights
from tests.support.network_parts import stem
from tests.support.original_networks import ReleasedCAG
from tests.support.published_trees import SYNTHIA_IDS, write_cityscapes, write_gta5, write_synthia
from tests.support.trees import write_domain

PAPER = ("gta5-cityscapes", "synthia-cityscapes")
RELEASED = tuple(f"{name}-released" for name in PAPER)


@pytest.fixture(params=RELEASED)
def released(request: pytest.FixtureRequest) -> Recipe:
    """The recipe of the released code's behaviour."""
    return load_recipe(request.param)


def cag_of(recipe: Recipe) -> CAGSettings:
    """The settings of the stages, which are all alike."""
    stages = recipe.stages[1:]
    assert [stage.name for stage in stages] == ["stage-1", "stage-2", "stage-3"]
    methods = {stage.method.model_dump_json(): stage.method for stage in stages}
    assert len(methods) == 1
    return cast(CAGSettings, next(iter(methods.values())))


def tiny(recipe: Recipe, classes: Classes) -> Segmenter:
    """A tiny network with everything else of the recipe's."""
    small = {"backbone": "resnet-tiny", "weights": None, "multi_grid": None, "decoder": "light"}
    torch.manual_seed(0)
    return Segmenter(recipe.segmenter.model_copy(update=small), classes)


def batches(count: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        label = torch.randint(0, 4, (2, 64, 64), generator=generator)
        label[:, :8] = IGNORE
        images = torch.rand(2, 2, 3, 64, 64, generator=generator)
        made.append(Batch(Labelled(images[0], label), Unlabelled(images[1], images[1])))
    return made


def prepared(recipe: Recipe, classes: Classes, **changes: Any) -> CAG:
    config = cag_of(recipe).model_copy(update=changes)
    method = cast(CAG, METHODS[config.name](tiny(recipe, classes), config))
    made = batches()
    method.prepare(
        Passes(lambda: (b.source for b in made), lambda: (b.target for b in made), lambda x: x)
    )
    return method.train()


def test_row_network_and_input(
    released: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network of an imported checkpoint, whose forward pass is proven, but for its start."""
    sizes = {"depths": [1, 1, 1, 3], "hidden_sizes": [16, 32, 64, 128], "embedding_size": 8}
    row = BackboneEntry({**sizes, "layer_type": "bottleneck"}, None, ResNet)
    monkeypatch.setitem(BACKBONES, "small-resnet-101", row)
    original = ReleasedCAG(19, stem=8, width=4, depths=[1, 1, 1, 3])
    torch.save({"DeepLab": {"model_state": original.state_dict()}}, tmp_path / "ckpt")
    imported = read_foreign(tmp_path / "ckpt").config
    start = {"backbone": "resnet-101", "weights": "imagenet"}
    assert released.segmenter == imported.model_copy(update=start)
    assert (imported.mean, imported.std) == ((0, 0, 0), (1, 1, 1))
    decoder = DeepLabV3Plus((256, 512, 1024, 2048), (4, 8, 16, 16))
    dropouts = [module.p for module in decoder.modules() if isinstance(module, nn.Dropout)]
    assert [*dropouts, decoder.dropout] == [0.5, 0.5, 0.1]


@pytest.mark.parametrize("size", [(1052, 1914), (1024, 2048), (760, 1280)])
def test_row_data_width_crop_and_flip(released: Recipe, size: tuple[int, int]) -> None:
    loading, rng = released.loading, np.random.default_rng(0)
    assert loading.crop_px == (512, 896)
    crops = [choose_crop(size, loading, rng) for _ in range(800)]
    columns = np.array([crop.window[1].stop - crop.window[1].start for crop in crops])
    rows = np.array([crop.window[0].stop - crop.window[0].start for crop in crops])
    widths = size[1] * 896 / columns
    assert 1098 < widths.min() < 1120
    assert 3280 < widths.max() < 3305
    assert widths.mean() == pytest.approx(2200, rel=0.02)
    assert np.abs(rows / columns - 512 / 896).max() < 0.005
    assert np.mean([crop.is_flipped for crop in crops]) == pytest.approx(0.5, abs=0.05)
    assert loading.photometric == 0


def test_row_data_first_size(tmp_path: Path) -> None:
    recipe = load_recipe("gta5-cityscapes-released")
    assert recipe.source[0].size_px == (1052, 1914)
    assert recipe.loading.width_px is None, "Cityscapes at its own 2048×1024, tests included"
    domain = Domain.open(write_domain(tmp_path, "day", 2))
    plain, resized = LabelledImages(domain, "train"), LabelledImages(domain, "train", (30, 50))
    image, label = resized.read(0)
    assert (image.shape, label.shape) == ((30, 50, 3), (30, 50))
    assert set(np.unique(label)) <= set(np.unique(plain.read(0)[1]))
    batch = next(sweep_source(resized, recipe.loading, 2, Shard(), torch.device("cpu")))
    assert batch.image.shape == (2, 3, 30, 50)


def test_row_optimiser_and_schedule(released: Recipe, classes: Classes) -> None:
    assert released.loading.batch_size == 4
    for stage in released.stages[1:]:
        assert stage.steps == 84 * 743 == 62_412
        optimizer = build_optimizer(tiny(released, classes).parameter_groups(), stage.optim)
        assert isinstance(optimizer, torch.optim.SGD)
        for group in optimizer.param_groups:
            assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-4, 0.9, 2e-4)
            assert not group["nesterov"]
        for step in (0, 1000, 62_411):
            expected = (1 - step / 90_000) ** 0.9
            assert stage.optim.factor(step, stage.steps) == pytest.approx(expected, abs=1e-12)


def test_row_batch_norm_learns_from_both_domains_apart(released: Recipe, classes: Classes) -> None:
    """One set of statistics, moved by a forward pass of the source and then one of the target."""
    method, batch = prepared(released, classes), batches()[0]
    convolution, norm = stem(method.segmenter)
    assert type(norm) is nn.BatchNorm2d
    assert norm.running_mean is not None
    mean = norm.running_mean.clone()
    for _ in method.losses(batch):
        pass
    for image in (batch.source.image, batch.target.image):
        mean = 0.9 * mean + 0.1 * convolution(image).mean(dim=(0, 2, 3)).detach()
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-6)
    assert not any(module.training for module in method.labeller.modules())


def test_row_anchors(released: Recipe, classes: Classes) -> None:
    """Means of image means over correctly predicted pixels, from a loop over images."""
    method = prepared(released, classes)
    frozen = copy.deepcopy(method.labeller).eval()
    means: dict[int, list[Tensor]] = {}
    for batch in batches():
        with torch.no_grad():
            features, logits = frozen(batch.source.image)
        label = F.interpolate(batch.source.label[:, None].float(), features.shape[2:])[:, 0]
        for image in range(2):
            for category in range(4):
                chosen = (label[image] == category) & (logits[image].argmax(0) == category)
                if chosen.sum() >= 10:
                    means.setdefault(category, []).append(features[image][:, chosen].mean(1))
    assert means, "the network is right somewhere"
    for category in range(4):
        assert method.anchors.counts[category] == len(means.get(category, []))
        if category in means:
            expected = torch.stack(means[category]).mean(0)
            torch.testing.assert_close(method.anchors.vectors[category], expected)
    assert method.anchors.max_count == 3000


def test_row_anchors_capped_count() -> None:
    """The released update: a mean until the cap, and then a running mean."""
    generator = torch.Generator().manual_seed(0)
    anchors = CategoryAnchors(2, 3, average="image", max_count=4)
    vectors, number = torch.zeros(2, 3), torch.zeros(2)
    for _ in range(6):
        features = torch.rand(3, 3, 4, 4, generator=generator)
        label = torch.randint(0, 2, (3, 4, 4), generator=generator)
        label[0] = 0
        anchors.update(features, label)
        for image in range(3):
            for category in range(2):
                chosen = label[image] == category
                if chosen.any():
                    mean = features[image][:, chosen].mean(1)
                    total = vectors[category] * number[category] + mean
                    vectors[category] = total / (number[category] + 1)
                    number[category] = (number[category] + 1).clamp(max=4)
    torch.testing.assert_close(anchors.vectors, vectors)
    assert anchors.counts.tolist() == [4, 4]
    with pytest.raises(UserError, match="max_count=0"):
        CategoryAnchors(2, 3, max_count=0)


def test_row_anchors_visits(released: Recipe, tmp_path: Path) -> None:
    assert released.loading.sweep_images == 11_888
    domain = Domain.open(write_domain(tmp_path, "day", 9))
    config = LoadingConfig(sweep_images=5)
    images, device = LabelledImages(domain, "train"), torch.device("cpu")

    def visited(config: LoadingConfig, shard: Shard) -> list[bytes]:
        swept = sweep_source(images, config, 2, shard, device)
        return [image.numpy().tobytes() for batch in swept for image in batch.image]

    every = visited(LoadingConfig(), Shard())
    some = visited(config, Shard())
    assert len(set(some)) == 5
    assert set(some) < set(every)
    assert some == visited(config, Shard()), "the same in every sweep"
    assert some != [each for each in every if each in some], "in random order"
    shares = [visited(config, Shard(rank, 2)) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(some)
    target = UnlabelledImages(domain, "train")
    assert sum(len(b.image) for b in sweep_target(target, config, 2, Shard(), device)) == 9


def test_row_anchor_pseudo_labels(released: Recipe, classes: Classes) -> None:
    """One margin of 2.5 for all, ties active, on the very crop that the student sees."""
    method, batch = prepared(released, classes), batches()[0]
    assert method.config.margin.kind == "absolute"
    assert method.anchor_labels.threshold.tolist() == [2.5] * 4
    distances = torch.tensor([1.0, 3.5, 9.0, 9.0]).view(1, 4, 1, 1)
    margin = method.config.margin.of(method.anchor_labels.threshold)
    assert by_anchor(distances, margin).label.item() == 0
    assert by_anchor(distances - 0.001 * (distances == 3.5), margin).label.item() == IGNORE
    labels = method.pseudo_labels(batch.target.plain)["anchor"].label
    assert labels.shape[1:] == method.segmenter(batch.target.image).logits.shape[2:]
    assert released.loading.photometric == 0, "the labeller's crop is the student's"


def test_row_probability_pseudo_labels(released: Recipe) -> None:
    assert cag_of(released).confidence == 0.95
    logits = torch.tensor([[0.96, 0.04], [0.94, 0.06]]).log().t()[None, :, None]
    assert by_confidence(logits, 0.95).label.tolist() == [[[0, IGNORE]]]


def test_row_target_cross_entropy_and_distance_loss(released: Recipe, classes: Classes) -> None:
    """Both cross entropies' mean on the feature grid; 0.7 of the centroids' distances."""
    method, batch = prepared(released, classes, confidence=0.26), batches()[0]
    method.anchor_labels.threshold.fill_(0.001)  # So that a random network labels something.
    reference = copy.deepcopy(method)
    losses: dict[str, Tensor] = {}
    torch.manual_seed(0)
    for part in method.losses(batch):
        losses |= part
    pseudo = reference.pseudo_labels(batch.target.plain)
    torch.manual_seed(0)
    source = reference.segmenter(batch.source.image)
    target = reference.segmenter(batch.target.image)
    for kind in ("anchor", "confidence"):
        label = pseudo[kind].label
        assert (label != IGNORE).any()
        expected = F.cross_entropy(target.logits, label, ignore_index=IGNORE) / 2
        torch.testing.assert_close(losses[f"target/{kind}"], expected)
    upsampled = F.interpolate(source.logits, (64, 64), mode="bilinear", align_corners=True)
    expected = F.cross_entropy(upsampled, batch.source.label, ignore_index=IGNORE)
    torch.testing.assert_close(losses["source/ce"], expected)
    grid = F.interpolate(batch.source.label[:, None].float(), source.logits.shape[2:])[:, 0].long()
    anchors = reference.anchors.vectors
    for name, (features, logits), label in (
        ("source", source, grid),
        ("target", target, pseudo["anchor"].label),
    ):
        expected = 0.7 * centroid_distance(features, logits, anchors, label, min_pixels=10)
        torch.testing.assert_close(losses[f"{name}/distance"], expected)
    assert losses["source/distance"] > 0


@pytest.mark.parametrize("name", PAPER + RELEASED)
def test_warm_up_and_three_stages(name: str) -> None:
    recipe = load_recipe(name)
    warmup = recipe.stages[0]
    assert isinstance(warmup.method, AdversarialConfig)
    assert (warmup.method.loss, warmup.method.weight) == ("least-squares", 0.01)
    assert (recipe.loading.crop_px, recipe.loading.batch_size) == ((512, 896), 4)
    assert warmup.optim == OptimConfig(horizon=62_500), "AdaptSegNet's, for images in fours"
    assert warmup.steps * 4 == 150_000
    assert [recipe.start_of(i) for i in range(4)] == ["initial", "warmup", "stage-1", "stage-2"]
    assert (recipe.target.domain, recipe.target.test) == ("cityscapes", "val")


def test_the_successors_frozen_warm_up_can_be_asked_for() -> None:
    changes = [
        "segmenter.backbone=resnet-101-caffe",
        "segmenter.decoder=deeplab-v2",
        "segmenter.output_stride=8",
        "segmenter.multi_grid=[1, 1, 1]",
        "segmenter.norm=frozen",
    ]
    assert load_recipe("gta5-cityscapes", changes).segmenter.norm == "frozen"


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_form_has_the_papers_definitions(name: str) -> None:
    """What the methods document as theirs, on the released code's network and schedule."""
    paper, released = load_recipe(name), load_recipe(f"{name}-released")
    assert cag_of(paper) == CAGConfig()
    assert cag_of(released) == CAGReleasedConfig()
    assert paper.loading.sweep_images is None, "anchors of all source pixels"
    assert paper.segmenter.decoder == released.segmenter.decoder
    assert [stage.optim for stage in paper.stages] == [stage.optim for stage in released.stages]
    assert [stage.steps for stage in paper.stages] == [stage.steps for stage in released.stages]
    own = BACKBONES[paper.segmenter.backbone].mean
    assert (paper.segmenter.mean, own) == (None, (0.485, 0.456, 0.406)), "of its ImageNet weights"


@pytest.mark.parametrize("name", ["synthia-cityscapes", "synthia-cityscapes-released"])
def test_synthia_learns_sixteen_classes(name: str, tmp_path: Path) -> None:
    write_synthia(tmp_path / "synthia", 2)
    write_cityscapes(tmp_path / "cityscapes", 2)
    recipe = load_recipe(name, ["source.domain=synthia"], tmp_path)
    scenario = Scenario.open(recipe)
    names = scenario.classes.names
    assert len(names) == 16
    assert not {"terrain", "truck", "train"} & set(names)
    whole = Domain.open("synthia", tmp_path)
    label = whole.read_label(whole.items("train")[0])
    expected = np.full(label.shape, IGNORE, np.uint8)
    assert whole.label_space is not None
    for new_id, each in enumerate(names):
        expected[label == whole.label_space.names.index(each)] = new_id
    assert np.array_equal(scenario.sources[0].read(0)[1], expected)
    assert len(np.unique(label)) == len(SYNTHIA_IDS) + 1
    assert len(np.unique(expected)) == 17
    assert scenario.test.label_space is not None
    assert scenario.test.label_space.names == names


def test_some_classes_of_a_domain(tmp_path: Path) -> None:
    domain = Domain.open(write_domain(tmp_path, "day", 1))
    assert with_classes(domain, None) is domain
    assert with_classes(domain, ["sky", "tree", "car", "road"]) is domain
    some = with_classes(domain, ["sky", "car"])
    assert some.label_space is not None
    assert some.label_space.names == ("car", "sky"), "in the label space's order"
    item = domain.items("train")[0]
    table = np.array([IGNORE, 0, IGNORE, 1], np.uint8)
    assert np.array_equal(some.read_label(item), table[domain.read_label(item)])
    assert domain.label_space is not None
    assert len(domain.label_space.names) == 4
    with pytest.raises(DataError, match="no class 'ski'; did you mean 'sky'"):
        with_classes(domain, ["ski"])


CITYSCAPES = [name for name in builtin_recipes() if "-cityscapes" in name]


def test_all_recipes_for_cityscapes_are_run() -> None:
    assert {*PAPER, *RELEASED} < set(CITYSCAPES)
    assert len(CITYSCAPES) == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", CITYSCAPES)
def test_a_recipe_runs_end_to_end_in_miniature(name: str, tmp_path: Path) -> None:
    """The recipe as it is, but for a tiny network, small crops and one step a stage."""
    write_gta5(tmp_path / "gta5", 3)
    write_synthia(tmp_path / "synthia", 3)
    write_cityscapes(tmp_path / "cityscapes", 2)
    is_plus = name.startswith("cag-plus")
    backbone = "mit-micro" if is_plus else "resnet-tiny"
    changes = [
        f"segmenter.backbone={backbone}",
        f"segmenter.weights={str(write_weights(tmp_path, backbone))!r}",
        "loading.crop_px=[32, 64]",
        "loading.workers=0",
        "loading.batch_size=2",
        "stages.*.steps=1",
        "compute={accelerator='cpu', precision='32', channels_last=false}",
    ]
    if is_plus:
        changes += ["loading.width_px=128"]
    else:
        changes += [
            "segmenter.decoder=light",
            "segmenter.multi_grid=[2]",
            "source.size_px=[104, 208]",
            "loading.scale_width_px=128",
        ]
    recipe = load_recipe(name, changes, tmp_path)
    run = adapt(recipe, tmp_path / "run")
    assert [stage.name for stage in run.scores.stages] == [s.name for s in recipe.stages]
    assert len(run.scores.classes) == (16 if "synthia" in name else 19)
    assert cag_uda.load(run.model).config.align_corners == name.endswith("released")
