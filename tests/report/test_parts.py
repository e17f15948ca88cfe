"""The parts of the page that need no run: pictures, colours, numbers in words, tables, charts."""

import base64
import io
from itertools import combinations
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from cag_uda.adaptation.tensors import downsample
from cag_uda.report import charts, words
from cag_uda.report.criteria import MEANINGS, rank_correlation
from cag_uda.report.evidence import FeatureMap
from cag_uda.report.feature_maps import _turn
from cag_uda.report.gallery import right_share
from cag_uda.report.labelling import make_labelling
from cag_uda.report.matrices import LARGEST, make_matrices
from cag_uda.report.palette import VISIONS, as_seen, safe_palette
from cag_uda.report.pictures import NO_CLASS, Colours, at_cells, embed_all
from cag_uda.report.run_folder import read_run
from cag_uda.runs.selection import LOWER_IS_BETTER
from cag_uda.types import CriterionName
from tests.support.report_trees import make_run, scene, stage_record

COLOURS = [(70, 130, 180), (128, 64, 128), (244, 35, 232), (0, 0, 142)]
CITYSCAPES = [
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
    (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
    (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
]  # fmt: skip


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def test_pictures_fit_the_budget_and_labels_keep_their_colours(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 800, 3), dtype=np.uint8)
    photo, label = tmp_path / "photo.png", tmp_path / "label.png"
    Image.fromarray(noise).save(photo)
    ids = np.tile(np.arange(800) // 30 % (len(COLOURS) + 1), (300, 1)).astype(np.uint8)
    painted = np.array([*COLOURS, (0, 0, 0)], dtype=np.uint8)[ids]
    Image.fromarray(painted).save(label)
    colours = Colours(COLOURS)
    read = colours.ids(label)
    assert read is not None
    assert np.array_equal(read, np.where(ids == len(COLOURS), NO_CLASS, ids))
    labels = {label: read}
    embedded = embed_all([label, photo], 60_000, labels, colours)
    assert sum(map(len, embedded.values())) <= 60_000
    assert list(embedded) == [label, photo]
    assert list(embed_all([label, photo], 6_000, labels, colours)) == [label]
    shown = decoded(embedded[label]).convert("RGB")
    assert {colour for _, colour in shown.getcolors() or []} == {*COLOURS, (0, 0, 0)}


def test_no_class_has_a_colour_that_no_class_has() -> None:
    colours = Colours([(0, 0, 0), (1, 1, 1)])
    assert colours.no_class == (2, 2, 2)
    ids = np.array([[0, 1, NO_CLASS]], np.uint8)
    shown = np.asarray(decoded(colours.data_uri(ids)).convert("RGB"))
    assert shown.tolist() == [[[0, 0, 0], [1, 1, 1], [2, 2, 2]]]


def test_grey_levels_are_train_ids(tmp_path: Path) -> None:
    ids = np.array([[0, 3, NO_CLASS]], np.uint8)
    Image.fromarray(ids).save(tmp_path / "grey.png")
    read = Colours(COLOURS).ids(tmp_path / "grey.png")
    assert read is not None
    assert np.array_equal(read, ids)
    (tmp_path / "none.png").write_bytes(b"no picture")
    assert Colours(COLOURS).ids(tmp_path / "none.png") is None


def test_cells_take_the_pixel_at_their_centre_or_corner() -> None:
    ids = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert at_cells(ids, (2, 2)).tolist() == [[7, 10], [19, 22]]
    assert at_cells(ids, (2, 2), align_corners=True).tolist() == [[0, 3], [12, 15]]


@pytest.mark.parametrize("corners", [False, True])
def test_pseudo_labels_meet_the_truth_where_the_network_reads_it(
    tmp_path: Path, corners: bool
) -> None:
    run = make_run(tmp_path / "run", samples=1)
    with (run / "recipe.toml").open("a") as recipe:
        recipe.write(f"\n[segmenter]\nalign_corners = {str(corners).lower()}\n")
    _, ids = scene(0)
    read_there = downsample(torch.from_numpy(ids).long()[None], (9, 12), align_corners=corners)
    cells = read_there[0].numpy().astype(np.uint8)
    assert not np.array_equal(cells, at_cells(ids, (9, 12), align_corners=not corners))
    stored = run / "stages" / "2-stage-1" / "pseudo_labels" / "0-anchor.png"
    Image.fromarray(cells).save(stored)
    record = read_run(run)
    labelling = make_labelling(
        record.stages,
        record.samples,
        record.scores.palette,
        align_corners=record.align_corners,
    )
    assert labelling.pictures[0]["kinds"]["anchor"]["0"]["precision"] == 1.0


def test_share_of_right_pixels() -> None:
    truth = np.array([[0, 1, 2, NO_CLASS]], np.uint8)
    assert right_share(np.array([[0, 2, 2, 1]], np.uint8), truth) == pytest.approx(2 / 3)
    assert right_share(np.array([[0, NO_CLASS, 1, 1]], np.uint8), truth) == 0.5
    assert right_share(np.full((1, 4), NO_CLASS, np.uint8), truth) is None
    assert right_share(truth[:, :3], truth) is None


@pytest.mark.parametrize("vision", VISIONS)
def test_safe_colours_stay_apart_for_every_eye(vision: str) -> None:
    def least(palette: list[tuple[int, int, int]]) -> float:
        seen = as_seen(np.array(palette), vision)
        return min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2))

    assert least(list(safe_palette(19))) > 1.7 * least(CITYSCAPES)
    assert least(list(safe_palette(19))) > 0.06
    assert safe_palette(11) == safe_palette(19)[:11]
    assert len(set(safe_palette(150))) == 150


def test_vision_is_simulated() -> None:
    red, green = np.array([[220, 60, 40]]), np.array([[120, 120, 0]])
    white, grey = np.full((1, 3), 255), np.full((1, 3), 90)
    for vision in VISIONS:
        for colour in (white, grey):
            assert as_seen(colour, vision) == pytest.approx(as_seen(colour, "normal"), abs=2e-3)

    def apart(vision: str) -> float:
        return float(np.linalg.norm(as_seen(red, vision) - as_seen(green, vision)))

    # Red against green of one lightness: what dichromats of either kind confuse.
    assert apart("deuteranopia") < 0.5 * apart("normal")
    assert apart("protanopia") < 0.8 * apart("normal")
    # OKLab of white is (1, 0, 0) by definition.
    assert as_seen(white, "normal")[0] == pytest.approx([1, 0, 0], abs=1e-3)


def feature_map(
    distances: list[list[float]], spread: list[float], shift: list[float]
) -> FeatureMap:
    nothing = np.zeros((0, 2), np.float32)
    ids = np.zeros(0, np.uint8)
    return FeatureMap(
        nothing, ids, nothing, ids, nothing,
        np.array(distances, np.float32), np.array(spread, np.float32), np.array(shift, np.float32),
        by_truth=True,
    )  # fmt: skip


def test_separation_and_shift() -> None:
    nan = np.nan
    one = feature_map([[0, 2, 6], [2, 0, 8], [6, 8, 0]], [1, 2, 3], [0.5, nan, 6])
    assert one.separation == pytest.approx((2 / 1 + 2 / 2 + 6 / 3) / 3)
    assert one.domain_shift == pytest.approx((0.5 / 1 + 6 / 3) / 2)
    assert one.relative_distances[0, 2] == pytest.approx(6 / 2)
    lacking = feature_map([[0, 2, nan], [2, 0, nan], [nan, nan, nan]], [1, 2, nan], [nan] * 3)
    assert lacking.separation == pytest.approx(1.5)
    assert lacking.domain_shift is None


def test_maps_are_turned_but_not_stretched() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=(5, 2))
    angle = 2.0
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirrored = np.diag([1, -1])
    anchors = 3 * before @ mirrored @ rotation
    anchors[4] = np.nan
    turn = _turn(anchors, before)
    assert turn @ turn.T == pytest.approx(np.eye(2), abs=1e-9)
    assert (anchors @ turn)[:4] == pytest.approx(3 * before[:4])


def test_matrices_name_their_extremes() -> None:
    shares = np.array([[0.5, 0.4, 0.1], [0, 1, 0], [np.nan] * 3], np.float32)
    apart = np.array([[0, 5, 1], [5, 0, 3], [1, 3, 0]], np.float32)
    stage = stage_record("stage-1")
    found = make_matrices([], [(stage, apart)], [(stage, shares)])
    assert not found.is_relative
    assert [[text for text, _ in row] for row in found.confusions[0].rows] == [
        ["50", "40", "10"], ["0", "100", "0"], ["", "", ""],
    ]  # fmt: skip
    assert found.confusions[0].extremes == [
        (0, 1, "40 %"), (0, 2, "10 %"),
    ]  # fmt: skip
    assert found.anchors[0].extremes == [
        (0, 2, "1.0"), (1, 2, "3.0"), (0, 1, "5.0"),
    ]  # fmt: skip
    # The nearest pair is shaded most.
    assert found.anchors[0].rows[0][2][1] == 1
    many = make_matrices([], [], [(stage, np.eye(LARGEST + 1, dtype=np.float32))])
    assert many.confusions[0].rows == []


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, None], [3, 2, 1, 9]) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert rank_correlation([1, 2, 2, 5], [1, 2, 3, 4]) == pytest.approx(0.9486833)
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_every_criterion_is_explained() -> None:
    assert set(MEANINGS) == set(get_args(CriterionName))
    lower = {name for name, (better, _) in MEANINGS.items() if better == "lower"}
    assert lower == LOWER_IS_BETTER


def test_words() -> None:
    durations = [words.duration(elapsed_s) for elapsed_s in (None, 0.25, 81.2, 3600, 4020, 90_000)]
    assert [text.replace("\u202f", " ") for text in durations] == [
        "–", "0.2 s", "1 min 21 s", "1 h", "1 h 7 min", "1 d 1 h",
    ]  # fmt: skip
    assert [words.signed(p) for p in (None, 0.04, -0.04, -3.16)] == ["–", "±0.0", "±0.0", "−3.2"]
    assert [words.compact(v) for v in (0, 0.05, 1500, 2e6, 1e-5)] == [
        "0", "0.05", "1.5k", "2M", "1e-5",
    ]  # fmt: skip


def test_percent_has_no_negative_nothing() -> None:
    shown = [words.percent(share, 0).replace("\u202f", " ") for share in (-0.001, 0.004, -0.2)]
    assert shown == ["0 %", "0 %", "−20 %"]
    assert words.plain({"a": [1, None], "b": "c"}) == "a 1 –, b c"


def test_losses_of_unlike_size_get_a_logarithmic_axis() -> None:
    losses = {"source/ce": [(0, 2.0), (10, 1.0)], "target/fool": [(0, 0.002), (10, 0.001)]}
    chart = charts.loss_chart("stage", losses, {"source/ce": 0, "target/fool": 1}, [])
    assert [tick.text for tick in chart.y_axis.ticks] == ["0.001", "0.01", "0.1", "1", "10"]
    assert [tick.at for tick in chart.y_axis.ticks] == [0, 25, 50, 75, 100]
    plain = charts.loss_chart("stage", {"a": losses["source/ce"]}, {"a": 0}, [])
    assert plain.y_axis.ticks[0].text == "0"
    # 1.0 of 2.16 from the bottom, at the right end.
    assert plain.lines[0].path.endswith("L1000.0 537.0")
