"""Class shares on the page of a run."""

from pathlib import Path
from typing import Any

import pytest

from cag_uda.report import write_report
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.run import CLASS_SHARES, ClassShares
from tests.support.report_trees import CLASSES, make_run, text_of

SOURCE = [0.0, 0.5, 0.02, 0.2, 0.08, 0.1, 0.01, 0.01, 0.05, 0.02, 0.01]
TARGET = [0.0, 0.33, 0.02, 0.37, 0.08, 0.1, 0.01, 0.01, 0.05, 0.02, 0.01]


def shares(target: list[float], **changes: Any) -> ClassShares:
    apart = sum(abs(one - other) for one, other in zip(SOURCE, target, strict=True)) / 2
    record = {
        "network": "stages/3-stage-2/model",
        "classes": CLASSES,
        "source": SOURCE,
        "target": target,
        "total_variation": apart,
        "target_images": 20,
        "target_cells": 9000,
    }
    return ClassShares.model_validate(record | changes)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def page(run: Path) -> str:
    return text_of(write_report(run).read_text(encoding="utf-8"))


def test_shares_stand_side_by_side_and_a_sentence_where_they_differ(run: Path) -> None:
    write_record(run / CLASS_SHARES, shares(TARGET))
    text = page(run)
    assert "in other shares than the source (total variation 17 %)" in text
    # The largest difference first.
    assert "building 33.0 −17.0 road 37.0 +17.0" in text
    assert "of 20 images" in text


def test_like_shares_have_no_sentence(run: Path) -> None:
    write_record(run / CLASS_SHARES, shares([0.05, 0.45, *SOURCE[2:]]))
    text = page(run)
    assert "Class shares" in text
    assert "in other shares" not in text


def test_a_run_without_them_shows_nothing(run: Path) -> None:
    text = page(run)
    assert "Class shares" not in text
    assert CLASS_SHARES not in text


def test_damaged_and_foreign_ones_are_named(run: Path) -> None:
    (run / CLASS_SHARES).write_text('{"network": "x"}')
    assert f"{CLASS_SHARES} cannot be understood" in page(run)
    write_record(run / CLASS_SHARES, shares(TARGET, classes=CLASSES[::-1]))
    text = page(run)
    assert f"{CLASS_SHARES} is of other classes" in text
    assert "estimated without its labels" not in text


def test_a_record_of_too_few_shares_is_refused() -> None:
    with pytest.raises(ValueError, match="as many shares"):
        shares(TARGET, source=SOURCE[1:])
