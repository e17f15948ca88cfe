"""Checkpoints of other people's code: read safely, placed entirely, and computing the same."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import cag_uda
from cag_uda.cli.app import app
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.errors import ModelError, UserError
from cag_uda.models.backbones import BACKBONES
from cag_uda.models.foreign import Foreign, read_foreign
from cag_uda.models.resnet import ResNet
from cag_uda.models.segmenter import Segmenter
from cag_uda.runs.anchor_files import load_anchors, read_released_anchors
from tests.support.network_parts import part
from tests.support.original_networks import ReleasedCAG, ReleasedV2, SummedConvolutions, randomise
from tests.support.places import CAMVID_ROOT
from tests.support.tiny_resnets import TINY, add_tiny_resnets

OFFICIAL_ANCHORS = CAMVID_ROOT / "official_cag" / "category_anchors"
SIZES = [(65, 129), (97, 161), (64, 128), (70, 130)]


@pytest.fixture(autouse=True)
def _tiny_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny_resnets(monkeypatch)


def save_cag(path: Path, network: nn.Module, **how: Any) -> Path:
    """A checkpoint in the layout of the released CAG-UDA code."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    saved = {
        "DeepLab": {
            "model_state": network.state_dict(),
            "optimizer_state": optimizer.state_dict(),
            "scheduler_state": {"last_epoch": 3, "base_lrs": [1e-4]},
        },
        "iter": 62412,
        "best_iou": np.float64(0.502),
    }
    torch.save(saved, path, **how)
    return path


def save_v2(path: Path, form: str) -> nn.Module:
    """A checkpoint in the layout of AdaptSegNet, ADVENT or DACS; returns the original network."""
    used, levels = (2 if form == "adaptsegnet" else 4), (1 if form == "dacs" else 2)
    network = randomise(ReleasedV2(19, **TINY, used=used, levels=levels))
    for head in (module for name, module in network.named_modules() if "conv2d_list." in name):
        nn.init.normal_(head.weight, std=0.01)
    if used == 4:  # The branches were trained: their weights are no longer what they began as.
        for name, module in network.named_modules():
            if "conv2d_list." in name:
                module.weight.data.mul_(1.3)
    state = network.state_dict()
    if form == "dacs":
        ema = {name: value + 1 for name, value in state.items()}
        torch.save({"iteration": 250000, "model": state, "ema_model": ema, "config": {}}, path)
    else:
        old = {name: value for name, value in state.items() if "num_batches" not in name}
        torch.save(old, path, _use_new_zipfile_serialization=False)
    return network


def imported(path: Path, out: Path, *more: str) -> Segmenter:
    result = CliRunner().invoke(app, ["import", str(path), "--out", str(out), *more])
    if result.exception is not None:
        raise result.exception
    return cag_uda.load(out)


def assert_same(segmenter: Segmenter, original: nn.Module, size: tuple[int, int]) -> None:
    """Features and logits within 1e-4, and not by being nothing."""
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        features, logits = segmenter(image)
        expected_features, expected_logits = original(image)
    assert features.shape == expected_features.shape
    for got, wanted in ((features, expected_features), (logits, expected_logits)):
        assert wanted.std() > 0.01
        assert (got - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("legacy", [False, True])
def test_released_cag_network_computes_the_same(tmp_path: Path, legacy: bool) -> None:
    original = randomise(ReleasedCAG(19, **TINY))
    how = {"_use_new_zipfile_serialization": not legacy}
    segmenter = imported(save_cag(tmp_path / "ckpt.pkl", original, **how), tmp_path / "model")
    for size in SIZES:
        assert_same(segmenter, original, size)
    config = segmenter.config
    assert config.decoder == "deeplab-v3plus"
    assert (config.output_stride, config.multi_grid, config.norm) == (16, (1, 2, 4), "shared")
    assert (config.mean, config.std) == ((0, 0, 0), (1, 1, 1))
    space = LabelSpace.load("cityscapes-19")
    assert segmenter.classes.names == space.names
    assert np.array_equal(segmenter.classes.palette, space.palette)
    assert segmenter.classes.label_ids == (
        7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
    )  # fmt: skip


@pytest.mark.parametrize("form", ["adaptsegnet", "advent", "dacs"])
def test_deeplab_v2_computes_the_same(tmp_path: Path, form: str) -> None:
    original = save_v2(tmp_path / "v2.pth", form)
    segmenter = imported(tmp_path / "v2.pth", tmp_path / "model")
    for size in SIZES:
        assert_same(segmenter, original, size)
    assert segmenter.feature_channels == 128
    assert segmenter.config.norm == "frozen"
    assert segmenter.config.input_width_px == 1024
    family = json.loads((tmp_path / "model" / "import.json").read_text())["family"]
    assert family == ("adaptsegnet" if form == "adaptsegnet" else "advent")


def test_the_family_can_be_told(tmp_path: Path) -> None:
    original = save_v2(tmp_path / "v2.pth", "advent")
    classifier = part(original, "layer6", SummedConvolutions)
    told = imported(tmp_path / "v2.pth", tmp_path / "two", "--family", "adaptsegnet")
    classifier.used = 2
    assert_same(told, original, (65, 129))
    classifier.used = 4
    dacs = imported(tmp_path / "v2.pth", tmp_path / "four", "--family", "dacs")
    assert_same(dacs, original, (65, 129))
    with pytest.raises(ModelError, match="leave the family out"):
        imported(tmp_path / "v2.pth", tmp_path / "none", "--family", "cag")
    with pytest.raises(SystemExit, match="2"):
        imported(tmp_path / "v2.pth", tmp_path / "none", "--family", "cyclegan")


@pytest.mark.parametrize("form", ["cag", "adaptsegnet", "advent", "dacs"])
def test_every_tensor_is_placed_or_reported(tmp_path: Path, form: str) -> None:
    path = tmp_path / "checkpoint"
    if form == "cag":
        save_cag(path, randomise(ReleasedCAG(19, **TINY)))
        saved = torch.load(path, weights_only=False)
        state, rest = saved["DeepLab"]["model_state"], saved["DeepLab"]["optimizer_state"]["state"]
        others = {
            *(f"DeepLab.optimizer_state.state.{index}.momentum_buffer" for index in rest),
            *("DeepLab.scheduler_state", "iter", "best_iou"),
        }
    else:
        save_v2(path, form)
        saved = torch.load(path, weights_only=False)
        state = saved["model"] if form == "dacs" else saved
        others = {"iteration", "config", *(f"ema_model.{name}" for name in state)}
        others = others if form == "dacs" else set()
    foreign = read_foreign(path)
    assert foreign.placed.keys() | foreign.left_out.keys() == set(state) | others
    assert not foreign.placed.keys() & foreign.left_out.keys()
    reasons = {name: why for name, why in foreign.left_out.items() if name in state}
    if form == "cag":
        assert not reasons
    else:
        assert all("conv2d_list" in name for name in reasons)
        auxiliary = [name for name, why in reasons.items() if "two levels" in why]
        unreached = [name for name, why in reasons.items() if "never reaches" in why]
        assert len(auxiliary) == (0 if form == "dacs" else 8)
        assert sorted(unreached) == (
            [f"layer6.conv2d_list.{i}.{leaf}" for i in (2, 3) for leaf in ("bias", "weight")]
            if form == "adaptsegnet"
            else []
        )
    for name, ours in foreign.placed.items():
        expected = state[name].flip(1) if form != "cag" and name == "conv1.weight" else state[name]
        assert foreign.tensors[ours].equal(expected), name


def test_what_was_done_is_told_and_kept(tmp_path: Path) -> None:
    save_v2(tmp_path / "v2.pth", "adaptsegnet")
    arguments = ["import", str(tmp_path / "v2.pth"), "--out", str(tmp_path / "model")]
    output = CliRunner().invoke(app, arguments).output
    for said in ("two levels", "never reaches", "BGR to RGB", "dilation 18 and 24", "import.json"):
        assert said in output
    record = json.loads((tmp_path / "model" / "import.json").read_text())
    assert record["placed"]["layer6.conv2d_list.0.weight"] == "classifier.branches.0.weight"
    assert "layer5.conv2d_list.3.bias" in record["left_out"]
    with pytest.raises(UserError, match="exists already"):
        imported(tmp_path / "v2.pth", tmp_path / "model")


def test_sixteen_classes_are_synthias(tmp_path: Path) -> None:
    torch.save(ReleasedV2(16, **TINY, used=4, levels=1).state_dict(), tmp_path / "v2.pth")
    names = imported(tmp_path / "v2.pth", tmp_path / "model").classes.names
    absent = {"terrain", "truck", "train"}
    assert names == tuple(n for n in LabelSpace.load("cityscapes-19").names if n not in absent)


def test_other_classes_are_a_domains(tmp_path: Path) -> None:
    torch.save(ReleasedV2(11, **TINY, used=4, levels=1).state_dict(), tmp_path / "v2.pth")
    with pytest.raises(UserError, match="11 classes apart"):
        imported(tmp_path / "v2.pth", tmp_path / "model")
    segmenter = imported(tmp_path / "v2.pth", tmp_path / "model", "--domain", "camvid")
    assert segmenter.classes.names == LabelSpace.load("camvid-11").names
    with pytest.raises(ModelError, match="11 classes apart, not 19"):
        imported(tmp_path / "v2.pth", tmp_path / "other", "--domain", "cityscapes")


def test_data_parallel_names_and_old_numpy_names(tmp_path: Path) -> None:
    original = randomise(ReleasedCAG(19, **TINY))
    path = save_cag(tmp_path / "ckpt", original, _use_new_zipfile_serialization=False)
    # As numpy 1 wrote it.
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))
    plain = read_foreign(path)
    state = {f"module.{name}": value for name, value in original.state_dict().items()}
    torch.save({"DeepLab": {"model_state": state}, "iter": 1}, tmp_path / "parallel")
    parallel = read_foreign(tmp_path / "parallel")
    assert parallel.placed == plain.placed


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("where", ["checkpoint", "anchors", "weights"])
def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path, where: str, legacy: bool) -> None:
    marker = tmp_path / "ran"
    hostile = {"DeepLab": {"model_state": {"x": torch.zeros(1)}}, "best_iou": Hostile(marker)}
    path = tmp_path / "hostile.pth"
    torch.save(hostile, path, _use_new_zipfile_serialization=not legacy)
    readers: dict[str, Callable[[], object]] = {
        "checkpoint": lambda: read_foreign(path),
        "anchors": lambda: read_released_anchors(path, 19, 256),
        "weights": lambda: ResNet(BACKBONES["tiny"].config, str(path), 16),
    }
    with pytest.raises(ModelError, match=r"(posix|nt)\.system.*it was not run") as caught:
        readers[where]()
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_nothing_stays_allowed_afterwards(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_foreign(save_cag(tmp_path / "ckpt", ReleasedCAG(19, **TINY)))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path, state: path.unlink(), "cannot read"),
        (lambda path, state: path.write_bytes(path.read_bytes()[:5000]), "is damaged"),
        (lambda path, state: path.write_bytes(b"hello"), "is damaged"),
        (lambda path, state: torch.save([1, 2], path), "holds no network"),
        (lambda path, state: torch.save({"epoch": 3}, path), "holds no network.*epoch"),
        (lambda path, state: torch.save({"a.weight": torch.zeros(1)}, path), "no checkpoint of"),
        (lambda path, state: _save_without(path, state, "layer3.0.bn2.weight"), "is missing"),
        (
            lambda path, state: _save_without(path, state, "conv1.weight"),
            r"no tensor conv1\.weight",
        ),
        (lambda path, state: _save_without(path, state, "layer2.1"), "no backbone here"),
        (
            lambda path, state: torch.save(state | {"bn1.bias": torch.zeros(5)}, path),
            r"is \(5,\), wanted \(8,\)",
        ),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(
    damage: Callable[[Path, dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "v2.pth"
    save_v2(path, "advent")
    damage(path, torch.load(path) if path.exists() else {})
    with pytest.raises(ModelError, match=message) as caught:
        imported(path, tmp_path / "model")
    assert len(caught.value.problems) == 1
    assert not (tmp_path / "model").exists()


def _save_without(path: Path, state: dict[str, Tensor], prefix: str) -> None:
    torch.save({n: value for n, value in state.items() if not n.startswith(prefix)}, path)


def test_unknown_tensors_of_a_network_are_reported(tmp_path: Path) -> None:
    original = ReleasedCAG(19, **TINY)
    state = original.state_dict() | {"backbone.fc.weight": torch.zeros(2), "extra": torch.zeros(1)}
    torch.save({"DeepLab": {"model_state": state}}, tmp_path / "ckpt")
    foreign: Foreign = read_foreign(tmp_path / "ckpt")
    assert foreign.left_out.keys() == {"backbone.fc.weight", "extra"}


@pytest.mark.parametrize("form", ["dict", "array"])
def test_released_anchors_in_both_forms(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(19, 256))
    vectors[16] = 0  # Never seen.
    counts = rng.integers(1, 3000, 19).astype(np.float64)
    saved = {"objective_vectors": vectors, "objective_num": counts}
    torch.save(saved if form == "dict" else vectors, tmp_path / "anchors")
    checkpoint = save_cag(tmp_path / "ckpt", ReleasedCAG(19, **TINY))
    imported(checkpoint, tmp_path / "model", "--anchors", str(tmp_path / "anchors"))
    anchors = load_anchors(tmp_path / "model" / "anchors.safetensors")
    seen = [index for index in range(19) if index != 16]
    np.testing.assert_allclose(anchors.vectors[seen].numpy(), vectors[seen], rtol=1e-6)
    expected = counts.astype(int) if form == "dict" else np.ones(19, int)
    expected[16] = 0
    assert anchors.counts.tolist() == expected.tolist()
    assert anchors.distances(torch.rand(1, 256, 2, 2))[:, 16].isinf().all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((19, 128)), "19 anchors of 128 channels; the network has 19 classes.*256"),
        (np.zeros(19), "holds no anchors"),
        ({"vectors": np.zeros((19, 256))}, "holds no anchors"),
        ({"objective_vectors": np.zeros((19, 256)), "objective_num": np.zeros(4)}, r"\(4,\)"),
        ("text", "holds no anchors"),
    ],
)
def test_anchors_of_something_else_are_refused(
    content: object, message: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "anchors")
    with pytest.raises(ModelError, match=message):
        read_released_anchors(tmp_path / "anchors", 19, 256)


def test_the_shipped_anchors(tmp_path: Path) -> None:
    """The authentic file of the authors."""
    if not OFFICIAL_ANCHORS.exists():
        pytest.skip("the released anchors are not here")
    anchors = read_released_anchors(OFFICIAL_ANCHORS, 19, 256)
    norms = anchors.vectors.norm(dim=1)
    assert norms.min().item() == pytest.approx(6.8, abs=0.05)
    assert norms.max().item() == pytest.approx(12.4, abs=0.05)
    apart = torch.cdist(anchors.vectors, anchors.vectors).fill_diagonal_(torch.inf).amin(dim=1)
    assert apart.min().item() == pytest.approx(4.8, abs=0.05)
    assert apart.max().item() == pytest.approx(7.9, abs=0.05)
    names = LabelSpace.load("cityscapes-19").names
    counts = dict(zip(names, anchors.counts.tolist(), strict=True))
    assert (counts.pop("train"), counts.pop("bicycle")) == (125, 80)
    assert (min(counts.values()), max(counts.values())) == (499, 3000)
    checkpoint = save_cag(tmp_path / "ckpt", ReleasedCAG(19, **TINY))
    imported(checkpoint, tmp_path / "model", "--anchors", str(OFFICIAL_ANCHORS))
    assert load_anchors(tmp_path / "model" / "anchors.safetensors").vectors.equal(anchors.vectors)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["cag", "adaptsegnet"])
def test_full_size_networks_compute_the_same(tmp_path: Path, form: str) -> None:
    full: dict[str, Any] = {"stem": 64, "width": 64, "depths": [3, 4, 23, 3]}
    path = tmp_path / "ckpt"
    if form == "cag":
        original = randomise(ReleasedCAG(19, **full))
        torch.save({"DeepLab": {"model_state": original.state_dict()}}, path)
    else:
        original = randomise(ReleasedV2(19, **full, used=2, levels=2))
        torch.save(original.state_dict(), path)
    segmenter = imported(path, tmp_path / "model", "--family", form)
    assert segmenter.config.backbone == ("resnet-101" if form == "cag" else "resnet-101-caffe")
    assert segmenter.feature_channels == (256 if form == "cag" else 2048)
    for size in ((65, 129), (97, 161)):
        assert_same(segmenter, original, size)
