"""The records of a run: what is written is read again, and what is damaged is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from cag_uda.errors import RunError
from cag_uda.runs.records.base import line_of, parse_line, plain, read_record, write_record
from cag_uda.runs.records.comparison import ComparisonRecord
from cag_uda.runs.records.run import Scores, StageScores, read_scores
from cag_uda.runs.records.stage import (
    CriteriaRecord,
    MetricsLine,
    StageCriteria,
    read_criteria,
)

SCORES: dict[str, Any] = {
    "recipe": "tiny",
    "source": "day/train",
    "target": None,
    "classes": ["road", "sky"],
    "palette": [[0, 1, 2], [3, 4, 5]],
    "stages": [{"folder": "0-warmup", "name": "warmup", "method": "adabn", "miou": None}],
}


def test_what_is_written_is_the_values_that_were_set_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_record(path, Scores.model_validate(SCORES))
    assert path.read_text() == json.dumps(SCORES, indent=2) + "\n"


def test_keys_of_a_later_version_are_kept(tmp_path: Path) -> None:
    later = {**SCORES, "stages": [{**SCORES["stages"][0], "watts": 3}], "weather": "rain"}
    (tmp_path / "scores.json").write_text(json.dumps(later))
    scores = read_scores(tmp_path)
    assert scores is not None
    more = scores.with_stage(StageScores(folder="1-cag", name="cag", method="cag"))
    assert plain(more)["weather"] == "rain"
    assert plain(more)["stages"][0]["watts"] == 3


def test_null_for_a_list_is_an_empty_one_and_for_a_value_stays() -> None:
    record = ComparisonRecord.model_validate(
        {"name": "x", "classes": None, "oracle": None, "methods": [{"name": "cag"}]}
    )
    assert record.classes == []
    assert plain(record) == {"name": "x", "oracle": None, "methods": [{"name": "cag"}]}


def test_the_last_criteria_stand_on_top(tmp_path: Path) -> None:
    records = [CriteriaRecord(step=step, criteria={"entropy": step / 10}) for step in (2, 1)]
    write_record(tmp_path / "criteria.json", StageCriteria(records=records))
    assert json.loads((tmp_path / "criteria.json").read_text())["entropy"] == 0.1
    assert [record.step for record in read_criteria(tmp_path)] == [1, 2]


@pytest.mark.parametrize("network", ["/etc", "../other", "networks/../../x", "a\\b", "", "c:x"])
def test_criteria_name_no_network_outside_their_stage(tmp_path: Path, network: str) -> None:
    record = {"step": 1, "network": network, "criteria": {}}
    (tmp_path / "criteria.json").write_text(json.dumps({"records": [record]}))
    with pytest.raises(RunError, match=r"records\.0\.network: .* inside the folder"):
        read_criteria(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"3",
        b"[]",
        b"{}",
        b'{"recipe": 3, "classes": []}',
        b"[" * 100_000,
        b'{"recipe": "x", "classes": ' + b"1" * 50_000 + b"}",
        json.dumps({**SCORES, "stages": SCORES["stages"] * 2}).encode(),
        json.dumps({**SCORES, "stages": [{"folder": "../x", "name": "a", "method": "b"}]}).encode(),
    ],
)
def test_what_is_damaged_is_named_with_its_mend(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.json").write_bytes(content)
    with pytest.raises(RunError) as caught:
        read_scores(tmp_path)
    assert str(tmp_path / "scores.json") in caught.value.problems[-1]
    assert "delete it" in caught.value.problems[-1]
    assert len(str(caught.value)) < 2000


def test_a_missing_file_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read .*nowhere: No such file"):
        read_record(Scores, tmp_path / "nowhere", "look elsewhere")


def test_lines_of_the_log_keep_losses_that_are_no_numbers() -> None:
    line = line_of(MetricsLine(step=3, losses={"source/ce": float("nan")}))
    assert line == '{"step": 3, "losses": {"source/ce": NaN}}\n'
    again = parse_line(MetricsLine, line)
    assert again is not None
    assert line_of(again) == line
    assert parse_line(MetricsLine, line[:-5]) is None
    assert parse_line(MetricsLine, "3") is None
