"""The page of a comparison: which method is best, by how much, at what cost."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.errors import RunError
from cag_uda.report import write_comparison
from tests.support.report_trees import CLASSES, PALETTE, STAGES, make_run, pictures_in, text_of

HOSTILE = "<script>window.hacked=1</script>\"'><img src=x>"


def method(name: str, mious: list[float | None], **more: object) -> dict[str, Any]:
    cells = [
        {
            "seed": seed,
            "miou": miou,
            "iou": None if miou is None else [miou] * 10 + [None],
            "gap_share": None if miou is None else (miou - 0.2) / 0.4,
            "time_s": 100.0 * (seed + 1),
            "peak_memory_mib": 900.0 + seed,
            "run": f"{name}-{seed}",
        }
        for seed, miou in enumerate(mious)
    ]
    return {"name": name, "cells": cells, **more}


def write_file(folder: Path, **changes: object) -> Path:
    content = {
        "name": "day-dusk",
        "source": "day/train",
        "target": "dusk/test",
        "classes": CLASSES,
        "palette": PALETTE,
        "floor": "source-only",
        "oracle": "oracle",
        "seeds": [0, 1, 2],
        "methods": [
            method("source-only", [0.2, 0.2, 0.2]),
            method("cag", [0.4, 0.46, 0.52]),
            method("dacs", [0.42, 0.44, None]),
            method("oracle", [0.6, 0.6, 0.6]),
        ],
    }
    file = folder / "comparison.json"
    file.write_text(json.dumps({**content, **changes}))
    return file


def page_of(folder: Path, **changes: object) -> str:
    return write_comparison(write_file(folder, **changes)).read_text(encoding="utf-8")


def test_page_says_who_is_best_and_how_surely(tmp_path: Path) -> None:
    text = text_of(page_of(tmp_path))
    # Means 0.46 and 0.43; of the two seeds that both have, cag is ahead on the second only.
    assert "cag scores highest: 46.0 % mIoU, 65 % of the gap closed." in text
    assert "The next is dacs with 43.0 %; cag is ahead of it on 1 of 2 seeds." in text
    assert "dacs, seed 2: not run yet." in text
    # The sample standard deviation of 0.40, 0.46, 0.52; mean time 200 s; the greatest memory.
    assert re.search(r"cag 46\.0 ±6\.0 65 % 3 min 20 s 902 MiB", text)
    assert re.search(r"oracle .{0,60}60\.0 ±0\.0 100 %", text)


def test_summary_over_seeds_is_taken_from_the_file(tmp_path: Path) -> None:
    gain = {"over": "source-only", "points": 26.0, "low": -0.5, "high": 30.0}
    lead = {"over": "cag", "points": -3.0, "low": -4.0, "high": -2.0}
    page = page_of(
        tmp_path,
        methods=[
            method("source-only", [0.2], summary={"gap_share": 0.0}),
            method("cag", [0.46], summary={"gap_share": 0.7, "gain": gain}, question="RQ1"),
            method("dacs", [0.43], summary={"lead": lead}, question=f"RQ2 {HOSTILE}"),
        ],
        budget={"steps": 1200, "crop_px": [120, 160]},
        notes=["Of one machine."],
        oracle=None,
    )
    text = text_of(page)
    assert "46.0 % mIoU, 70 % of the gap closed." in text
    assert "+26.0 points on source-only, 95 % interval over test frames −0.5 to +30.0" in text
    assert '<h1 class="unsure">' in page
    assert re.search(r"RQ1 .*cag.* RQ2", text)
    assert "−3.0 −4.0 to −2.0" in text
    assert "crop_px 120 160" in text
    assert "Of one machine." in text


def test_pictures_and_links_come_from_the_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "cag-0", STAGES)
    make_run(tmp_path / "source-only-0", STAGES[:1])
    (tmp_path / "cag-0" / "report.html").write_text("a page")
    page = page_of(
        tmp_path,
        methods=[
            method("source-only", [0.2, 0.2, 0.2]),
            method("cag", [0.4, 0.46, 0.52], scored="stage-1"),
            method("dacs", [0.42, 0.44, None]),
        ],
    )
    # Two images: each as it is, as two of the methods see it, and its truth.
    assert pictures_in(page) == 2 * 4
    assert re.findall(r'<a href="([^#"]+)"', page) == ["cag-0/report.html"]
    shown = re.findall(r'data-look="cag" data-labels data-right="(.*?)\u202f%"', page)
    text = text_of(page)
    assert len(shown) == 2
    assert all(float(share) > 50 for share in shown)
    assert "Each method by the network of its first seed." in text


def test_classes_are_means_over_seeds(tmp_path: Path) -> None:
    uneven = method("cag", [0.4, 0.5])
    uneven["cells"][0]["iou"] = [0.1] * 10 + [None]
    uneven["cells"][1]["iou"] = [0.3] * 9 + [None, None]
    text = text_of(page_of(tmp_path, methods=[uneven, method("dacs", [0.15, 0.15])]))
    assert re.search(r"sky 20\.0 15\.0", text)
    assert re.search(rf"{CLASSES[9]} 10\.0 15\.0", text)
    assert re.search(rf"{CLASSES[10]} – –", text)


def test_page_of_what_has_hardly_begun(tmp_path: Path) -> None:
    text = text_of(page_of(tmp_path, methods=[{"name": "cag"}], classes=None, palette=None))
    assert "No method has been scored yet." in text
    assert "cag, seed 1: not run yet." in text
    failed = {"seed": 0, "note": "out of memory"}
    text = text_of(page_of(tmp_path, methods=[{"name": "cag", "cells": [failed]}], seeds=None))
    assert "cag, seed 0: out of memory." in text


def test_page_is_self_contained_and_escapes(tmp_path: Path) -> None:
    hostile = method(HOSTILE, [0.3], description=HOSTILE)
    hostile["cells"][0]["run"] = HOSTILE.replace("/", "")
    page = page_of(
        tmp_path,
        name=HOSTILE,
        target=HOSTILE,
        classes=[HOSTILE, *CLASSES[1:]],
        methods=[hostile, {"name": "cag", "question": HOSTILE}],
        notes=[HOSTILE],
        budget={HOSTILE: HOSTILE},
    )
    assert "window.hacked" in page
    assert "<script>window" not in page
    assert "<img src=x" not in page
    assert not re.search(r"https?://|url\(|@import|<link(?! rel=\"icon\")", page)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": []}, "methods"),
        ({"methods": [method("cag", [1.4])]}, "less than or equal to 1"),
        ({"methods": [{"name": "cag"}, {"name": "cag"}]}, "two methods have one name"),
        ({"classes": ["sky"]}, "11 IoUs for 1 classes"),
        ({"palette": [[0, 0, 0]]}, "1 colours for 11 classes"),
        ({"methods": [method("../../up", [0.3])]}, "run"),
    ],
)
def test_comparisons_that_cannot_be_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        write_comparison(write_file(tmp_path, **change))
    assert not (tmp_path / "comparison.html").exists()


def test_command_makes_either_page(tmp_path: Path) -> None:
    write_file(tmp_path)
    run = make_run(tmp_path / "cag-0", STAGES[:2])
    for folder, page in ((tmp_path, "comparison.html"), (run, "report.html")):
        done = CliRunner().invoke(app, ["report", str(folder)])
        assert done.exit_code == 0, done.output
        assert (folder / page).is_file()
        assert not (folder / ("report.html" if folder == tmp_path else "comparison.html")).exists()


def test_command_makes_the_page_of_an_ablation_too(tmp_path: Path) -> None:
    write_file(tmp_path).rename(tmp_path / "ablation.json")
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.output.split() == [str(tmp_path / "ablation.html")]
    assert "from ablation.json" in (tmp_path / "ablation.html").read_text()


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot read"):
        write_comparison(tmp_path / "comparison.json")


def test_figures_do_not_depend_on_the_order_of_seeds(tmp_path: Path) -> None:
    forwards = method("cag", [0.4, 0.46, 0.52])
    backwards = {**forwards, "cells": forwards["cells"][::-1]}
    one, other = (text_of(page_of(tmp_path, methods=[each])) for each in (forwards, backwards))
    assert np.array_equal(one.split("Runs")[0], other.split("Runs")[0])
