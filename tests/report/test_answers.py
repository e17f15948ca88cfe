"""The answers to the research questions on an ablation's page: figures worked by hand."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cag_uda.errors import RunError
from cag_uda.report import write_comparison
from cag_uda.report.answers import mean_curve
from cag_uda.report.charts import curve_charts
from cag_uda.runs.records.stage import CurvesPerClass, LabelCurves
from tests.support.report_trees import text_of

HOSTILE = "<script>window.hacked=1</script>\"'><img src=x>"


def separation(source: float, target: float, shift: float | None) -> dict[str, Any]:
    return {"source": source, "target": target, "centroid_shift": shift}


ANSWERS: dict[str, Any] = {
    "cag": {
        "warmup": {"miou": 0.36, "separation": separation(2.0, 1.0, 0.5), "label_error": None},
        "stage-1": {
            "miou": 0.41,
            "separation": separation(4.0, 1.5, 0.25),
            "precision_at": {"anchor": {"0.1": 0.97, "0.5": 0.8}, "confidence": {"0.1": None}},
            "label_error": {
                "anchor": {"error": 0.25, "coverage": 0.4},
                "confidence": {"error": None, "coverage": 0.0},
            },
        },
    },
    "source-only": {"source-only": {"miou": 0.31, "separation": separation(1.0, 0.5, None)}},
    "stages-1": {"stage-1": {"miou": 0.4, "label_error": {}}},
}


def kind(precision: Sequence[float | None], coverage: Sequence[float | None]) -> dict[str, Any]:
    """Curves of two classes: the first as all, the second without a truth."""
    nothing = [None] * len(precision)
    per_class = {"precision": [precision, nothing], "coverage": [coverage, nothing]}
    thresholds = [float(place) for place in range(len(precision))]
    return {
        "thresholds": thresholds,
        "precision": precision,
        "coverage": coverage,
        "per_class": per_class,
    }


def write_curves(folder: Path, seed: int, curves: Any, stage: str = "1-stage-1") -> Path:
    file = folder / f"cag-{seed}" / "stages" / stage / "label_curves.json"
    file.parent.mkdir(parents=True)
    file.write_text(curves if isinstance(curves, str) else json.dumps(curves))
    return file


def page_of(folder: Path, answers: Any = ANSWERS, **changes: object) -> str:
    cells = [{"seed": seed, "miou": 0.4, "run": f"cag-{seed}"} for seed in range(2)]
    content = {
        "name": "dusk",
        "classes": ["sky", "road"],
        "floor": "source-only",
        "methods": [{"name": "source-only"}, {"name": "cag", "cells": cells}],
        "answers": answers,
    }
    (folder / "ablation.json").write_text(json.dumps({**content, **changes}))
    return write_comparison(folder / "ablation.json").read_text(encoding="utf-8")


def section_of(page: str) -> str:
    return page[page.index('<section id="answers"') : page.index('<section id="classes"')]


def readings(page: str) -> list[dict[str, Any]]:
    """What the pointer reads, chart by chart."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', page)
    return [json.loads(html.unescape(each)) for each in found]


def test_separations_floor_and_base_first(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    text = text_of(page)
    assert '<a href="#answers">Answers</a>' in page
    rows = "source-only source-only 1.00 0.50 – cag warmup 2.00 1.00 0.50 stage-1 4.00 1.50 0.25"
    assert rows in text
    # On a scale to the largest, 4: of cag's warm-up the source at half of it, the target at 25 %.
    assert 'before" style="left:50.0%"></i><i class="dot after" style="left:25.0%' in page
    # Shifts on a scale to 0.5.
    assert re.findall(r'class="base" style="width:([0-9.]+)%', section_of(page)) == [
        "100.0",
        "50.0",
    ]


def test_errors_by_run_and_stage(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    text = text_of(page).replace("\u202f", " ")
    table = "source-only source-only 31.0 % – – – – cag warmup 36.0 % – – – – "
    assert table + "stage-1 41.0 % 25.0 % 40.0 % – 0.0 %" in text
    assert "1\u00a0other run" in page
    assert re.search(r"other run .* stages-1 stage-1 40\.0 % – – – –", text)
    # One line of mIoU by stage: 36 and 41.
    assert 'aria-label="mIoU of cag: cag from 36.0 to 41.0"' in page
    assert 'aria-label="Label error of cag: by anchor from 25.0 to 25.0"' in page


def test_precisions_of_all_runs_need_no_curves(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    text = text_of(page).replace("\u202f", " ")
    assert "Labels at 10 % at 50 % cag stage-1 by anchor 97.0 % 80.0 % by confidence – –" in text
    assert readings(page) == []
    assert "<details open>" in section_of(page)


def test_curves_are_means_over_seeds(tmp_path: Path) -> None:
    """Two straight lines, from 1.0 to 0.6 and from 0.8 to 0.4; one begins at half the pixels."""
    other = kind([0.9, None], [1.0, 0.0])
    write_curves(tmp_path, 0, {"anchor": kind([0.6, 1.0], [1.0, 0.0]), "confidence": other})
    write_curves(tmp_path, 1, {"anchor": kind([0.4, 0.6, None], [1.0, 0.5, 0.0])})
    page = page_of(tmp_path)
    by_stage, by_class = readings(page)
    anchor, confidence = by_stage["lines"]
    assert (by_stage["label"], by_stage["unit"], by_stage["extent"]) == ("coverage", "%", [0, 100])
    assert [anchor["name"], confidence["name"]] == ["by anchor", "by confidence"]
    # Half of (1 - 0.4 c) + (0.8 - 0.4 c), where both reach: from a coverage c of 0.5 on.
    assert anchor["x"] == list(range(50, 101))
    assert anchor["y"] == pytest.approx([90 - 0.4 * x for x in range(50, 101)], abs=0.051)
    assert (confidence["x"], confidence["y"]) == ([100.0], [90.0])
    # By class the same line in fewer points; the other class has none.
    assert by_class["lines"][0]["x"] == [2.5 * place for place in range(20, 41)]
    assert by_class["lines"][0]["y"][0] == 70.0
    text = text_of(page)
    assert "cag, means over 2\u00a0seeds" in page
    assert "stage-1, class by class" in text
    assert "Without a curve: road." in text
    # The labels by anchor that the stage was trained on: 40 % of the pixels, 75 % of them right.
    dots = re.findall(r'class="dots" d="(M400\.0 .*?)"', section_of(page))
    assert len(dots) == 1
    assert "Dots: the labels that the stage was trained on." in text


def test_curves_without_a_point_are_nothing(tmp_path: Path) -> None:
    write_curves(tmp_path, 0, {"anchor": kind([None, None], [None, None])})
    page = page_of(tmp_path)
    assert readings(page) == []
    assert "Dots" not in text_of(page)


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    steps = 5000
    coverage = [1 - place / steps for place in range(steps)]
    curves = kind([0.5 + place / (2 * steps) for place in range(steps)], coverage)
    file = write_curves(tmp_path, 0, {"anchor": curves})
    page = page_of(tmp_path)
    assert file.stat().st_size > 3 * len(page)
    assert [len(chart["lines"][0]["x"]) for chart in readings(page)] == [100, 40]


def test_mean_curve_reads_between_points() -> None:
    by_class = CurvesPerClass(precision=[], coverage=[])
    curves = LabelCurves(
        thresholds=[0.0, 0.5, 1.0],
        precision=[0.5, None, 0.9],
        coverage=[1.0, 0.6, 0.2],
        per_class=by_class,
    )
    points = mean_curve([curves.points(None)], 5)
    coverage, precision = zip(*points, strict=True)
    assert coverage == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert precision == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert mean_curve([], 5) == mean_curve([points, []], 5) == []


def test_charts_of_curves_share_one_scale() -> None:
    """The axis is from 60 to 100 % for both, so 80 % is halfway up, and the mark at 60 % below."""
    curves = {"a": {"x": [(0.5, 0.8), (1.0, 0.8)]}, "b": {"x": [(0.5, 0.98), (1.0, 0.62)]}}
    one, other = curve_charts(curves, {"a": {"x": (0.25, 0.7)}}, {"x": 3})
    assert one.y_axis == other.y_axis
    assert [tick.text for tick in one.y_axis.ticks] == ["60", "70", "80", "90", "100"]
    assert one.lines[0].path == "M500.0 500.0L1000.0 500.0"
    assert one.lines[0].dots == "M250.0 750.0h0"
    assert other.lines[0].dots == ""
    assert [line.colour for line in one.lines] == [3]


@pytest.mark.parametrize("answers", [None, {}, {"cag": {}}])
def test_nothing_measured_is_nothing_shown(tmp_path: Path, answers: object) -> None:
    write_curves(tmp_path, 0, {"anchor": kind([0.6], [1.0])})
    page = page_of(tmp_path, answers)
    assert "#answers" not in page
    assert 'id="answers"' not in page


def test_parts_that_are_missing_are_left_out(tmp_path: Path) -> None:
    text = text_of(page_of(tmp_path, {"cag": {"warmup": {"miou": 0.3}}}))
    assert "RQ3" in text
    assert not re.search("RQ1|RQ2|Labels|Label error", text)
    text = text_of(page_of(tmp_path, {"cag": {"warmup": {"separation": separation(0, 0, 0)}}}))
    assert "cag warmup 0.00 0.00 0.00" in text
    assert not re.search("RQ2|RQ3", text)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "answers"),
        ({"cag": {"stage-1": 3}}, "answers.cag.stage-1"),
        ({"cag": {"stage-1": {"miou": 1.2}}}, "less than or equal to 1"),
        ({"cag": {"stage-1": {"separation": separation(-1, 0, 0)}}}, "greater than or equal to 0"),
        ({"cag": {"stage-1": {"separation": separation(float("nan"), 0, 0)}}}, "finite number"),
        ({"cag": {"stage-1": {"precision_at": {"anchor": {"half": 0.3}}}}}, "precision_at.anchor"),
        ({"cag": {"stage-1": {"label_error": {"anchor": 0.3}}}}, "label_error.anchor"),
    ],
)
def test_answers_that_cannot_be_are_refused(tmp_path: Path, answers: object, message: str) -> None:
    with pytest.raises(RunError, match=message):
        page_of(tmp_path, answers)
    assert not (tmp_path / "ablation.html").exists()


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ("{", "EOF"),
        ("[]", "should be an object"),
        ({"anchor": {"thresholds": [0.0]}}, "anchor.precision"),
        ({"anchor": kind([0.6], [1.5])}, "less than or equal to 1"),
        ({"anchor": kind([0.6], [1.0, 0.5])}, "a curve has 2 points for 1 thresholds"),
        (
            {"anchor": {**kind([0.6], [1.0]), "per_class": {"precision": [], "coverage": [[1.0]]}}},
            "precision of 0 classes, coverage of 1",
        ),
        (
            {"anchor": {**kind([0.6], [1.0]), "per_class": {"precision": [], "coverage": []}}},
            "curves of 0 classes, but the run has 2",
        ),
    ],
)
def test_curves_that_cannot_be_are_refused(tmp_path: Path, curves: object, message: str) -> None:
    write_curves(tmp_path, 0, curves)
    with pytest.raises(RunError, match=message) as caught:
        page_of(tmp_path)
    assert "label_curves.json" in str(caught.value)
    assert not (tmp_path / "ablation.html").exists()


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    write_curves(tmp_path, 0, {HOSTILE: kind([0.6, 0.9], [1.0, 0.2])})
    stage = {**ANSWERS["cag"]["stage-1"], "label_error": {HOSTILE: {"error": 0.1, "coverage": 0.5}}}
    answers = {"cag": {"stage-1": stage, HOSTILE: stage}, HOSTILE: {HOSTILE: stage}}
    page = page_of(tmp_path, answers, classes=[HOSTILE, "road"])
    assert "window.hacked" in page
    assert "<script>window" not in page
    assert "<img src=x" not in page
    # A name leads to no folder, wherever it points.
    assert "#answers" in page_of(tmp_path, {"cag": {"../../stage-1": stage}})
