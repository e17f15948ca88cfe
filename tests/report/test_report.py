"""The page of a run: what it says, that it holds everything, that no run is too poor for it."""

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cag_uda.errors import RunError
from cag_uda.files import seal
from cag_uda.report import write_report
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.stage import REACHED, Reached
from tests.support.report_trees import CLASSES, STAGES, edit_scores, make_run, pictures_in, text_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", labels=False)


def test_page_answers_whether_it_worked(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    text = text_of(path.read_text(encoding="utf-8"))
    assert "It worked: 48.3 % mIoU, 17.1 points above source-only." in text
    assert "+15.2 to +19.2 points" in text
    assert "cag-uda adapt r.toml packages numpy 2.1" in text
    assert 'name = "camvid-day-dusk" seed = 0 [[stages]] name = "source-only"' in unescape(text)
    # Stage 2 added 5.2 of the 17.1 points; the shares of the lineage are 33, 37 and 30 %.
    assert re.search(r"stage-2 delivered.{0,30}48\.3 % \+5\.2 30 %", text)
    # Criteria, and what separation and shift come to: 0.8 / 0.6 in stage 2.
    assert "stage-2 48.3 0.417 0.483 0.700" in text
    assert re.search(r"Domain shift.*stage-2 \d+\.\d\d 1\.33", text)
    assert "Confusion matrix" in text
    assert "Distances between anchors" in text


def test_classes_by_stage_with_their_change(run: Path) -> None:
    stages = json.loads((run / "scores.json").read_text())["stages"]
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    for number in (0, 3, 7):
        first, *others = [100 * stage["iou"][number] for stage in stages]
        row = " ".join(f"{iou:.1f}" for iou in (first, *others))
        change = f"{others[-1] - first:+.1f}".replace("-", "−")
        assert f"{CLASSES[number]} {row} {change}" in text
    assert "mIoU 31.2 36.8 43.1 48.3 +17.1" in text
    # Of no pixel in the first two stages.
    assert f"{CLASSES[-1]} – – " in text


def test_page_is_self_contained(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert pictures_in(page) == 2 * (2 + len(STAGES))
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    targets = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", markup)
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"https?://|url\(|@import|<link(?! rel=\"icon\")", page)
    ids = re.findall(r'\bid="([^"]+)"', markup)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    assert len(ids) == len(set(ids))


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>"
    run = make_run(tmp_path / "run", classes=[hostile, *CLASSES[1:]])
    log = {"step": 20, "losses": {f"loss {hostile}": 0.5}}
    (run / "stages/0-source-only/metrics.jsonl").write_text(json.dumps(log))
    (run / "recipe.toml").write_text(f"# {hostile}")
    page = write_report(run).read_text(encoding="utf-8")
    assert "alert(" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_report_does_not_import_torch() -> None:
    code = "import sys, cag_uda.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("low", "high", "points", "headline"),
    [
        (-0.4, 2.2, 0.9, "Undecided: 48.3 % mIoU, +0.9 points"),
        (-4.0, -1.0, -2.5, "It did not work: 48.3 % mIoU, 2.5 points below source-only"),
        (None, None, 0.9, "Undecided"),
        (None, None, 3.0, "It worked"),
    ],
)
def test_verdict_follows_the_interval(
    run: Path, low: float | None, high: float | None, points: float, headline: str
) -> None:
    stages = json.loads((run / "scores.json").read_text())["stages"]
    stages[-1]["gain"] = {"over": "source-only", "points": points, "low": low, "high": high}
    edit_scores(run, stages=stages)
    assert headline in text_of(write_report(run).read_text(encoding="utf-8"))


def test_a_gain_over_what_hardly_learned_is_named_as_such(tmp_path: Path) -> None:
    first, last = ("source-only", "source-only", "initial", 9), ("stage-2", "cag", "stage-1", 400)
    stages = ((*first, 0.036), *STAGES[1:3], (*last, 0.12))
    run = make_run(tmp_path / "run", stages)
    page = write_report(run).read_text(encoding="utf-8")
    text = text_of(page)
    assert "8.4 points above source-only, which hardly learned (3.6 %)." in text
    assert "Below 25 % mIoU a network is of little use as it is." in text
    assert "Measured with one seed" in text
    assert '<h1 class="unsure">' in page, "no success in green"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("[segmenter]\n", "The network began from random weights."),
        ('[segmenter]\nweights = "imagenet"\n', "began from pretrained weights (imagenet)."),
        ('seed = 4\n[segmenter]\nstart = "me/x"\n', "began from the network in me/x."),
    ],
)
def test_what_the_network_began_from_is_said(run: Path, recipe: str, words: str) -> None:
    (run / "recipe.toml").write_text(recipe)
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    assert words in text
    assert f"one seed ({4 if 'seed' in recipe else 0})" in text


@pytest.mark.parametrize(
    ("keys", "is_one"),
    [
        (["0001TP_006690", "0001TP_006720"], True),
        (["0001TP_1", "0006R0_1"], False),
        (["000", "001"], False),
        (["images/001000", "images/001001"], False),
        (["test/0001TP_008550", "test/0001TP_008580"], True),
        (["berlin/berlin_1", "ulm/ulm_1"], False),
    ],
)
def test_frames_of_one_drive_are_named_as_such(run: Path, keys: list[str], is_one: bool) -> None:
    path = run / "stages" / "3-stage-2" / "frames.npz"
    with np.load(path) as held:
        arrays = dict(held)
    np.savez(path, **{**arrays, "keys": np.array(keys)})
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    assert "on 2 frames" in text
    assert ("by their names are of one drive" in text) == is_one


def test_oracle_is_a_yardstick_and_not_what_is_delivered(tmp_path: Path) -> None:
    stages = (*STAGES, ("oracle", "oracle", "initial", 900, 0.654))
    text = text_of(write_report(make_run(tmp_path / "run", stages)).read_text(encoding="utf-8"))
    assert "It worked: 48.3" in text
    assert re.search(r"Gap to the oracle closed 50 %", text)


def test_target_without_labels(unlabelled: Path) -> None:
    page = write_report(unlabelled).read_text(encoding="utf-8")
    text = text_of(page)
    assert "the target has no labels" in text
    assert "the class that the network predicts" in text
    assert "Rank correlation" not in text
    assert "Mistakes only" not in text
    assert "target without labels" in text
    assert "labelling network on a few images of the target." in text
    assert "Gain, points" not in text
    assert "nan" not in text.lower().split()
    assert "None" not in text
    # Coverage needs no labels, and the pictures are there.
    assert "% of all pixels that are labelled" in text
    assert "that are right" not in text
    assert pictures_in(page) == 2 * (1 + len(STAGES))


def test_stage_under_way_is_shown_as_unfinished(run: Path) -> None:
    stages = json.loads((run / "scores.json").read_text())["stages"]
    edit_scores(run, stages=stages[:-1])
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    assert "It worked so far: 43.1" in text
    assert "Still to come: stage-2" in text
    assert "Not finished: last logged at step 400." in text


@pytest.mark.parametrize(
    "missing",
    ["scores.json", "recipe.toml", "environment.json", "samples", "stages", "stages/2-stage-1"],
)
def test_page_without_a_piece(run: Path, missing: str) -> None:
    (run / missing).rename(run.parent / "elsewhere")
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    if missing.endswith((".json", ".toml")):
        assert missing in text
    if missing == "scores.json":
        assert "No stage has finished yet." in text
    else:
        assert "It worked" in text


def test_old_run_without_what_was_recorded_later(run: Path) -> None:
    for name in ("features.safetensors", "frames.npz", "criteria.json", "pseudo_labels/*"):
        for file in run.glob(f"stages/*/{name}"):
            file.unlink()
    page = write_report(run).read_text(encoding="utf-8")
    text = text_of(page)
    assert "It worked" in text
    assert "cannot be understood" not in text
    for absent in ("Features and anchors", "Confusion matrix", "need no labels", 'id="labelling"'):
        assert absent not in page
    assert "Class by class, stage-2" in text  # From pseudo_labels.json.
    vectors = np.array([[0, 0], [3, 4], *np.full((9, 2), np.nan)], np.float32)
    save_file({"vectors": vectors}, run / "stages/2-stage-1/anchors.safetensors")
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    assert "In feature units" in text
    assert re.search(r"sky and building 5\.0", text)


def test_network_chosen_without_labels_is_the_delivered_one(run: Path) -> None:
    recipe = run / "recipe.toml"
    recipe.write_text('deliver = "infomax"\n' + recipe.read_text())
    for place, folder in enumerate(sorted((run / "stages").iterdir())):
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_bytes(bytes([place] * 100))
    (run / "model").mkdir()
    (run / "model" / "model.safetensors").write_bytes(bytes([2] * 100))
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    assert "It worked: 43.1 % mIoU, 11.9 points above source-only." in text
    assert "that of stage-1, chosen without labels by infomax" in text
    assert "stage-2 scores higher, 48.3 %" in text
    (run / "model" / "model.safetensors").write_bytes(b"of a step in between")
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    assert "infomax chose a network from within a stage" in text
    network = run / "stages/2-stage-1/model/model.safetensors"
    seal(network)
    network.write_bytes(b"damaged")
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    assert "stages/2-stage-1/model/model.safetensors is damaged: the page cannot tell" in text


def test_page_of_five_stages_and_five_images_is_small(tmp_path: Path) -> None:
    stages = (*STAGES, ("stage-3", "cag", "stage-2", 400, 0.5))
    path = write_report(make_run(tmp_path / "run", stages, width_px=640, samples=5))
    assert pictures_in(path.read_text(encoding="utf-8")) == 5 * 7
    assert path.stat().st_size < 3_000_000


def test_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[[stages]]\nname = "source-only"\n')
    text = text_of(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "No stage has finished yet." in text
    assert "Still to come: source-only" in text


def test_damaged_pieces_are_left_out_and_named(run: Path) -> None:
    stage = run / "stages" / "2-stage-1"
    log = '{"step": 20, "losses": {"source/ce": NaN}}\n{"step": 40, "losses": {"source/ce": 1.0}}\n'
    (stage / "metrics.jsonl").write_text(log + '{"step": 60, "los')
    (stage / "pseudo_labels.json").write_text("[1]")
    for name in ("features.safetensors", "frames.npz", "criteria.json"):
        (run / "stages" / "3-stage-2" / name).write_bytes(b"no such thing")
    (run / "stages" / "3-stage-2" / "pseudo_labels" / "0-anchor.png").write_bytes(b"no image")
    (run / "samples" / "0" / "image.jpg").write_bytes(b"no image")
    page = write_report(run).read_text(encoding="utf-8")
    assert pictures_in(page) == 2 * (2 + len(STAGES)) - 1
    text = text_of(page)
    assert "source/ce was not a number at step 20." in text
    assert "2-stage-1/pseudo_labels.json" in text
    assert "1 picture left out" in text
    for name in ("features.safetensors", "frames.npz", "criteria.json"):
        assert f"3-stage-2/{name} cannot be understood" in text
    assert "Domain shift" in text  # Of the other stages.


@pytest.mark.parametrize(
    ("ending", "is_said"),
    [
        ('{"step": 60, "los', False),
        ('{"st', False),
        ("", False),
        ("3", True),
        ("{}", True),
        ("[" * 20_000, True),
        ('"step": 60}', True),
        ('{"step": 60}}', True),
    ],
)
def test_a_log_may_end_in_the_beginning_of_a_line_alone(
    run: Path, ending: str, is_said: bool
) -> None:
    log = run / "stages" / "2-stage-1" / "metrics.jsonl"
    log.write_text(log.read_text() + ending)
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    assert ("1 line of 2-stage-1/metrics.jsonl damaged" in text) == is_said


def test_a_log_that_ends_before_its_stage_is_incomplete(run: Path) -> None:
    log = run / "stages" / "2-stage-1" / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:2]))
    assert "2-stage-1/metrics.jsonl is incomplete: it ends at step" in text_of(
        write_report(run).read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("change", ["whole", "cut", "digit", "gone", "longer"])
def test_the_log_of_a_stage_under_way_is_compared_with_its_checkpoint(
    run: Path, change: str
) -> None:
    scores = json.loads((run / "scores.json").read_text())
    scores["stages"] = scores["stages"][:-1]
    (run / "scores.json").write_text(json.dumps(scores))
    log = run / "stages" / "3-stage-2" / "metrics.jsonl"
    data = log.read_bytes()
    write_record(log.parent / REACHED, Reached.of(120, data))
    if change == "gone":
        log.unlink()
    else:
        changed = {
            "whole": data,
            "cut": data[: data.rindex(b"\n", 0, -1) + 1],
            "digit": data.replace(b'"step": 2', b'"step": 3', 1),
            "longer": data + b'{"step": 140',
        }[change]
        log.write_bytes(changed)
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    is_said = "3-stage-2/metrics.jsonl was changed or cut after the checkpoint of step 120" in text
    assert is_said == (change not in ("whole", "longer"))


def test_one_labelling_stage_has_a_table_but_no_chart(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "run", STAGES[:3])).read_text(encoding="utf-8")
    assert "% of all pixels that are labelled" not in page
    assert re.search(r"stage-1 by anchor 80.0 % 49.0 % 39.2 %", text_of(page))


def test_resumed_stage_counts_each_step_once(run: Path) -> None:
    log = run / "stages" / "0-source-only" / "metrics.jsonl"
    again = json.dumps({"step": 900, "losses": {"source/ce": 7.125}})
    log.write_text(log.read_text() + again)
    page = write_report(run).read_text(encoding="utf-8")
    data = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page)[1])
    assert data["lines"][0]["x"].count(900) == 1
    assert data["lines"][0]["y"][-1] == 7.125


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"neither scores\.json nor recipe\.toml"):
        write_report(tmp_path)
    file = tmp_path / "scores.json"
    file.write_text("{}")
    with pytest.raises(RunError, match="is a file"):
        write_report(file)
    with pytest.raises(RunError, match=r"scores\.json: recipe: Field required"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["sky"]}, "11 IoUs for 1 classes"),
        ({"stages": [{"folder": "../up", "name": "a", "method": "a"}]}, "folder"),
        ({"stages": [{"folder": "0-a", "name": "a", "method": "a", "miou": 48.3}]}, "miou"),
    ],
)
def test_scores_that_cannot_be_are_refused(
    run: Path, change: dict[str, object], message: str
) -> None:
    edit_scores(run, **change)
    with pytest.raises(RunError, match=message):
        write_report(run)
