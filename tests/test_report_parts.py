"""The parts of the page that need no run: pictures, numbers in words, chart geometry."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from cag_uda.report import charts, words
from cag_uda.report.pictures import embed_all

COLOURS = [(70, 130, 180), (128, 64, 128), (244, 35, 232), (0, 0, 142)]


def test_pictures_fit_the_budget_and_labels_keep_their_colours(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 800, 3), dtype=np.uint8)
    photo, label = tmp_path / "photo.png", tmp_path / "label.png"
    Image.fromarray(noise).save(photo)
    stripes = np.array(COLOURS, dtype=np.uint8)[np.arange(800) // 30 % len(COLOURS)]
    Image.fromarray(np.tile(stripes, (300, 1, 1))).save(label)
    embedded = embed_all([label, photo], budget_bytes=60_000)
    assert sum(map(len, embedded.values())) <= 60_000
    assert list(embedded) == [label, photo]
    assert list(embed_all([label, photo], budget_bytes=6_000)) == [label]
    decoded = Image.open(io.BytesIO(base64.b64decode(embedded[label].split(",")[1])))
    colours = {colour for _, colour in decoded.convert("RGB").getcolors() or []}
    assert colours == set(COLOURS)


def test_words() -> None:
    durations = [words.duration(elapsed_s) for elapsed_s in (None, 0.25, 81.2, 3600, 4020, 90_000)]
    assert [text.replace("\u202f", " ") for text in durations] == [
        "–", "0.2 s", "1 min 21 s", "1 h", "1 h 7 min", "1 d 1 h",
    ]  # fmt: skip
    assert [words.signed(p) for p in (None, 0.04, -0.04, -3.16)] == ["–", "±0.0", "±0.0", "−3.2"]
    assert [words.compact(v) for v in (0, 0.05, 1500, 2e6, 1e-5)] == [
        "0", "0.05", "1.5k", "2M", "1e-5",
    ]  # fmt: skip


def test_losses_of_unlike_size_get_a_logarithmic_axis() -> None:
    losses = {"source/ce": [(0, 2.0), (10, 1.0)], "target/fool": [(0, 0.002), (10, 0.001)]}
    chart = charts.loss_chart("stage", losses, {"source/ce": 0, "target/fool": 1}, [])
    assert [tick.text for tick in chart.y_ticks] == ["0.001", "0.01", "0.1", "1", "10"]
    assert [tick.at for tick in chart.y_ticks] == [0, 25, 50, 75, 100]
    plain = charts.loss_chart("stage", {"a": losses["source/ce"]}, {"a": 0}, [])
    assert plain.y_ticks[0].text == "0"
    # 1.0 of 2.16 from the bottom, at the right end.
    assert plain.lines[0].path.endswith("L1000.0 537.0")
