"""Images that do not fit into memory as a whole: windows, strips, and what they are chosen by."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cag_uda.models import label_maps as label_maps_module
from cag_uda.models import memory
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.inference import (
    as_trained,
    inference,
    most_likely,
    prepare,
    view_logits,
)
from cag_uda.models.label_maps import label_batch
from cag_uda.models.memory import bytes_per_pixel, free_bytes
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.strips import Stretch, label_strips, plan_windows
from cag_uda.models.views import WHOLE, Views
from cag_uda.models.windows import Window
from tests.support.stub_network import picture, stub_network
from tests.support.trees import read_pixels

_CPU = torch.device("cpu")


def network(decoder: str = "light", backbone: str = "resnet-tiny", **settings: object) -> Segmenter:
    torch.manual_seed(0)
    classes = Classes(
        names=("a", "b", "c", "d"), palette=((0, 0, 0), (9, 9, 9), (5, 5, 5), (1, 2, 3))
    )
    config = SegmenterConfig.model_validate({"backbone": backbone, "decoder": decoder, **settings})
    segmenter = Segmenter(config, classes).eval()
    torch.nn.init.normal_(segmenter.get_parameter("classifier.weight"))
    if segmenter.skip_scores is not None:
        for each in segmenter.skip_scores.parameters():
            torch.nn.init.normal_(each)
    return segmenter


def in_strips(
    segmenter: Segmenter,
    image: np.ndarray,
    size: tuple[int, int],
    views: Views,
    most_pixels: int,
) -> np.ndarray:
    views = as_trained(views, segmenter)
    prepared = prepare(image, segmenter.config.input_width_px)
    parts, stop = [], 0
    with inference(segmenter):
        for rows, looks in label_strips(segmenter, prepared, size, views, most_pixels):
            assert rows.start == stop
            stop = rows.stop
            part = rows.stop - rows.start, size[1]
            parts.append(most_likely(looks, part, views.align_corners)[0].numpy())
    return np.concatenate(parts)


def at_once(
    segmenter: Segmenter, image: np.ndarray, size: tuple[int, int], views: Views
) -> np.ndarray:
    views = as_trained(views, segmenter)
    prepared = prepare(image, segmenter.config.input_width_px)
    with inference(segmenter):
        looks = view_logits(segmenter, prepared, views)
        return most_likely(looks, size, views.align_corners)[0].numpy()


@pytest.mark.parametrize("size", [(160, 224), (163, 231), (33, 500)])
@pytest.mark.parametrize(
    "views",
    [WHOLE, Views(flip=True), Views(align_corners=True), Views(window_px=(48, 64), flip=True)],
    ids=["whole", "flip", "corners", "windows"],
)
def test_strips_of_windows_equal_the_whole(
    size: tuple[int, int], views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit almost everywhere: the margins hold all that the network sees around a pixel."""
    monkeypatch.setattr("cag_uda.models.strips._PIXELS_PER_STRIP", 3000)
    stub, image = stub_network(), picture(*size)
    expected = at_once(stub, image, size, views)
    stub.calls.clear()
    found = in_strips(stub, image, size, views, 70 * 70)
    assert len(stub.calls) > 4
    assert max(shape[-1] * shape[-2] for shape, *_ in stub.calls) <= 70 * 70
    # Sums in another order: where two classes are as likely as each other to the last digit.
    assert np.mean(found != expected) < 1e-4


@pytest.mark.parametrize("scales", [(0.5, 1.0), (1.0, 1.7)])
def test_scales_come_together_in_strips(
    scales: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cag_uda.models.strips._PIXELS_PER_STRIP", 3000)
    stub, image, views = stub_network(), picture(131, 173), Views(scales=scales)
    found = in_strips(stub, image, (131, 173), views, 60 * 60)
    # Other sizes of the image are rounded to 8 bits.
    assert np.mean(found != at_once(stub, image, (131, 173), views)) < 0.01


def test_results_of_another_size_than_the_image() -> None:
    stub, image = stub_network(100), picture(150, 200)
    for size in ((150, 200), (40, 50), (601, 799)):
        found = in_strips(stub, image, size, WHOLE, 40 * 40)
        assert np.mean(found != at_once(stub, image, size, WHOLE)) < 1e-4


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (250, 331)),
        ({"align_corners": True}, (257, 321)),
        ({"skip_scores": True}, (250, 331)),
        ({"backbone": "dinov2-micro"}, (240, 330)),
        ({"decoder": "segformer", "backbone": "mit-micro"}, (250, 330)),
        ({"detail": {"crop_px": [64, 64]}}, (256, 320)),
    ],
    ids=["resnet", "corners", "skip", "patches", "mit", "detail"],
)
def test_real_networks_agree_but_for_what_lies_beyond_the_margins(
    settings: dict[str, object], size: tuple[int, int]
) -> None:
    segmenter = network(**settings)  # type: ignore[arg-type]
    image = cv2.GaussianBlur(picture(*size), (0, 0), 9)
    expected = at_once(segmenter, image, size, WHOLE)
    assert len(np.unique(expected)) > 1
    found = in_strips(segmenter, image, size, WHOLE, 200 * 200)
    assert np.mean(found == expected) > 0.9
    # Windows that are as large as the image change nothing.
    whole = in_strips(segmenter, image, size, WHOLE, size[0] * size[1])
    assert np.mean(whole == expected) > 0.9999


@pytest.mark.parametrize(
    ("decoder", "backbone"),
    [
        ("segformer", "resnet-tiny"),
        ("segformer", "convnextv2-micro"),
        ("daformer", "dinov2-micro"),
        ("daformer", "mit-micro"),
    ],
)
def test_coarse_levels_lie_in_windows_where_they_lie_in_the_image(
    decoder: str, backbone: str
) -> None:
    """Resized corner on corner, cells fall elsewhere in a window, unless it knows its place."""
    segmenter = network(decoder, backbone)
    unit, size = segmenter.grid_px, (250, 530)
    generator = torch.Generator().manual_seed(1)
    strides, channels = segmenter.backbone.strides, segmenter.backbone.channels
    padded = [
        -(-side // segmenter.backbone.multiple) * segmenter.backbone.multiple for side in size
    ]
    maps = [
        torch.randn(1, count, *(-(-side // stride) for side in padded), generator=generator)
        for count, stride in zip(channels, strides, strict=True)
    ]
    start, side = (2 * unit, 4 * unit), 4 * unit if unit == 32 else 12 * unit
    cut = [
        each[..., start[0] // stride :, start[1] // stride :][
            ..., : side // stride, : side // stride
        ]
        for each, stride in zip(maps, strides, strict=True)
    ]

    def resized(maps: list[torch.Tensor]) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        first = next(
            m
            for m in segmenter.decoder.modules()
            if isinstance(m, torch.nn.Conv2d) and m.in_channels == 4 * 256
        )
        hook = first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        with torch.inference_mode():
            segmenter.decoder(maps)
        hook.remove()
        return seen[0]

    whole = resized(maps)
    alone = resized(cut)
    with segmenter.in_window(Window(size, start)):
        placed = resized(cut)
    cells = alone.shape[-1]
    top, left = (int(each * cells / side) for each in start)
    wanted = whole[..., top : top + cells, left : left + cells]
    # Border cells of a window want neighbours that only a margin holds.
    inner = slice(cells // 4, -cells // 4)
    near = (wanted - placed)[..., inner, inner].abs().max()
    assert near < 1e-4
    assert (wanted - alone)[..., inner, inner].abs().max() > 100 * near


def test_windows_cover_the_image_once_and_stay_within_bounds() -> None:
    for size in ((9000, 12000), (2250, 3000), (100, 100_000), (31, 7)):
        rows, columns = plan_windows(size, 1500 * 1500, 32)
        for stretches, length in ((rows, size[0]), (columns, size[1])):
            assert stretches[0].kept_start == 0
            assert stretches[-1].kept_stop == stretches[-1].stop == length
            assert all(one.kept_stop == two.kept_start for one, two in pairwise(stretches))
            assert all(each.start % 32 == each.kept_start % 32 == 0 for each in stretches)
        height, width = (max(e.stop - e.start for e in each) for each in (rows, columns))
        assert height * width <= 1500 * 1500
        looked_at = sum(e.stop - e.start for e in rows) * sum(e.stop - e.start for e in columns)
        assert looked_at <= 1.3 * size[0] * size[1]


def test_where_nothing_fits_windows_are_the_smallest() -> None:
    assert plan_windows((32, 64), 1, 32) == (
        [Stretch(0, 32, 0, 32)],
        [Stretch(0, 64, 0, 32), Stretch(0, 64, 32, 64)],
    )


def test_memory_decides_between_whole_images_batches_and_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter, image = network(), picture(320, 320)
    prepared = [prepare(image, None)] * 4
    shapes: list[tuple[int, ...]] = []
    segmenter.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    together = label_batch(segmenter, prepared, (320, 320), with_confidence=True)
    assert shapes == [(4, 3, 320, 320)]
    each = bytes_per_pixel(segmenter, _CPU) * 320 * 320
    monkeypatch.setattr(label_maps_module, "free_bytes", lambda device: int(2.1 * each / 0.7))
    shapes.clear()
    by_two = label_batch(segmenter, prepared, (320, 320), with_confidence=True)
    assert [shape[0] for shape in shapes] == [2, 2]
    assert np.array_equal(together.label, by_two.label)
    monkeypatch.setattr(label_maps_module, "free_bytes", lambda device: int(0.6 * each / 0.7))
    shapes.clear()
    windows = label_batch(segmenter, prepared[:1], (320, 320), with_confidence=True)
    assert max(shape[2] * shape[3] for shape in shapes) <= 0.6 * 320 * 320
    assert np.mean(windows.label == together.label[:1]) > 0.95
    assert together.confidence is not None
    assert windows.confidence is not None
    assert np.mean(np.abs(windows.confidence - together.confidence[:1])) < 0.05


def test_a_networks_need_is_what_its_tensors_take() -> None:
    class Plain(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            doubled = torch.cat([image, image])
            return doubled.sum()

    with torch.inference_mode():
        # 3 float32 channels of the image, and twice as many beside them.
        assert bytes_per_pixel(Plain(), _CPU) == pytest.approx(1.5 * 36, rel=0.01)


def test_limits_of_control_groups_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < free_bytes(_CPU) < 1 << 50
    own, groups = tmp_path / "cgroup", tmp_path / "groups"
    (groups / "jobs" / "7").mkdir(parents=True)
    own.write_text("4:memory:/elsewhere\n0::/jobs/7\n")
    (groups / "jobs" / "7" / "memory.max").write_text("max\n")
    (groups / "jobs" / "memory.max").write_text(f"{100 << 20}\n")
    (groups / "jobs" / "memory.current").write_text(f"{70 << 20}\n")
    (groups / "jobs" / "memory.stat").write_text(f"anon 1\ninactive_file {20 << 20}\n")
    monkeypatch.setattr(memory, "_OWN_GROUP", own)
    monkeypatch.setattr(memory, "_GROUPS", groups)
    assert free_bytes(_CPU) == 50 << 20


_COMMAND = """
import sys
from cag_uda.cli.app import app
app(sys.argv[1:], standalone_mode=False)
lines = open("/proc/self/status").read().splitlines()
print("peak", next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", [(9000, 12000), (13370, 13370)], ids=["photo", "bomb"])
def test_a_huge_image_is_predicted_within_4_gib(size: tuple[int, int], tmp_path: Path) -> None:
    network().save_pretrained(tmp_path / "model")
    image = np.zeros((*size, 3), np.uint8)
    if size == (9000, 12000):
        image = np.resize(picture(900, 1200), (900, 1200, 3)).repeat(10, 0).repeat(10, 1)
    cv2.imwrite(str(tmp_path / "huge.png"), image)
    del image
    arguments = ["predict", tmp_path / "model", tmp_path / "huge.png", "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *map(str, arguments), "--as", "overlay,train-ids"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.split("peak ")[1]) < 4 << 20
    label = read_pixels(tmp_path / "out" / "train-ids" / "huge.png")
    assert label.shape == size
    # What windows change is held at sizes that fit as a whole, above; here every pixel has a class.
    assert set(np.unique(label).tolist()) <= {0, 1, 2, 3}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", ["check", "evaluate"])
def test_small_files_of_huge_images_are_checked_and_scored_within_4_gib(
    command: str, tmp_path: Path
) -> None:
    """Three images of 13370² in 22 kB each; neither threads nor batches hold several of them.

    Half the side is scored: a network takes minutes for so many pixels.
    """
    side = 13370 if command == "check" else 6685
    size = (side, side)
    for folder in ("images", "labels"):
        (tmp_path / "d" / folder).mkdir(parents=True)
        for number in range(3):
            cv2.imwrite(str(tmp_path / "d" / folder / f"{number}.png"), np.zeros(size, np.uint8))
    described = tmp_path / "d.toml"
    classes = "".join(f'[[classes]]\nname = "{name}"\n' for name in "abcd")
    described.write_text(
        f'name = "d"\nroot = "d"\n{classes}[labels]\nencoding = "ids"\n'
        '[splits.test]\nimages = "images/*"\nlabels = "labels/*"\n'
    )
    arguments: list[object] = ["check", described]
    if command == "evaluate":
        network("segformer").save_pretrained(tmp_path / "model")
        arguments = ["evaluate", tmp_path / "model", "--domain", described]
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.split("peak ")[1]) < 4 << 20
