"""From a network to the Cityscapes test server: names, sizes and ids, and the official score."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.errors import DataError
from cag_uda.evaluation.submission import submission_problems
from cag_uda.models.config import SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.runs.scenario import classes_of
from tests.support.domain_trees import write_image, write_photo
from tests.support.published_trees import HEIGHT_PX, LAYOUTS, WIDTH_PX


@pytest.fixture
def cityscapes(tmp_path: Path) -> Domain:
    """Three images a split."""
    LAYOUTS["cityscapes"].write(tmp_path / "data/cityscapes", 3)
    return Domain.open("cityscapes", tmp_path / "data")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A tiny network of the 19 classes with random weights."""
    torch.manual_seed(0)
    classes = classes_of(LabelSpace.load("cityscapes-19"))
    segmenter = Segmenter(SegmenterConfig(backbone="resnet-tiny", decoder="light"), classes)
    # Of random weights one class wins nearly everywhere: let all be as likely on noise.
    with torch.no_grad():
        logits = segmenter.eval()(torch.rand(1, 3, HEIGHT_PX, WIDTH_PX)).logits
        segmenter.classifier.bias -= logits.mean((0, 2, 3))
    segmenter.save_pretrained(tmp_path / "network")
    return tmp_path / "network"


def write_submission(domain: Domain, folder: Path) -> list[Path]:
    """What a server takes: label ids of all kinds, in folders of cities."""
    ids = LabelSpace.load("cityscapes-19").label_ids
    assert ids is not None
    paths = []
    for number, item in enumerate(domain.items("test")):
        label = np.random.default_rng(number).choice(ids, (HEIGHT_PX, WIDTH_PX))
        path = folder / item.image.parent.name / f"{item.image.stem}.png"
        paths.append(write_image(path, label))
    return paths


def test_a_sound_submission_is_taken(cityscapes: Domain, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_submission(cityscapes, tmp_path / "out")
    folder = tmp_path / "out"
    assert submission_problems(folder, cityscapes, on_progress=lambda *n: told.append(n)) == []
    assert told == [(1, 3), (2, 3), (3, 3)]
    # Any ending and any folder will do, as for the server.
    path = folder / "berlin/berlin_000001_000019_leftImg8bit.png"
    path.rename(folder / "berlin_000001_000019_prediction.png")
    assert submission_problems(folder, cityscapes) == []


def test_what_a_server_would_refuse_is_named(cityscapes: Domain, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first, second, third = write_submission(cityscapes, folder)
    first.rename(folder / "berlin_000009_000019.png")
    Image.fromarray(np.full((HEIGHT_PX // 2, WIDTH_PX // 2), 7, np.uint8)).save(second)
    Image.fromarray(np.full((HEIGHT_PX, WIDTH_PX), 3, np.uint8)).save(third)
    write_image(folder / "copies" / third.name, np.full((HEIGHT_PX, WIDTH_PX), 7, np.uint8))
    problems = submission_problems(folder, cityscapes)
    assert problems[0].startswith("1 of 3 images have no PNG in ")
    assert problems[0].endswith("berlin_000000_000019*.png")
    assert "2 PNGs for berlin_000002_000019, such as" in problems[1]
    assert "104×52; want the image's own size, 208×104" in problems[2]
    assert "holds ids that are not scored: 3; want label ids (7 to 33), not train" in problems[3]
    assert len(problems) == 4


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (np.full((HEIGHT_PX, WIDTH_PX, 3), 7, np.uint8), "want ids in one channel of 8 bits"),
        (np.full((HEIGHT_PX, WIDTH_PX), 7, np.uint16), "want ids in one channel of 8 bits"),
        (np.full((HEIGHT_PX, WIDTH_PX), 255, np.uint8), "not scored: 255"),
        (None, "damaged or no PNG"),
    ],
)
def test_every_file_is_looked_into(
    content: np.ndarray | None, named: str, cityscapes: Domain, tmp_path: Path
) -> None:
    path = write_submission(cityscapes, tmp_path / "out")[1]
    if content is None:
        path.write_bytes(path.read_bytes()[:200])
    else:
        write_image(path, content)
    (problem,) = submission_problems(tmp_path / "out", cityscapes)
    assert named in problem
    assert path.name in problem


def test_many_files_of_one_kind_are_counted(tmp_path: Path) -> None:
    for number in range(8):
        stem = f"berlin_{number:06}_000019"
        write_photo(tmp_path / f"cityscapes/leftImg8bit/test/berlin/{stem}_leftImg8bit.png")
        write_image(tmp_path / f"out/{stem}.png", np.full((6, 8), 2, np.uint8))
    problems = submission_problems(tmp_path / "out", Domain.open("cityscapes", tmp_path))
    assert len(problems) == 6
    assert problems[-1] == "and 3 more files like these"


def test_domains_without_a_server_and_folders_that_are_not_there(
    cityscapes: Domain, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="have no label ids"):
        submission_problems(tmp_path, Domain.open("camvid", tmp_path))
    with pytest.raises(DataError, match=r"no folder .*nowhere; write it by"):
        submission_problems(tmp_path / "nowhere", cityscapes)


# ---- by the command line --------------------------------------------------------------------


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_predictions_for_the_server_are_sound(
    cityscapes: Domain, network: Path, tmp_path: Path
) -> None:
    images, out = tmp_path / "data/cityscapes/leftImg8bit/test", tmp_path / "submission"
    run("predict", network, images, "--out", out, "--as", "label-ids", "--accelerator", "cpu")
    check = ("check", "cityscapes", "--submission", out, "--data-root", tmp_path / "data")
    assert "nothing is wrong" in run(*check)
    assert {path.parent.name for path in out.rglob("*.png")} == {"berlin"}
    next(out.rglob("*.png")).unlink()
    refused = CliRunner().invoke(app, [str(each) for each in check])
    assert refused.exit_code == 2
    assert "1 of 3 images have no PNG" in " ".join(refused.output.split())


def test_evaluate_scores_what_the_official_evaluator_finds_in_the_predicted_files(
    cityscapes: Domain, network: Path, tmp_path: Path
) -> None:
    """Images to score, by both: `cag-uda evaluate`, and the official script on predicted PNGs."""
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    root, out = tmp_path / "data/cityscapes", tmp_path / "predicted"
    common = ("--accelerator", "cpu")
    run("predict", network, root / "leftImg8bit/val", "--out", out, "--as", "label-ids", *common)
    truths = sorted(str(path) for path in root.glob("gtFine/val/*/*_gtFine_labelIds.png"))
    arguments = official.args
    arguments.evalInstLevelScore = arguments.JSONOutput = False
    arguments.quiet, arguments.predictionPath, arguments.predictionWalk = True, str(out), None
    try:
        predictions = [official.getPrediction(arguments, truth) for truth in truths]
    finally:
        arguments.predictionPath = arguments.predictionWalk = None
    theirs = official.evaluateImgLists(predictions, truths, arguments)

    written = tmp_path / "scores.json"
    printed = run(
        *("evaluate", network, "--domain", "cityscapes", "--split", "val"),
        *("--protocol", "cityscapes-19", "--json", written, "--data-root", tmp_path / "data"),
        *common,
    )
    ours = json.loads(written.read_text())
    assert len({value for value in ours["iou"] if value}) > 5
    assert ours["iou"] == [theirs["classScores"][name] for name in ours["classes"]]
    assert ours["miou"] == theirs["averageScoreClasses"]
    assert ours["views"] == {
        **{"flip": False, "scales": [1.0], "window_px": None},
        **{"overlap": 1 / 3, "align_corners": False},
    }
    # The published figures stand beside, in the paper's order.
    assert "CAG-UDA" in printed
    assert re.search(r"│\s*road\s*│.*90\.4", printed)
    assert re.search(r"│\s*mean\s*│.*36\.6.*41\.4.*50\.2", printed)
    row = " ".join(f"{100 * value:.1f}" for value in ours["iou"])
    assert f"{row} | {100 * ours['miou']:.1f}" in printed


def test_evaluate_looks_in_the_views_that_are_asked_for(
    cityscapes: Domain, network: Path, tmp_path: Path
) -> None:
    written = tmp_path / "scores.json"
    evaluate = ("evaluate", network, "--domain", "cityscapes", "--split", "val", "--json", written)
    views = ("--flip", "--scale", 0.75, "--scale", 1.0, "--window", "64x96", "--align-corners")
    whole = ("--data-root", tmp_path / "data", "--accelerator", "cpu")
    run(*evaluate, *whole)
    plain = json.loads(written.read_text())
    run(*evaluate, *views, *whole)
    viewed = json.loads(written.read_text())
    assert viewed["views"] == {
        **{"flip": True, "scales": [0.75, 1.0], "window_px": [64, 96]},
        **{"overlap": 1 / 3, "align_corners": True},
    }
    assert viewed["iou"] != plain["iou"]
    refused = CliRunner().invoke(app, [str(each) for each in (*evaluate, *whole, "--window", "9")])
    assert "HEIGHTxWIDTH" in str(refused.exception)


def test_a_network_of_16_classes_is_scored_on_19(cityscapes: Domain, tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = LabelSpace.load("cityscapes-19")
    sixteen = space.only(
        [name for name in space.names if name not in ("terrain", "truck", "train")]
    )
    config = SegmenterConfig(backbone="resnet-tiny", decoder="light")
    Segmenter(config, classes_of(sixteen)).save_pretrained(tmp_path / "sixteen")
    written = tmp_path / "scores.json"
    for protocol, count, published in (
        ("synthia-16", 16, "44.5"),
        ("synthia-13-ignored", 13, "52.6"),
    ):
        printed = run(
            *("evaluate", tmp_path / "sixteen", "--domain", "cityscapes", "--split", "val"),
            *("--protocol", protocol, "--json", written, "--data-root", tmp_path / "data"),
        )
        assert len(json.loads(written.read_text())["classes"]) == count
        assert published in printed
