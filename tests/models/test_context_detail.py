"""Context and detail: HRDA's equations by hand, grids that fit, and methods that need not know."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cag_uda
from cag_uda.errors import ModelError, RecipeError, UserError
from cag_uda.methods import Method, Passes
from cag_uda.methods.adaptsegnet import AdaptSegNet, AdaptSegNetConfig
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_plus import CAGPlus
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.methods.cag_settings import CAGConfig
from cag_uda.methods.dacs import DACS, DACSConfig
from cag_uda.methods.margin_fitting import MarginConfig
from cag_uda.models.backbones import build_backbone
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.decoders import SegFormerDecoder
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.start import start_from
from cag_uda.models.views import offsets
from cag_uda.prediction.export import export
from cag_uda.recipes import load_recipe
from cag_uda.recipes.schema import Recipe
from cag_uda.runs.runner import adapt
from cag_uda.training.interrupt import Interrupted
from cag_uda.training.step import seed_for
from cag_uda.types import Batch, Labelled, Prediction, Unlabelled
from tests.support.network_parts import part, publish, stem
from tests.support.run_folders import assert_same
from tests.support.stopping import StopAt
from tests.support.trees import RECIPE, write_recipe

PX, CELL = 64, 4
"""Side of a detail crop, and of a cell of the tiny network; at half scale units are of 8 pixels."""
SIZE = (96, 128)
"""Of most images here: 12 by 16 units, of which a detail crop takes 8 by 8."""


def make(
    classes: Classes,
    backbone: str = "resnet-tiny",
    decoder: str = "light",
    side: int = PX,
    **settings: Any,
) -> Segmenter:
    """A small network with detail, random weights, and statistics unlike the initial ones."""
    torch.manual_seed(0)
    detail = {"crop_px": (side, side), **settings.pop("detail", {})}
    form = {"backbone": backbone, "decoder": decoder, "detail": detail, **settings}
    segmenter = Segmenter(SegmenterConfig.model_validate(form), classes)
    segmenter.estimate_statistics([torch.rand(2, 3, side, side)], "target")
    for module in segmenter.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return segmenter.eval()


def enlarged(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """ζ of the paper."""
    return F.interpolate(cells, size, mode="bilinear", align_corners=False)


def by_hand(
    segmenter: Segmenter,
    image: Tensor,
    crops: Sequence[tuple[int, int]],
    mask: Tensor | float = 1.0,
    is_alone: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """HRDA, equations 3 to 7: features and logits of images that need not be enlarged.

    Args:
        segmenter: in whatever mode.
        image: (B, 3, H, W).
        crops: top and left pixel of each detail crop.
        mask: of the attention, on the context's grid.
        is_alone: (B,), images whose crop the detail alone predicts.
    """
    pixels = (image - segmenter.mean) / segmenter.std
    height, width = image.shape[-2:]
    maps = segmenter.backbone(F.interpolate(pixels, scale_factor=0.5, mode="bilinear"))
    features = segmenter.decoder(maps)
    context = segmenter.classifier(features)
    assert segmenter.detail is not None
    head, _, last, _ = segmenter.detail.attention
    assert isinstance(head, SegFormerDecoder)
    convolutions = [each for each in head.levels if isinstance(each, nn.Conv2d)]
    levels = [F.conv2d(x, m.weight, m.bias) for m, x in zip(convolutions, maps, strict=True)]
    finest = levels[0].shape[-2:]
    stacked = [F.interpolate(x, finest, mode="bilinear", align_corners=True) for x in levels]
    attention = torch.sigmoid(last(head.mix(torch.cat(stacked, dim=1))))
    if is_alone is not None:
        attention = torch.where(is_alone.view(-1, 1, 1, 1), torch.ones_like(attention), attention)
    attention = attention * mask
    total, looks = torch.zeros(()), torch.zeros(())
    for top, left in crops:
        cut = pixels[:, :, top : top + PX, left : left + PX]
        piece = segmenter.classifier(segmenter.decoder(segmenter.backbone(cut)))
        around = (left, width - left - PX, top, height - top - PX)
        pad = [side // CELL for side in around]
        total = total + F.pad(piece, pad)
        looks = looks + F.pad(torch.ones_like(piece), pad)
    detail = total / looks.clamp(min=1)
    grid = (height // CELL, width // CELL)
    logits = enlarged((1 - attention) * context, grid) + enlarged(attention, grid) * detail
    return enlarged(features, grid), logits


def test_inference_is_the_fusion_of_the_context_and_of_windows_by_hand(classes: Classes) -> None:
    segmenter, image = make(classes), torch.rand(2, 3, *SIZE)
    crops = [(top, left) for top in (0, 32) for left in (0, 32, 64)]
    features, logits = by_hand(segmenter, image, crops)
    got = segmenter(image)
    torch.testing.assert_close(got.logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.features, features, rtol=1e-4, atol=1e-5)
    assert got.logits.shape == (2, 4, 24, 32)
    without = segmenter.config.model_copy(update={"detail": None})
    plain = Segmenter(without, classes).eval()
    plain.load_state_dict(segmenter.state_dict(), strict=False)
    assert not plain(image).logits.allclose(got.logits, atol=1e-2)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_training_is_the_fusion_of_the_context_and_of_one_crop_by_hand(
    weight: float, classes: Classes
) -> None:
    segmenter = make(classes, detail={"weight": weight}).train()
    image = torch.rand(4, 3, *SIZE)
    torch.manual_seed(5)
    got = segmenter(image)
    torch.manual_seed(5)
    top, left = int(torch.randint(5, ())), int(torch.randint(9, ()))
    # The crop has a third of the image.
    is_alone = torch.rand(4) < weight / (weight + (1 - weight) / 3)
    assert is_alone.unique().tolist() == ([False, True] if weight else [False]), "both are shown"
    mask = torch.zeros(1, 1, 12, 16)
    mask[..., top : top + 8, left : left + 8] = 1
    features, logits = by_hand(segmenter, image, [(8 * top, 8 * left)], mask, is_alone)
    torch.testing.assert_close(got.logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.features, features, rtol=1e-4, atol=1e-5)


def test_two_losses_weigh_as_in_the_paper_in_the_mean_over_draws(classes: Classes) -> None:
    """Of a crop that has a quarter of the image, at λ = 0.1."""
    detail = make(classes, detail={"weight": 0.1}).detail
    assert detail is not None
    fused, own = 0.9 / 256, 0.1 / 64  # Of a unit in HRDA's means over all and over the crop's.
    chance = detail.chance_alone((16, 16))
    assert chance / (1 - chance) == pytest.approx(own / fused)
    assert detail.chance_alone((8, 8)) == pytest.approx(0.1), "where the crop is all"
    assert SegmenterConfig.model_validate({"detail": {}}).detail == (
        SegmenterConfig.model_validate(
            {"detail": {"crop_px": (512, 512), "scale": 2, "weight": 0.1}}
        ).detail
    ), "HRDA's"


def test_the_attention_is_zero_outside_the_detail_crop(classes: Classes) -> None:
    """What lies a cell off the crop knows nothing of attention, and of the context alone."""
    segmenter = make(classes, detail={"weight": 0.0}).train()
    image = torch.rand(2, 3, *SIZE)
    torch.manual_seed(1)
    top, left = int(torch.randint(5, ())), int(torch.randint(9, ()))
    torch.manual_seed(1)
    logits = segmenter(image).logits
    near = torch.zeros(24, 32, dtype=torch.bool)
    near[max(0, 2 * top - 1) : 2 * top + 17, max(0, 2 * left - 1) : 2 * left + 17] = True
    assert segmenter.detail is not None
    learning = list(segmenter.detail.attention.parameters())
    outside = torch.autograd.grad(logits[..., ~near].sum(), learning, retain_graph=True)
    assert all(not gradient.any() for gradient in outside)
    inside = torch.autograd.grad(logits[..., near].square().sum(), learning)
    assert all(gradient.any() for gradient in inside)


@pytest.mark.parametrize(
    ("backbone", "decoder", "side", "unit", "cell"),
    [
        ("resnet-tiny", "light", 64, 8, 4),
        ("resnet-tiny", "deeplab-v2", 64, 32, 16),
        ("mit-micro", "segformer", 64, 8, 4),
        ("swinv2-micro", "light", 64, 8, 4),
        ("dinov2-micro", "daformer", 84, 28, 3.5),
    ],
)
def test_sizes_that_fit_no_grid_are_enlarged_and_cut(
    backbone: str, decoder: str, side: int, unit: int, cell: float, classes: Classes
) -> None:
    segmenter = make(classes, backbone, decoder, side)
    height, width = 75, 93
    image = torch.rand(1, 3, height, width)
    whole = F.pad(image, (0, -width % unit, 0, -height % unit), mode="replicate")
    rows, columns = math.ceil(height / cell), math.ceil(width / cell)
    for got, expected in zip(segmenter(image)[:2], segmenter(whole)[:2], strict=True):
        assert got.shape[-2:] == (rows, columns)
        torch.testing.assert_close(got, expected[..., :rows, :columns])
    small = segmenter(image[..., :45, :61])
    assert small.logits.shape[-2:] == (math.ceil(45 / cell), math.ceil(61 / cell))
    trained = segmenter.train()(torch.rand(2, 3, height, width))
    assert trained.features.shape[-2:] == trained.logits.shape[-2:] == (rows, columns)


def test_a_pooling_beyond_the_edge_adds_no_cells(classes: Classes) -> None:
    segmenter = make(classes, decoder="deeplab-v2", output_stride=8)
    part(segmenter.backbone.network, "embedder.pooler", nn.MaxPool2d).ceil_mode = True
    assert segmenter.encode(torch.rand(1, 3, 64, 64))[0].shape[-2:] == (9, 9)
    for mode in (True, False):
        features, logits = segmenter.train(mode)(torch.rand(2, 3, 80, 96))
        assert features.shape[-2:] == logits.shape[-2:] == (10, 12)


def test_windows_cover_everything_and_overlap_by_half() -> None:
    for length in range(1, 40):
        for window in range(1, length + 1):
            begins = offsets(length, window, overlap=1 / 2)
            covered = {begin + place for begin in begins for place in range(window)}
            assert covered == set(range(length))
            steps = [after - before for before, after in pairwise(begins)]
            assert all(0 < step <= max(1, math.ceil(window / 2)) for step in steps)


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (80, 240), (112, 144)])
def test_windows_are_put_back_where_they_were_cut(size: tuple[int, int], classes: Classes) -> None:
    """A network that gives each cell its mean colour gives back the image, wherever it looks."""
    detail = make(classes).detail
    assert detail is not None
    image = torch.rand(2, 3, *size)
    coarse = (size[0] // 8, size[1] // 8)
    context = Prediction(torch.zeros(2, 5, *coarse), torch.zeros(2, 3, *coarse))
    fused = detail.fuse(context, torch.ones(2, 3, *coarse), image, lambda x: F.avg_pool2d(x, CELL))
    torch.testing.assert_close(fused.logits, F.avg_pool2d(image, CELL))


def test_the_crop_is_a_function_of_seed_step_and_process(classes: Classes) -> None:
    segmenter, image = make(classes).train(), torch.rand(2, 3, *SIZE)
    state = {name: value.clone() for name, value in segmenter.state_dict().items()}

    def logits(seed: int, step: int) -> Tensor:
        segmenter.load_state_dict(state)
        seed_for(seed, step)
        prediction: Prediction = segmenter(image)
        return prediction.logits

    first = logits(3, 7)
    torch.rand(11)
    assert logits(3, 7).equal(first), "whatever was drawn before"
    assert not all(logits(3, step).equal(first) for step in range(8, 10))
    assert segmenter.detail is not None
    places = set()
    for step in range(600):
        seed_for(3, step)
        places.add(segmenter.detail._draw_place((12, 16)))
    assert places == {(top, left) for top in range(5) for left in range(9)}


def make_batch(size: int = 96) -> Batch:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (2, size // 8, size // 8), generator=generator)
    label = label.repeat_interleave(8, 1).repeat_interleave(8, 2)
    source, target = torch.rand(2, 2, 3, size, size, generator=generator)
    return Batch(Labelled(source, label), Unlabelled(target, target))


def plus(segmenter: Segmenter) -> CAGPlus:
    """CAG-plus with features near those of published weights."""
    initial = {"weight": 0.005, "classes": ["car", "sky"]}
    return CAGPlus(segmenter, CAGPlusConfig.model_validate({"initial": initial}))


METHODS = {
    "cag": lambda network: CAG(network, CAGConfig(margin=MarginConfig(kind="clearest", value=0.5))),
    "dacs": lambda network: DACS(network, DACSConfig()),
    "adaptsegnet": lambda network: AdaptSegNet(
        network, AdaptSegNetConfig(discriminator_channels=4)
    ),
    "cag-plus": plus,
}
"""One of each way in which methods call a segmenter."""


@pytest.mark.parametrize("name", METHODS)
def test_methods_need_not_know(name: str, classes: Classes, tmp_path: Path) -> None:
    publish(build_backbone("resnet-tiny", None, 16), tmp_path)
    segmenter = make(classes, weights=str(tmp_path))
    method: Method = METHODS[name](segmenter)
    batch = make_batch()
    method.prepare(Passes(lambda: iter([batch.source]), lambda: iter([batch.target]), lambda x: x))
    if isinstance(method, CAG):
        assert method.anchors.vectors.isfinite().all()
    method.train()
    for losses in method.losses(batch):
        total = torch.stack(list(losses.values())).sum()
        assert total.isfinite()
        total.backward()
    # A parameter without a gradient would keep processes that train together waiting.
    waiting = [n for n, p in segmenter.named_parameters() if p.requires_grad and p.grad is None]
    assert waiting == []
    assert segmenter.detail is not None
    head = {id(each) for each in segmenter.parameter_groups()["head"]}
    assert {id(each) for each in segmenter.detail.parameters()} <= head
    method.after_step(0)
    for pseudo in method.pseudo_labels(batch.target.plain).values():
        assert pseudo.label.shape == (2, 24, 24)


def test_statistics_are_the_mean_over_context_and_windows(classes: Classes) -> None:
    segmenter, image = make(classes), torch.rand(2, 3, *SIZE)
    segmenter.estimate_statistics([image], "target")
    convolution, norm = stem(segmenter)
    pixels = (image - segmenter.mean) / segmenter.std
    windows = [
        pixels[..., top : top + PX, left : left + PX] for top in (0, 32) for left in (0, 32, 64)
    ]
    passes = [F.avg_pool2d(pixels, 2), torch.cat(windows)]
    means = [convolution(each).mean(dim=(0, 2, 3)) for each in passes]
    expected = torch.stack(means).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-4, atol=1e-5)


def test_saved_and_loaded_is_the_same_network(classes: Classes, tmp_path: Path) -> None:
    segmenter, image = make(classes), torch.rand(1, 3, 45, 67)
    segmenter.save_pretrained(tmp_path / "model")
    loaded = cag_uda.load(tmp_path / "model")
    assert loaded.config == segmenter.config
    assert loaded(image).logits.equal(segmenter(image).logits)
    again = make(classes, norm="shared")
    for parameter in again.parameters():
        parameter.data.zero_()
    start_from(again, str(tmp_path / "model"))
    assert again(image).logits.equal(segmenter(image).logits)

    without = segmenter.config.model_copy(update={"detail": None})
    with pytest.raises(ModelError, match=r"has detail .*crop_px.* but the recipe wants None"):
        start_from(Segmenter(without, classes), str(tmp_path / "model"))
    Segmenter(without, classes).save_pretrained(tmp_path / "plain")
    path = tmp_path / "plain" / "config.json"
    written = json.loads(path.read_text())
    assert written["segmenter"].pop("detail") is None
    path.write_text(json.dumps(written))
    (tmp_path / "plain" / "SHA256SUMS").unlink()
    assert cag_uda.load(tmp_path / "plain").detail is None, "as written before there was detail"


@pytest.mark.slow
def test_exported_for_one_size_it_gives_the_same_labels(classes: Classes, tmp_path: Path) -> None:
    segmenter, path = make(classes), tmp_path / "network.pt2"
    nn.init.normal_(segmenter.get_parameter("classifier.weight"))
    with pytest.raises(UserError, match="windows"):
        export(segmenter, path)
    found = export(segmenter, path, size_px=(75, 130))
    assert found.agreement > 0.999
    image = np.random.default_rng(0).integers(0, 256, (75, 130, 3), np.uint8)
    labels = torch.export.load(path).module()(torch.from_numpy(image)[None])[0].numpy()
    assert (labels == segmenter.predict(image)).mean() > 0.999


def test_a_crop_that_fits_no_grid_or_no_crop_is_refused(classes: Classes) -> None:
    with pytest.raises(ModelError, match=r"\[68, 68\] must be multiples of 8 px.*use \[72, 72\]"):
        make(classes, side=68)
    with pytest.raises(RecipeError, match="at least 64 by 64"):
        load_recipe("camvid-day-dusk-oracle", ["segmenter.detail.crop_px=[0, 64]"])
    with pytest.raises(RecipeError, match=r"crop_px \[512, 512\] does not lie in a training crop"):
        load_recipe("camvid-day-dusk-oracle", ["segmenter.detail={}"])
    recipe = load_recipe("camvid-day-dusk-oracle", ["segmenter.detail.crop_px=[64, 64]"])
    assert recipe.segmenter.detail is not None
    assert recipe.segmenter.detail.weight == 0.1
    assert load_recipe("camvid-day-dusk-oracle").segmenter.detail is None
    with pytest.raises(RecipeError, match="'training-free': anchor-classifier wants logits"):
        load_recipe("demo", ["segmenter.detail.crop_px=[64, 64]"])


def recipe_with_detail(folder: Path) -> Recipe:
    """Two stages of two steps, the second with a teacher that labels."""
    first = RECIPE[: RECIPE.index('[[stages]]\nname = "adabn"')]
    text = first + '[[stages]]\nname = "plus"\nsteps = 2\nmethod = { name = "cag-plus" }\n'
    changes = ["loading.crop_px=[64, 80]", "segmenter.detail.crop_px=[64, 64]"]
    each_stage = ["stages.*.steps=2", "stages.*.log_every=1"]
    return load_recipe(write_recipe(folder, text), [*changes, *each_stage])


@pytest.mark.slow
def test_a_run_stopped_and_resumed_is_the_uninterrupted_one(tmp_path: Path) -> None:
    recipe = recipe_with_detail(tmp_path)
    for place in (("source-only", 1), ("plus", 1)):
        out = tmp_path / place[0]
        with pytest.raises(Interrupted):
            adapt(recipe, out, progress=StopAt(*place))
        adapt(recipe, out, resume=True)
    adapt(recipe, tmp_path / "whole")
    assert_same(tmp_path / "source-only", tmp_path / "whole")
    assert_same(tmp_path / "plus", tmp_path / "whole")
    image = tmp_path / "dusk" / "images" / "000.png"
    assert cag_uda.load(tmp_path / "whole").predict(image).shape == (48, 64)
