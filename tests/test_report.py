"""The page of a run: what it says, that it holds everything, that no run is too poor for it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cag_uda.errors import RunError
from cag_uda.report import write_report

CHROMIUM = Path("/usr/bin/chromium")
CLASSES = [
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
]  # fmt: skip
PALETTE = [
    [70, 130, 180], [70, 70, 70], [192, 192, 128], [128, 64, 128], [244, 35, 232], [107, 142, 35],
    [220, 220, 0], [190, 153, 153], [0, 0, 142], [220, 20, 60], [119, 11, 32],
]  # fmt: skip
STAGES = (
    ("source-only", "source-only", "initial", 900, 0.312),
    ("warm-up", "adversarial", "initial", 600, 0.368),
    ("stage-1", "cag", "warm-up", 400, 0.431),
    ("stage-2", "cag", "stage-1", 400, 0.483),
)


def scene(seed: int, width_px: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A street: image (H, W, 3) uint8 and train ids (H, W) uint8, seen from the driver's seat."""
    rng = np.random.default_rng(seed)
    height_px = width_px * 3 // 4
    y, x = np.mgrid[0 : 1 : height_px * 1j, 0 : 1 : width_px * 1j]
    ids = np.where(y < 0.5, 0, 4).astype(np.uint8)
    centre = 0.5 + rng.uniform(-0.1, 0.1)
    ids[np.abs(x - centre) < 0.5 * (y - 0.42)] = 3
    for left in np.arange(0, 1, 0.12):
        top = rng.uniform(0.08, 0.4) + 0.25 * (np.abs(left + 0.06 - centre) < 0.12)
        ids[(x >= left) & (x < left + 0.12) & (y > top) & (y < 0.58)] = rng.choice([1, 1, 5, 7])
    for kind, wide, high in ((8, 0.2, 0.14), (8, 0.12, 0.1), (9, 0.035, 0.2), (10, 0.05, 0.17)):
        left, bottom = rng.uniform(0.05, 0.8), rng.uniform(0.6, 0.85)
        ids[(x >= left) & (x < left + wide) & (y > bottom - high) & (y < bottom)] = kind
    pole = rng.uniform(0.1, 0.9)
    ids[(np.abs(x - pole) < 0.008) & (y > 0.1) & (y < 0.66)] = 2
    ids[(np.abs(x - pole) < 0.035) & (y > 0.1) & (y < 0.18)] = 6
    dusk = 0.45 + 0.35 * (1 - y[..., None])
    image = (np.array(PALETTE)[ids] * 0.55 + 60) * dusk + rng.normal(0, 9, (*ids.shape, 3))
    return image.clip(0, 255).astype(np.uint8), ids


def coloured(ids: np.ndarray) -> Image.Image:
    return Image.fromarray(np.array(PALETTE, dtype=np.uint8)[ids % len(PALETTE)])


def mistaken(ids: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Labels with about `share` of the picture in blocks of a wrong class."""
    rng = np.random.default_rng(seed)
    wrong = ids.copy()
    height_px, width_px = ids.shape
    for _ in range(round(share * 120)):
        top, left = rng.integers(height_px), rng.integers(width_px)
        block = np.s_[top : top + height_px // 9, left : left + width_px // 9]
        wrong[block] = rng.choice(ids[block].ravel()) if rng.random() < 0.3 else rng.integers(11)
    return wrong


def log_lines(steps: int, seed: int, kinds: tuple[str, ...], miou: float | None) -> str:
    rng = np.random.default_rng(seed)
    lines: list[dict[str, Any]] = []
    for step in range(20, steps + 1, 20):
        noise = 1 + 0.12 * rng.normal(size=len(kinds))
        losses = {
            kind: round(float((2.2 - 0.5 * place) * np.exp(-3 * step / steps) + 0.25) * n, 4)
            for place, (kind, n) in enumerate(zip(kinds, noise, strict=True))
        }
        lines.append({"step": step, "losses": losses, "learning_rate": 0.01,
                      "images_per_s": 12.3, "elapsed_s": step * 0.16})  # fmt: skip
        if miou is not None and step % 200 == 0:
            score = miou * (0.8 + 0.2 * step / steps) + 0.008 * rng.normal()
            lines.append({"step": step, "scores": {"miou": round(float(score), 4)}})
    return "".join(json.dumps(line) + "\n" for line in lines)


def make_run(
    run: Path,
    stages: tuple[tuple[str, str, str, int, float], ...] = STAGES,
    classes: list[str] = CLASSES,
    labels: bool = True,
    width_px: int = 48,
    samples: int = 2,
) -> Path:
    """A finished run such as `cag-uda adapt` leaves behind."""
    run.mkdir()
    listed = []
    for place, (name, method, start, steps, miou) in enumerate(stages):
        folder = run / "stages" / f"{place}-{name}"
        (folder / "samples").mkdir(parents=True)
        rng = np.random.default_rng(place)
        spread = miou + 0.42 * np.linspace(1, -0.6, len(classes)) + 0.03 * rng.normal(size=11)
        iou: list[float | None] = [round(float(v), 4) for v in spread.clip(0, 0.97)]
        iou[-1] = None if place < 2 else iou[-1]
        points = 100 * (miou - stages[0][4])
        gain = {"over": "source-only", "points": points, "low": points - 1.9, "high": points + 2.1}
        listed.append({
            "folder": folder.name, "name": name, "method": method, "start": start, "steps": steps,
            "elapsed_s": steps * 0.17, "miou": miou if labels else None,
            "iou": iou if labels else None,
        } | ({"gain": gain} if place and labels else {}))  # fmt: skip
        kinds = ("source/ce",) if place < 1 else ("source/ce", "target/ce", "target/anchor")
        (folder / "metrics.jsonl").write_text(
            log_lines(steps, place, kinds, miou if labels else None)
        )
        if method == "cag":
            (folder / "pseudo_labels.json").write_text(json.dumps(pseudo_labels(place, labels)))
        for sample in range(samples):
            _, ids = scene(sample, width_px)
            wrong = mistaken(ids, 0.9 - 1.5 * miou, seed=17 * sample)
            coloured(wrong).save(folder / "samples" / f"{sample}.png")
    for sample in range(samples):
        folder = run / "samples" / str(sample)
        folder.mkdir(parents=True)
        image, ids = scene(sample, width_px)
        Image.fromarray(image).save(folder / "image.jpg", quality=92)
        if labels:
            coloured(ids).save(folder / "truth.png")
    scores = {"recipe": "camvid-day-dusk", "source": "camvid-day/train",
              "target": "camvid-dusk/test" if labels else None,
              "classes": classes, "palette": PALETTE, "stages": listed}  # fmt: skip
    (run / "scores.json").write_text(json.dumps(scores))
    recipe = "".join(
        f'\n[[stages]]\nname = "{name}"\nmethod = "{method}"\nsteps = {steps}\n'
        for name, method, _, steps, _ in stages
    )
    (run / "recipe.toml").write_text(f'name = "camvid-day-dusk"\nseed = 0\n{recipe}')
    (run / "environment.json").write_text(
        json.dumps({"command": ["cag-uda", "adapt", "r.toml"], "packages": {"numpy": "2.1"}})
    )
    return run


def pseudo_labels(place: int, labels: bool) -> dict[str, Any]:
    def kind(precision: float, coverage: float) -> dict[str, Any]:
        rows = {
            "precision": [precision - 0.03 * c if labels else None for c in range(11)],
            "coverage": [coverage - 0.02 * c for c in range(11)],
        }
        return {"precision": precision if labels else None, "coverage": coverage, "per_class": rows}

    return {
        "anchor": kind(0.76 + 0.02 * place, 0.41 + 0.04 * place),
        "confidence": kind(0.72 + 0.02 * place, 0.38 + 0.05 * place),
    }


def edit_scores(run: Path, **changes: object) -> None:
    scores = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps(scores | changes))


def text_of(page: str) -> str:
    """What a reader sees: no tags, styles or scripts, single spaces."""
    body = re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


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
    # Stage 2 added 5.2 of the 17.1 points; the shares of the lineage are 33, 37 and 30 %.
    assert re.search(r"stage-2 delivered.{0,30}48\.3 % \+5\.2 30 %", text)


def test_page_is_self_contained(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") + page.count("data:image/png") == 2 * (2 + len(STAGES))
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    targets = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", markup)
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"https?://|url\(|@import|<link(?! rel=\"icon\")", page)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r'id="([^"]+)"', page))


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


def test_oracle_is_a_yardstick_and_not_what_is_delivered(tmp_path: Path) -> None:
    stages = (*STAGES, ("oracle", "oracle", "initial", 900, 0.654))
    text = text_of(write_report(make_run(tmp_path / "run", stages)).read_text(encoding="utf-8"))
    assert "It worked: 48.3" in text
    assert re.search(r"Gap to the oracle closed 50 %", text)


def test_target_without_labels(unlabelled: Path) -> None:
    page = write_report(unlabelled).read_text(encoding="utf-8")
    text = text_of(page)
    assert "the target has no labels" in text
    assert "target without labels" in text
    assert "nan" not in text.lower().split()
    assert "None" not in text
    # Coverage needs no labels, and the pictures are there.
    assert "% of all pixels that are labelled" in text
    assert "that are right" not in text
    assert page.count("data:image/") == 2 * (1 + len(STAGES))


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
    (run / "samples" / "0" / "image.jpg").write_bytes(b"no image")
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("data:image/") == 2 * (2 + len(STAGES)) - 1
    text = text_of(page)
    assert "source/ce was not a number at step 20." in text
    assert "2-stage-1/pseudo_labels.json" in text
    assert "1 picture left out" in text


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("no chromium to open the page with")
    flags = "--no-sandbox --disable-gpu --disable-background-networking"
    flags += " --disable-component-update --disable-sync"
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=flags.split())
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width_px", [1280, 390])
def test_page_in_a_browser(run: Path, browser: Any, width_px: int) -> None:
    page = browser.new_page(viewport={"width": width_px, "height": 800})
    faults: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    report = write_report(run)
    page.goto(report.as_uri())
    for details in page.locator("summary").all():
        details.click()
    width = page.evaluate("document.documentElement.scrollWidth")

    chart = page.locator(".chart:has(.value)").filter(has_text="source-only").last
    at_end = chart.locator(".value").first.text_content()
    chart.locator(".area").hover(position={"x": 10, "y": 50})
    assert chart.locator(".value").first.text_content() != at_end
    page.locator(".picture").first.click()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer span").text_content().startswith("source-only")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()

    assert width <= width_px
    assert faults == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    page.close()
